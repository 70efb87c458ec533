#!/usr/bin/env python
"""Train heads at learning rates from 0.01 to 1, and count the runs that fail.

python benchmarks/stability.py                      # trains, into results/stability/after.csv
python benchmarks/stability.py --trained-by before  # the same, with another checkout of trnet
python benchmarks/stability.py --report             # table.md and failures.png, of these files

Every head is trained for two epochs from five seeds. A run fails if its loss is not finite, or if
it classifies fewer than a fifth of the images correctly, which is twice chance. The heads of a
network share the recipe of its suite. A stopped measurement resumes.

'before' is trnet as it was without scaled gradients; Python takes the package from PYTHONPATH::

    git worktree add ../before a67820d
    PYTHONPATH=../before python benchmarks/stability.py --trained-by before
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import tabulate
from timing import read_csv, write_csv

from trnet import config
from trnet.config import Config

matplotlib.use("Agg")

from matplotlib import pyplot as plt

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = range(5)
FAILS_BELOW = 0.2

UNSCALED = ("dense", "tcl")  # heads whose training did not change
LABELS = {"before": "plain gradients", "after": "scaled gradients"}
KINDS = {  # title, colour (Okabe and Ito's, told apart by colour-blind readers) and marker
    "dense": ("dense", "black", "o"),
    "tcl": ("TCL", "#E69F00", "s"),
    "tucker": ("Tucker", "#0072B2", "^"),
    "cp": ("CP", "#D55E00", "v"),
    "tensor_train": ("tensor train", "#009E73", "D"),
}
INTRODUCTION = """# Runs that fail, by learning rate

Of five seeds, trained for two epochs by `python benchmarks/stability.py`, which says what fails.
The networks: slim_resnet and small_vgg2 on 6 000 and 12 000 images of Fashion-MNIST, small_vgg2
on 1 000 digits of MNIST with batches of 20. 'Plain gradients' are Gluon's trainer and the start of
trnet before its scaled gradients.
"""

# Of each network: the config whose recipe is used, and how many images it is trained on. An epoch
# is shortened, not the number of epochs.
NETWORKS = {
    "slim_resnet": ("configs/fashion_mnist/rank/flat.yaml", 6_000),
    "small_vgg2": ("configs/fashion_mnist/factorization/dense.yaml", 12_000),
    "few samples": ("configs/few_samples/dense_100.yaml", 1_000),
}
_DENSE = {"dense": {"type": "dense", "hidden": []}}
_VGG_HEADS = {  # for (32, 7, 7) -> 10
    **_DENSE,
    **{
        f"tcl {r}": {"type": "tcl", "rank": [r, s, s], "hidden": []}
        for r, s in ((6, 4), (12, 5), (20, 6))
    },
    "tucker 4": {"type": "trl", "rank": [4, 2, 2, 6]},
    "tucker 8": {"type": "trl", "rank": [8, 4, 4, 10]},
    "tucker 16": {"type": "trl", "rank": [16, 6, 6, 10]},
    **{f"cp {r}": {"type": "trl", "factorization": "cp", "rank": r} for r in (6, 20, 44)},
    "tensor_train 4": {"type": "trl", "factorization": "tensor_train", "rank": [4, 4, 4]},
    "tensor_train 10": {"type": "trl", "factorization": "tensor_train", "rank": [10, 10, 8]},
    "tensor_train 16": {"type": "trl", "factorization": "tensor_train", "rank": [16, 21, 10]},
}
_RESNET_HEADS = {  # for (192, 7, 7) -> 10
    **_DENSE,
    **{
        f"tcl {r}": {"type": "tcl", "rank": [r, s, s], "hidden": []}
        for r, s in ((24, 3), (64, 5), (128, 6))
    },
    "tucker 3": {"type": "trl", "rank": [3, 2, 2, 3]},
    "tucker 10": {"type": "trl", "rank": [10, 3, 3, 10]},
    "tucker 51": {"type": "trl", "rank": [51, 5, 5, 10]},
    **{f"cp {r}": {"type": "trl", "factorization": "cp", "rank": r} for r in (6, 20, 60)},
    "tensor_train 4": {"type": "trl", "factorization": "tensor_train", "rank": [4, 4, 4]},
    "tensor_train 12": {"type": "trl", "factorization": "tensor_train", "rank": [12, 16, 8]},
    "tensor_train 32": {"type": "trl", "factorization": "tensor_train", "rank": [32, 40, 10]},
}
HEADS = {"slim_resnet": _RESNET_HEADS, "small_vgg2": _VGG_HEADS, "few samples": _VGG_HEADS}


def main() -> None:
    """Parse the arguments; train, or report."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--trained-by", default="after", metavar="LABEL")
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments.add_argument("--heads", nargs="+", metavar="KIND", help="such as dense, tcl or cp")
    arguments.add_argument("--runs", type=Path, default=Path("runs/stability"))
    arguments.add_argument("--results", type=Path, default=Path("results/stability"))
    arguments.add_argument("--report", action="store_true")
    options = arguments.parse_args()
    if options.report:
        report(options.results)
        return
    for network in options.networks:
        wanted = [
            (head, rate, seed)
            for head in HEADS[network]
            if not options.heads or head.split()[0] in options.heads
            for rate in RATES
            for seed in SEEDS
        ]
        measure(network, wanted, options)


