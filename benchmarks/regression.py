#!/usr/bin/env python
"""The authors' synthetic regression: a dense linear regression and TRLs, by training samples.

python benchmarks/regression.py            # trains, then writes table.md, weights.png and rmse.png
python benchmarks/regression.py --report   # only what is drawn from regression.csv and weights.csv

y = ⟨X, W⟩ for a fixed W (8, 8), a cross, and for X with entries from N(0, 3). The models see X with
noise from N(0, 3), and are trained on the squared loss. Kossaifi et al., *Tensor Regression
Networks* (arXiv 1707.08308), figure 5, which prints no numbers: the 3 is taken as a variance; the
cross, the samples, the seeds and the recipe are ours. The RMSE is that of 10 000 samples without
noise. With noise as strong as the signal, the best weight is W / 2, at any number of samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import tabulate
from timing import read_csv, write_csv

from trnet.report import style
from trnet.report.summary import Measurement

matplotlib.use("Agg")

from matplotlib import pyplot as plt

SIZE = 8
VARIANCE = 3
MODELS = {"dense": None, "TRL, rank 1": 1, "TRL, rank 2": 2, "TRL, rank 4": 4, "TRL, rank 8": 8}
LOOKS = dict(zip(MODELS, (style.BASELINE, *style.LINES)))
SAMPLES = (50, 100, 200, 500, 1000, 5000)
DRAWN = (50, 200, 1000, 5000)  # whose weights are shown
SEEDS = range(5)
TEST = 10_000
STEPS, BATCH, RATE, MOMENTUM = 2000, 25, 0.01, 0.9


def main() -> None:
    """Parse the arguments, train, and write the table and the pictures."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--results", type=Path, default=Path("results/regression"))
    arguments.add_argument("--report", action="store_true")
    options = arguments.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    measured, weights = options.results / "regression.csv", options.results / "weights.csv"
    if not options.report:
        rows = list(measure())
        write_csv(measured, [{k: v for k, v in row.items() if k != "weight"} for row in rows])
        write_csv(weights, [_pixels(row) for row in rows if _is_drawn(row)])
    rows = read_csv(measured)
    (options.results / "table.md").write_text(table(rows), encoding="utf-8")
    plot_rmse(rows, options.results / "rmse.png")
    plot_weights(read_csv(weights), options.results / "weights.png")
    print(table(rows))


def cross() -> np.ndarray:
    """W (8, 8), of rank 2: a cross of ones."""
    weight = np.zeros((SIZE, SIZE))
    weight[3:5, 1:7] = weight[1:7, 3:5] = 1
    return weight


def measure() -> Iterator[dict]:
    """The RMSE and the weight of every model, by the number of samples and the seed."""
    for seed in SEEDS:
        for samples in SAMPLES:
            for model, rank in MODELS.items():
                weight = train(rank, samples, seed)
                rmse = test_error(weight, seed)
                print(f"{samples:5} samples, seed {seed}: {model:12} RMSE {rmse:.3f}", flush=True)
                row = {"model": model, "samples": samples, "seed": seed, "rmse": round(rmse, 4)}
                yield {**row, "weight": weight}


