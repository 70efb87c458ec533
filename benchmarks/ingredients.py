#!/usr/bin/env python
"""Measure what each ingredient of a compression is worth: Top-1 with no training.

python benchmarks/ingredients.py runs/mnist/vgg/seed0 runs/mnist/vgg/seed1 runs/mnist/vgg/seed2

The head of each trained network is decomposed: by its weight alone; with a bias that takes up the
mean of what is left; in the metric of the activations; with the last map fitted again to them; and
with class scores compared as the softmax sees them. `trnet compress` does the last but one, and
with --weigh-classes the last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tabulate
from timing import write_csv

from trnet.tensor import fitting
from trnet.tensor.factorizations import FACTORIZATIONS, Factorization

IMAGES = 2000
HEADS = {  # for (32, 7, 7) -> 10
    "Tucker": ("tucker", ((4, 2, 2, 6), (6, 3, 3, 8), (8, 4, 4, 10))),
    "CP": ("cp", (10, 20, 30)),
    "tensor train": ("tensor_train", ((3, 4, 4), (5, 8, 6), (10, 10, 8))),
}
INGREDIENTS = ("weight", "and bias", "activations", "least squares", "classes")


def main() -> None:
    """Parse the arguments, measure, and write ingredients.csv and ingredients.md."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("runs", type=Path, nargs="+", help="run folders of dense networks")
    arguments.add_argument("--results", type=Path, default=Path("results/compression"))
    options = arguments.parse_args()
    rows = [row for run in options.runs for row in measure(run)]
    options.results.mkdir(parents=True, exist_ok=True)
    write_csv(options.results / "ingredients.csv", rows)
    (options.results / "ingredients.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def measure(run: Path) -> Iterator[dict]:
    """Top-1 of a run's network with each head, by ingredient."""
    from trnet import compression, experiment
    from trnet.tensor.backend import mx

    chosen = compression.open_donor(run, [])
    network, batches = experiment.activations(chosen, IMAGES, [mx.cpu()])
    batches = [batch.asnumpy() for batch in batches]
    source = experiment.load(chosen, experiment.find_dataset(chosen))
    scored = [
        (network.features(images).asnumpy(), labels.asnumpy())
        for images, labels in source.validation(chosen.train.batch_size)
    ]
    (dense,) = (block for block in network.output._children.values() if hasattr(block, "weight"))
    matrix, bias = dense.weight.data().asnumpy(), dense.bias.data().asnumpy()
    weight = matrix.T.reshape(*batches[0].shape[1:], -1)
    key = {"run": f"{chosen.suite}/{chosen.name}", "seed": chosen.seed}
    yield {**key, "head": "dense", "rank": "", "with": "", "top1": _top1(scored, weight, bias)}
    for kind, (form, ranks) in HEADS.items():
        for rank in ranks:
            made = FACTORIZATIONS[form](weight.shape, rank)
            for name, (ours, ours_bias) in _heads(made, weight, bias, batches).items():
                top1 = _top1(scored, ours, ours_bias)
                yield {**key, "head": kind, "rank": rank, "with": name, "top1": round(top1, 4)}


def _heads(
    form: Factorization, weight: np.ndarray, bias: np.ndarray, batches: list[np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of a decomposed head, by ingredient."""
    mean = np.concatenate(batches).mean(axis=0, dtype="float64").ravel()

    def taken_up(ours: np.ndarray) -> np.ndarray:
        return bias + mean @ (weight - ours).reshape(len(mean), -1)

    whole = _weight_of(form)
    plain = whole(form.decompose(weight))
    moments = dict(enumerate(fitting.mode_moments(iter(batches), centred=True), start=1))
    metric = whole(fitting.decompose(form, weight.astype("float64"), moments))
    heads = {
        "weight": (plain, bias),
        "and bias": (plain, taken_up(plain)),
        "activations": (metric, taken_up(metric)),
    }
    for name, weigh_classes in (("least squares", False), ("classes", True)):
        fitted, change, _ = fitting.fit(
            form, weight, bias, lambda: iter(batches), True, weigh_classes
        )
        heads[name] = whole(fitted), bias + change
    return heads


def _weight_of(form: Factorization) -> Callable[[dict], np.ndarray]:
    import tensorly as tl

    return lambda parameters: np.asarray(
        form.reconstruct(tl, {name: np.asarray(value) for name, value in parameters.items()})
    )


def _top1(scored: list, weight: np.ndarray, bias: np.ndarray) -> float:
    matrix = weight.reshape(-1, weight.shape[-1])
    hits = [
        np.argmax(x.reshape(len(x), -1) @ matrix + bias, axis=1) == labels for x, labels in scored
    ]
    return float(np.concatenate(hits).mean())


def table(rows: list[dict]) -> str:
    """Mean Top-1 in percent: a row per head, and a column per ingredient."""
    import mxnet  # noqa: F401  of which the version is told

    seeds = len({(row["run"], row["seed"]) for row in rows})
    dense = 100 * np.mean([row["top1"] for row in rows if row["head"] == "dense"])
    lines = []
    for head, rank in dict.fromkeys((r["head"], r["rank"]) for r in rows if r["head"] != "dense"):
        of = [row for row in rows if (row["head"], row["rank"]) == (head, rank)]
        means = (np.mean([r["top1"] for r in of if r["with"] == name]) for name in INGREDIENTS)
        lines.append([f"{head} {rank}", *(f"{100 * mean:.2f}" for mean in means)])
    heading = ["Head", "weight alone", "its bias, too", "by activations", "refitted", "by classes"]
    align = ["left", *["right"] * len(INGREDIENTS)]
    laid_out = tabulate.tabulate(lines, heading, "pipe", colalign=align, disable_numparse=True)
    return (
        "# What each ingredient of a compression is worth\n\n"
        f"Top-1 in percent with no training, mean of {seeds} networks; dense: {dense:.2f}. By\n"
        "`python benchmarks/ingredients.py`, which says what the columns are.\n\n"
        f"{laid_out}\n"
    )


if __name__ == "__main__":
    main()
