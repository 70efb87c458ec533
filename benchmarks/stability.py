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
import re
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

Measured = dict[tuple[str, str, float], list[float]]

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = range(5)
FAILS_BELOW = 0.2
NOT_MEASURED = "Not measured."

UNSCALED = ("dense", "tcl")  # heads whose training did not change
LABELS = {"before": "plain gradients", "after": "scaled gradients"}
KINDS = {  # title, and the kind of head whose look it has
    "dense": ("dense", "dense"),
    "tcl": ("TCL", "TCL"),
    "tucker": ("Tucker", "TRL"),
    "cp": ("CP", "TRL, CP"),
    "tensor_train": ("tensor train", "TRL, tensor train"),
}
INTRODUCTION = """# Runs that fail, by learning rate

Of five seeds, trained for two epochs by `python benchmarks/stability.py`, which says what fails.
The networks: slim_resnet and small_vgg2 on 6 000 and 12 000 images of Fashion-MNIST, small_vgg2
on 1 000 digits of MNIST with batches of 20. 'Plain gradients' are Gluon's trainer and the start of
trnet before its scaled gradients.
"""

# Of each network: the config whose recipe is used, but for what its suite tunes, the weight decay
# here, and how many images it is trained on. An epoch is shortened, not the number of epochs.
NETWORKS = {
    "slim_resnet": ("configs/fashion_mnist/rank/flat.yaml", 0.001, 6_000),
    "small_vgg2": ("configs/fashion_mnist/factorization/dense.yaml", 0.001, 12_000),
    "few samples": ("configs/few_samples/dense_100.yaml", 0.005, 1_000),
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

# Other ways to train TRLs of a middle rank: changes of the head, and of the recipe
ALTERNATIVES = {
    "plain": ({"type": "plain"}, {}),
    "learning rates 1/σ²": ({"type": "static"}, {}),
    "clipped": ({"type": "plain"}, {"clip_gradient": 1.0}),
    "Adam": ({"type": "plain"}, {"optimizer": "adam"}),
    "the authors' norms": ({"type": "trl", "norm": True, "weight_norm": True}, {}),
    "scaled": ({"type": "trl"}, {}),
}
_MIDDLE = ("tucker 8", "cp 20", "tensor_train 10")
# Adam's steps have the length of its rate in every parameter: its usual rates are these.
_ADAM = 0.01
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
    arguments.add_argument("--alternatives", action="store_true", help="train these, instead")
    arguments.add_argument("--report", action="store_true")
    options = arguments.parse_args()
    if options.report:
        report(options.results)
        return
    if options.alternatives:
        heads = [f"{head}, {way}" for head in _MIDDLE for way in ALTERNATIVES]
        heads.append("dense, Adam")
        measure("few samples", heads, options.results / "alternatives.csv", options.runs)
        return
    for network in options.networks:
        wanted = [h for h in HEADS[network] if not options.heads or h.split()[0] in options.heads]
        file = options.results / f"{options.trained_by}.csv"
        measure(network, wanted, file, options.runs)


def measure(network: str, heads: Sequence[str], file: Path, runs: Path) -> None:
    """Train what has no row yet, a head at a time, and add the rows to the CSV file."""
    from trnet.errors import Diverged, UserError
    from trnet.reproduce import train_missing

    rows = read_csv(file)
    known = {(row["network"], row["head"], float(row["rate"]), int(row["seed"])) for row in rows}
    for head in heads:
        keys = [(r, s) for r in RATES for s in SEEDS if (network, head, r, s) not in known]
        if not keys:
            continue
        configs = [make_config(network, head, rate, seed) for rate, seed in keys]
        outcomes = train_missing(configs, runs / file.stem, "cpu")
        for (rate, seed), outcome in zip(keys, outcomes):
            if isinstance(outcome, UserError) and not isinstance(outcome, Diverged):
                raise outcome
            top1 = "" if isinstance(outcome, Diverged) else round(outcome["top1"], 4)
            row = {"network": network, "head": head, "rate": rate, "seed": seed, "top1": top1}
            rows.append(row)
        write_csv(file, rows)


def make_config(network: str, head: str, rate: float, seed: int) -> Config:
    """The experiment: a network's own recipe with another head, rate and seed, for two epochs."""
    path, weight_decay, samples = NETWORKS[network]
    values = config.load(path).model_dump(exclude={"tune", "baseline", "name", "suite", "seed"})
    head, _, way = head.partition(", ")
    changed_head, changed_recipe = ALTERNATIVES.get(way, ({}, {}))
    if head == "dense":
        changed_head = {}
    learning_rate = rate * _ADAM if way == "Adam" else rate
    recipe = {"epochs": 2, "learning_rate": learning_rate, "weight_decay": weight_decay}
    values["dataset"]["samples"] = samples
    values["model"]["head"] = {**HEADS[network][head], **changed_head}
    values["train"] = {**values["train"], **recipe, **changed_recipe}
    values["plugins"] = ["alternatives"] if way else []
    name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{head} {way} at {rate:g}")
    suite = f"stability/{network.replace(' ', '_')}"
    return Config.model_validate({**values, "name": name, "suite": suite, "seed": seed})


def report(folder: Path) -> None:
    """Write the tables of failures and their plot."""
    measured = {label: top1s(read_csv(folder / f"{label}.csv")) for label in LABELS}
    others = top1s(read_csv(folder / "alternatives.csv"))
    text = f"{INTRODUCTION}{tables(measured)}{alternatives_table(others, measured['after'])}"
    (folder / "table.md").write_text(text, encoding="utf-8")
    plot(measured, folder / "failures.png")
    print(f"Written to {folder / 'table.md'} and {folder / 'failures.png'}")


def top1s(rows: Sequence[dict]) -> Measured:
    """Top-1 of every seed, 0 where it diverged, by network, head and rate."""
    measured = defaultdict(list)
    for row in rows:
        measured[row["network"], row["head"], float(row["rate"])].append(float(row["top1"] or 0))
    return dict(measured)


def failures(seeds: Sequence[float]) -> int:
    """How many of the seeds' runs fail."""
    return sum(top1 < FAILS_BELOW for top1 in seeds)


def row_of(name: str, measured: Measured, network: str, head: str) -> list[str]:
    """A row of a table: failures at every rate, and the best mean Top-1, in percent."""
    seeds = [measured[network, head, rate] for rate in RATES]
    best = max(sum(top1s) / len(top1s) for top1s in seeds)
    return [name, *(f"{failures(top1s)}" for top1s in seeds), f"{100 * best:.1f}"]


def tables(measured: dict[str, Measured]) -> str:
    """Per network, failures of five seeds with a row per head and a column per rate."""
    text = ""
    for network, heads in HEADS.items():
        rows = []
        for head in heads:
            for label, of_label in measured.items():
                if (network, head, RATES[0]) in of_label:
                    is_scaled = head.split()[0] not in UNSCALED
                    name = f"{head}, {LABELS[label]}" if is_scaled else head
                    rows.append(row_of(name, of_label, network, head))
        found = (
            f"{_markdown(rows)}\n{verdict(network, measured['after'])}" if rows else NOT_MEASURED
        )
        text += f"\n## {network}\n\n{found}\n"
    return text


def alternatives_table(others: Measured, after: Measured) -> str:
    """The same for other ways to train a TRL, beside the dense head by SGD and by Adam."""
    network = "few samples"
    rows = [row_of("dense", after, network, "dense")]
    heads = dict.fromkeys(head for _, head, _ in others)
    rows += [row_of(head, others, network, head) for head in heads]
    note = f"Adam's rates are these times {_ADAM:g}; gradients are clipped at a norm of 1."
    found = _markdown(rows) if heads else f"{NOT_MEASURED}\n"
    return f"\n## Other ways, on few samples\n\n{note}\n\n{found}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    header = ["Head", *map(str, RATES), "best Top-1, %"]
    align = ["left", *["right"] * (len(header) - 1)]
    return tabulate.tabulate(rows, header, tablefmt="pipe", colalign=align) + "\n"


def verdict(network: str, measured: Measured) -> str:
    """Whether every TRL trains wherever the dense head does, in all seeds."""
    safe = [rate for rate in RATES if not failures(measured[network, "dense", rate])]
    trls = [head for head in HEADS[network] if head.split()[0] not in UNSCALED]
    missing = [head for head in trls if (network, head, RATES[0]) not in measured]
    broken = [
        f"{head} at {rate} ({failures(measured[network, head, rate])} of 5)"
        for head in trls
        if head not in missing
        for rate in safe
        if failures(measured[network, head, rate])
    ]
    rates = ", ".join(map(str, safe))
    if broken:
        text = f"The dense head trains in all seeds at {rates}. There fail: {'; '.join(broken)}."
    else:
        text = (
            f"At every rate at which the dense head trains in all seeds ({rates}), every TRL does."
        )
    return f"{text} Not measured: {', '.join(missing)}." if missing else text


def plot(measured: dict[str, Measured], file: Path) -> None:
    """Share of runs that fail against the rate, of all ranks together; a column per network."""
    from trnet.report import style  # not at the top: the trnet of 'before' has none

    plt.rcParams.update(style.STYLE)
    networks = [name for name in NETWORKS if (name, "dense", RATES[0]) in measured["after"]]
    figure, grid = plt.subplots(
        len(LABELS),
        len(networks),
        figsize=(style.WIDTH, 5.5),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panels, (label, gradients) in zip(grid, LABELS.items()):
        for panel, network in zip(panels, networks):
            for kind, (title, alike) in KINDS.items():
                of = measured["after" if kind in UNSCALED else label]
                shares = [_share(of, network, kind, rate) for rate in RATES]
                if None in shares:
                    continue
                marker, color, line = style.KINDS[alike]
                # Hollow, because many markers share a place.
                panel.plot(RATES, shares, line, marker=marker, color=color, mfc="none", label=title)
            panel.set(xscale="log", ylim=(-6, 106))
            panel.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        panels[0].set_ylabel(f"{gradients}\nruns that fail, %")
    for top, bottom, network in zip(grid[0], grid[-1], networks):
        top.set_title(network)
        bottom.set_xlabel("learning rate")
    figure.legend(
        *grid[-1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(KINDS)
    )
    figure.savefig(file)
    plt.close(figure)


def _share(measured: Measured, network: str, kind: str, rate: float) -> float | None:
    runs = [
        top1
        for (of, head, at), seeds in measured.items()
        if (of, head.split()[0], at) == (network, kind, rate)
        for top1 in seeds
    ]
    return 100 * failures(runs) / len(runs) if runs else None


if __name__ == "__main__":
    main()