def drawn_inputs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Samples, or their noise: (count, 8, 8)."""
    return rng.normal(scale=np.sqrt(VARIANCE), size=(count, SIZE, SIZE))


def test_error(weight: np.ndarray, seed: int) -> float:
    """RMSE on samples without noise, which no model saw."""
    x = drawn_inputs(np.random.default_rng([seed, 1]), TEST)
    errors = np.tensordot(x, weight - cross(), axes=2)
    return float(np.sqrt(np.mean(np.square(errors))))


def train(rank: int | None, samples: int, seed: int) -> np.ndarray:
    """The weight (8, 8) that a model learns; without a rank it is a dense layer."""
    from mxnet import autograd, gluon

    from trnet import TRL, Trainer
    from trnet.tensor.backend import mx

    rng = np.random.default_rng([seed, 0, samples])
    clean = drawn_inputs(rng, samples)
    noisy = mx.nd.array(clean + drawn_inputs(rng, samples))
    targets = mx.nd.array(np.tensordot(clean, cross(), axes=2)[:, None])
    mx.random.seed(seed)
    if rank is None:
        layer = gluon.nn.Dense(1, in_units=SIZE * SIZE, use_bias=False)
    else:
        layer = TRL(1, (rank, rank, 1), in_shape=(SIZE, SIZE), use_bias=False)
    layer.initialize(mx.init.Xavier())
    layer.hybridize(static_alloc=True, static_shape=True)
    loss = gluon.loss.L2Loss()
    trainer = Trainer(layer.collect_params(), "sgd", {"momentum": MOMENTUM})
    for step in range(STEPS):
        trainer.set_learning_rate(RATE * (1 + np.cos(np.pi * step / STEPS)) / 2)
        chosen = mx.nd.array(rng.choice(samples, BATCH, replace=False))
        with autograd.record():
            error = loss(layer(noisy.take(chosen)), targets.take(chosen))
        error.backward()
        trainer.step(BATCH)
    weight = layer.weight.data() if rank is None else layer.to_dense_weight()
    return weight.asnumpy().reshape(SIZE, SIZE)


def _is_drawn(row: dict) -> bool:
    return row["seed"] == SEEDS[0] and row["samples"] in DRAWN


def _pixels(row: dict) -> dict:
    values = (float(f"{value:.4g}") for value in row["weight"].ravel())
    return {**{k: row[k] for k in ("model", "samples")}, **dict(enumerate(values))}


def measurement(rows: list[dict], model: str, samples: int) -> Measurement:
    """Mean RMSE of a model over the seeds."""
    values = [
        float(row["rmse"])
        for row in rows
        if row["model"] == model and int(row["samples"]) == samples
    ]
    return Measurement(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))


def table(rows: list[dict]) -> str:
    """RMSE with 95 % intervals: a row per model, and a column per number of samples."""
    lines = []
    for model in MODELS:
        cells = (measurement(rows, model, samples) for samples in SAMPLES)
        lines.append([model, *(f"{cell.mean:.2f} ± {cell.interval:.2f}" for cell in cells)])
    laid_out = tabulate.tabulate(
        lines,
        ["Model", *(f"{samples} samples" for samples in SAMPLES)],
        "pipe",
        colalign=["left", *["right"] * len(SAMPLES)],
        disable_numparse=True,
    )
    zero, best = (np.sqrt(VARIANCE) * np.linalg.norm(cross()) * share for share in (1, 0.5))
    return (
        "# Synthetic regression\n\n"
        f"RMSE on samples without noise, mean of {len(SEEDS)} seeds with 95 % intervals. A weight\n"
        f"of zero has {zero:.2f}; W / 2, the best that noisy samples can teach, {best:.2f}. By\n"
        "`python benchmarks/regression.py`, which says what is trained.\n\n"
        f"{laid_out}\n"
    )


@plt.rc_context(style.STYLE)
def plot_rmse(rows: list[dict], path: Path) -> None:
    """RMSE by training samples, a line per model."""
    figure, axes = plt.subplots(figsize=(style.WIDTH, 5), layout="constrained")
    for model, (marker, color, line) in LOOKS.items():
        cells = [measurement(rows, model, samples) for samples in SAMPLES]
        axes.errorbar(
            SAMPLES,
            [cell.mean for cell in cells],
            [cell.interval for cell in cells],
            marker=marker,
            color=color,
            capsize=3,
            label=model,
            linestyle=line,
        )
    best = np.sqrt(VARIANCE) * np.linalg.norm(cross()) / 2
    axes.axhline(best, color="black", linestyle=":", linewidth=1, label="W / 2, the best of all")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(SAMPLES, map(str, SAMPLES))
    axes.minorticks_off()
    axes.set_yticks([4, 6, 8, 12, 16], ["4", "6", "8", "12", "16"])
    axes.set_xlabel("training samples")
    axes.set_ylabel("RMSE without noise")
    axes.set_title("Synthetic regression, a weight of rank 2 (bars: 95 % intervals)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    _save(figure, path)


@plt.rc_context(style.STYLE)
def plot_weights(rows: list[dict], path: Path) -> None:
    """The weights that one seed learns: a row per number of samples, a column per model."""
    figure, grid = plt.subplots(
        len(DRAWN), len(MODELS) + 1, figsize=(style.WIDTH, 5.8), layout="constrained"
    )
    for line, samples in zip(grid, DRAWN):
        images = [(cross() / 2, "W / 2")]
        for model in MODELS:
            (row,) = (r for r in rows if r["model"] == model and int(r["samples"]) == samples)
            pixels = [float(row[str(place)]) for place in range(SIZE * SIZE)]
            images.append((np.reshape(pixels, (SIZE, SIZE)), model))
        for axes, (image, title) in zip(line, images):
            shown = axes.imshow(image, cmap="RdBu_r", vmin=-0.8, vmax=0.8)
            axes.set_xticks([])
            axes.set_yticks([])
            if samples == DRAWN[0]:
                axes.set_title(title)
        line[0].set_ylabel(f"{samples} samples")
    figure.colorbar(shown, ax=grid, shrink=0.6)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
