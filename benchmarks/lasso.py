#!/usr/bin/env python
"""Train TRLs with a tensor lasso, and remove the components that it took to zero.

python benchmarks/lasso.py            # trains, then writes results/compression/lasso.csv, lasso.md

The digits of configs/mnist, its backbone and recipe; a head of weight-normalised factors between
batch normalisations, larger than needed, and penalties λ Σ |g| on the lengths g of its components.
A truncated layer computes the same: 'differs' is the largest difference of its outputs, for the
validation images, in proportion to the largest output. A stopped measurement resumes.
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

PENALTIES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
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
    """Train every head with every penalty, and truncate it."""
    from trnet.reproduce import train_missing

    keys = [(head, penalty, seed) for head in HEADS for penalty in PENALTIES for seed in SEEDS]
    configs = [make_config(*key) for key in keys]
    results = train_missing(configs, runs, "cpu")
    for (head, penalty, seed), chosen, result in zip(keys, configs, results):
        row = {"head": head, "lasso": penalty, "seed": seed, "top1": round(result["top1"], 4)}
        yield {**row, **truncated(chosen, runs)}


def make_config(head: str, penalty: float, seed: int) -> Config:
    """The experiment: the recipe of configs/mnist with another head and a penalty."""
    path = "configs/mnist/vgg_trl_16.yaml"
    values = config.load(path).model_dump(exclude={"tune", "baseline", "name", "suite", "seed"})
    values["model"]["head"] = {"type": "trl", "norm": True, "weight_norm": True, **HEADS[head]}
    values["train"].update(lasso=penalty, learning_rate=RATE)
    name = f"{head.replace(' ', '_')}_{penalty:g}"
    return Config.model_validate({**values, "suite": "lasso", "name": name, "seed": seed})


def truncated(chosen: Config, runs: Path) -> dict:
    """The rank and the weights of a trained head without dead components, and what that changes."""
    import mxnet as mx

    from trnet import TRL, experiment
    from trnet.run_folder import run_folder
    from trnet.training import checkpoint

    dataset = experiment.find_dataset(chosen)
    network, source = experiment.build(chosen, dataset), experiment.load(chosen, dataset)
    saved = checkpoint.latest(run_folder(runs, chosen) / "checkpoints")
    checkpoint.load_network(saved, network, [mx.cpu()])
    norm, layer, _ = network.output._children.values()
    assert isinstance(layer, TRL)
    less, differs = layer.truncated(), 0.0
    for images, _ in source.validation(chosen.train.batch_size):
        x = norm(network.features(images))
        ours, whole = less(x).asnumpy(), layer(x).asnumpy()
        differs = max(differs, float(np.abs(ours - whole).max() / np.abs(whole).max()))
    rank = "×".join(map(str, less.rank)) if isinstance(less.rank, tuple) else less.rank
    return {
        "rank": rank,
        "weights": less.factorization.size,
        "of": layer.factorization.size,
        "differs": f"{differs:.1e}",
    }


def table(rows: list[dict]) -> str:
    """A row per head and penalty: means over the seeds, and the rank of the first."""
    lines = []
    for head, penalty in dict.fromkeys((row["head"], row["lasso"]) for row in rows):
        of = [row for row in rows if (row["head"], row["lasso"]) == (head, penalty)]
        top1, weights = (np.array([row[key] for row in of]) for key in ("top1", "weights"))
        lines.append(
            [
                head,
                f"{penalty:g}",
                of[0]["rank"],
                f"{weights.mean():,.0f}".replace(",", " "),
                f"{100 * (1 - (weights / of[0]['of']).mean()):.1f}",
                f"{100 * top1.mean():.2f}",
                f"{100 * top1.min():.1f} to {100 * top1.max():.1f}",
                max((row["differs"] for row in of), key=float),
            ]
        )
    heading = ["Head", "λ", "rank that is left, seed 0", "weights", "fewer, %", "Top-1, %"]
    heading += ["of three seeds", "differs"]
    laid_out = tabulate.tabulate(lines, heading, "pipe", disable_numparse=True)
    return (
        "# What a tensor lasso leaves of a head\n\n"
        "4 000 digits; weights of the core and factors, mean of three seeds. By\n"
        "`python benchmarks/lasso.py`, which says what is trained.\n\n"
        f"{laid_out}\n"
    )


if __name__ == "__main__":
    main()
