#!/usr/bin/env python
"""Train TRLs with a tensor lasso, and cut the components that it made small.

python benchmarks/lasso.py            # trains, then writes results/compression/lasso.csv, lasso.md

The digits of configs/mnist, its backbone and recipe; a head larger than needed, and λ times the
nuclear norms of the unfoldings of W, or the norms of a CP weight's terms. Then components below
a share of the largest are cut (`TRL.truncated`), with no training after it. A stopped measurement
resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tabulate
from timing import write_csv

from trnet import config
from trnet.config import Config

PENALTIES = (0.0, 0.1, 0.3, 1.0)
TOLERANCES = (0.1, 0.2)
HEADS = {
    "Tucker": {"rank": [16, 6, 6, 10]},
    "CP": {"factorization": "cp", "rank": 40},
    "tensor train": {"factorization": "tensor_train", "rank": [16, 20, 10]},
}
SEEDS = range(3)
RATE = 0.05


def main() -> None:
    """Parse the arguments, train, and write the tables."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--runs", type=Path, default=Path("runs/lasso"))
    arguments.add_argument("--results", type=Path, default=Path("results/compression"))
    options = arguments.parse_args()
    rows = list(measure(options.runs))
    write_csv(options.results / "lasso.csv", rows)
    (options.results / "lasso.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def measure(runs: Path) -> Iterator[dict]:
    """Train every head with every penalty, and truncate it at every tolerance."""
    from trnet.errors import UserError
    from trnet.reproduce import train_missing

    keys = [(head, penalty, seed) for head in HEADS for penalty in PENALTIES for seed in SEEDS]
    configs = [make_config(*key) for key in keys]
    outcomes = train_missing(configs, runs, "cpu")
    for (head, penalty, seed), chosen, result in zip(keys, configs, outcomes):
        if isinstance(result, UserError):
            raise result
        for row in truncated(chosen, runs):
            key = {"head": head, "lasso": penalty, "seed": seed, "trained": result["top1"]}
            yield {**key, **row}


def make_config(head: str, penalty: float, seed: int) -> Config:
    """The experiment: the recipe of configs/mnist with another head and a penalty."""
    path = "configs/mnist/vgg_trl_16.yaml"
    values = config.load(path).model_dump(exclude={"tune", "baseline", "name", "suite", "seed"})
    values["model"]["head"] = {"type": "trl", **HEADS[head]}
    values["train"].update(lasso=penalty, learning_rate=RATE)
    name = f"{head.replace(' ', '_')}_{penalty:g}"
    return Config.model_validate({**values, "suite": "lasso", "name": name, "seed": seed})


def truncated(chosen: Config, runs: Path) -> Iterator[dict]:
    """A trained head, cut at every tolerance: its rank, its weights and its Top-1."""
    from trnet import experiment
    from trnet.run_folder import run_folder
    from trnet.tensor.backend import mx
    from trnet.training import checkpoint

    dataset = experiment.find_dataset(chosen)
    network, source = experiment.build(chosen, dataset), experiment.load(chosen, dataset)
    saved = checkpoint.latest(run_folder(runs, chosen) / "checkpoints")
    checkpoint.load_network(saved, network, [mx.cpu()])
    batches = [
        (network.features(images), labels.asnumpy())
        for images, labels in source.validation(chosen.train.batch_size)
    ]
    for tolerance in TOLERANCES:
        layer = network.output.truncated(tolerance)
        hits = [layer(x).asnumpy().argmax(axis=1) == labels for x, labels in batches]
        yield {
            "tolerance": tolerance,
            "rank": "×".join(map(str, layer.rank)) if isinstance(layer.rank, tuple) else layer.rank,
            "weights": layer.factorization.size,
            "of": network.output.factorization.size,
            "top1": round(float(np.concatenate(hits).mean()), 4),
        }


def table(rows: list[dict]) -> str:
    """A row per head and penalty: means over the seeds, and the rank of the first."""
    lines = []
    for head, penalty in dict.fromkeys((row["head"], row["lasso"]) for row in rows):
        of = [row for row in rows if (row["head"], row["lasso"]) == (head, penalty)]
        line = [head, f"{penalty:g}", f"{100 * np.mean([row['trained'] for row in of]):.2f}"]
        for tolerance in TOLERANCES:
            cut = [row for row in of if row["tolerance"] == tolerance]
            fewer, top1 = (
                100 * np.mean([share(row) for row in cut])
                for share in (lambda row: 1 - row["weights"] / row["of"], lambda row: row["top1"])
            )
            line += [cut[0]["rank"], f"{fewer:.1f}", f"{top1:.2f}"]
        lines.append(line)
    heading = ["Head", "λ", "Top-1, %"]
    for tolerance in TOLERANCES:
        heading += [f"rank, cut at {100 * tolerance:.0f} %", "fewer weights, %", "Top-1, %"]
    align = ["left", *["right"] * (len(heading) - 1)]
    laid_out = tabulate.tabulate(lines, heading, "pipe", colalign=align, disable_numparse=True)
    return (
        "# What a tensor lasso leaves of a head\n\n"
        "4 000 digits to train on, 1 000 to test; mean of three seeds, the rank of seed 0. Cut:\n"
        "without singular values, or terms, below a share of the largest. By\n"
        "`python benchmarks/lasso.py`, which says what is trained.\n\n"
        f"{laid_out}\n"
    )


if __name__ == "__main__":
    main()