def measure(network: str, wanted: Sequence[tuple], options: argparse.Namespace) -> None:
    """Train what has no row yet, a head at a time, and add the rows to the CSV file."""
    from trnet.reproduce import train_missing

    file = options.results / f"{options.trained_by}.csv"
    rows = read_csv(file) if file.is_file() else []
    known = {(row["network"], row["head"], float(row["rate"]), int(row["seed"])) for row in rows}
    missing = [key for key in wanted if (network, *key) not in known]
    for head in dict.fromkeys(head for head, _, _ in missing):
        keys = [key for key in missing if key[0] == head]
        configs = [make_config(network, *key) for key in keys]
        folder = options.runs / options.trained_by
        results = train_missing(configs, folder, "cpu", may_diverge=True)
        for (_, rate, seed), result in zip(keys, results):
            top1 = "" if result is None else round(result["top1"], 4)
            row = {"network": network, "head": head, "rate": rate, "seed": seed, "top1": top1}
            rows.append(row)
        write_csv(file, rows)


def make_config(network: str, head: str, rate: float, seed: int) -> Config:
    """The experiment: a network's own recipe with another head, rate and seed, for two epochs."""
    path, samples = NETWORKS[network]
    values = config.load(path).model_dump(exclude={"tune", "baseline", "name", "suite", "seed"})
    values["dataset"]["samples"] = samples
    values["model"]["head"] = HEADS[network][head]
    values["train"] = {**values["train"], "epochs": 2, "learning_rate": rate}
    name = f"{head}_at_{rate}".replace(" ", "_")
    suite = f"stability/{network.replace(' ', '_')}"
    return Config.model_validate({**values, "name": name, "suite": suite, "seed": seed})


def report(folder: Path) -> None:
    """Write the table of failures and its plot."""
    failures = {file.stem: count(read_csv(file)) for file in sorted(folder.glob("*.csv"))}
    (folder / "table.md").write_text(table(failures), encoding="utf-8")
    plot(failures, folder / "failures.png")
    print(f"Written to {folder / 'table.md'} and {folder / 'failures.png'}")


def count(rows: Sequence[dict]) -> dict[tuple[str, str, float], list[bool]]:
    """Whether each seed's run fails, by network, head and rate."""
    failed = defaultdict(list)
    for row in rows:
        top1 = float(row["top1"] or 0)
        failed[row["network"], row["head"], float(row["rate"])].append(top1 < FAILS_BELOW)
    return failed


def table(failures: dict[str, dict]) -> str:
    """Failures of five seeds: per network a table with a row per head and a column per rate."""
    text = f"{INTRODUCTION}\n"
    for network, heads in HEADS.items():
        rows = []
        for head in heads:
            for label, failed in failures.items():
                if not any((network, head, rate) in failed for rate in RATES):
                    continue
                name = head if head.split()[0] in UNSCALED else f"{head}, {LABELS[label]}"
                cells = [failed.get((network, head, rate)) for rate in RATES]
                rows.append([name, *("" if c is None else f"{sum(c)}" for c in cells)])
        text += f"\n## {network}\n\n"
        text += tabulate.tabulate(rows, ["Head", *map(str, RATES)], tablefmt="pipe") + "\n"
        text += f"\n{verdict(network, failures['after'])}\n"
    return text


def verdict(network: str, failed: dict) -> str:
    """Whether every TRL trains wherever the dense head does, in all seeds."""
    safe = [rate for rate in RATES if not any(failed[network, "dense", rate])]
    trls = [head for head in HEADS[network] if head.split()[0] not in UNSCALED]
    broken = [
        f"{head} at {rate} ({sum(failed[network, head, rate])} of 5)"
        for head in trls
        for rate in safe
        if any(failed[network, head, rate])
    ]
    rates = ", ".join(map(str, safe))
    if broken:
        return f"The dense head trains in all seeds at {rates}. There fail: {'; '.join(broken)}."
    return f"At every rate at which the dense head trains in all seeds ({rates}), every TRL does."


def plot(failures: dict[str, dict], file: Path) -> None:
    """Share of runs that fail against the rate, of all ranks together; one panel per network."""
    figure, panels = plt.subplots(1, len(NETWORKS), figsize=(10, 3.6), sharey=True)
    for panel, network in zip(panels, NETWORKS):
        for kind, (title, colour, marker) in KINDS.items():
            for label in ("before", "after"):
                shares = [_share(failures.get(label, {}), network, kind, rate) for rate in RATES]
                if None in shares:
                    continue
                is_new = label == "after"
                name = title if kind in UNSCALED else f"{title}, {LABELS[label]}"
                style = {"linestyle": "-" if is_new else ":", "alpha": 1 if is_new else 0.7}
                panel.plot(RATES, shares, color=colour, marker=marker, label=name, **style)
        panel.set(xscale="log", title=network, xlabel="learning rate", ylim=(-4, 104))
        panel.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("runs that fail, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _share(failed: dict, network: str, kind: str, rate: float) -> float | None:
    runs = [
        is_failure
        for (of, head, at), seeds in failed.items()
        if (of, head.split()[0], at) == (network, kind, rate)
        for is_failure in seeds
    ]
    return 100 * sum(runs) / len(runs) if runs else None


if __name__ == "__main__":
    main()
