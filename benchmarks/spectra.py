#!/usr/bin/env python
"""Measure the rank of what heads get: spectra of the covariance of a trained network's features.

python benchmarks/spectra.py runs/glyphs/scratch/resnet/seed0 runs/glyphs/tcl/alexnet/seed0

A head of rank 200 can only be judged after features whose rank is well above it. For every mode of
the activation tensor, and for what pooling leaves of it, the table has the number of directions
that hold 90, 99 and 99.9 % of the variance of training images, and the share that the leading ones
hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tabulate
from timing import write_csv

from trnet import config
from trnet.tensor.fitting import mode_moments

IMAGES = 4096
LEADING = (50, 100, 150, 200)  # the ranks of the published table
SHARES = (0.9, 0.99, 0.999)
MODES = ("channels", "height", "width")


def main() -> None:
    """Parse the arguments, measure, and write spectra.csv and spectra.md."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("runs", type=Path, nargs="+", help="run folders of dense networks")
    arguments.add_argument("--results", type=Path, default=Path("results/glyphs"))
    options = arguments.parse_args()
    rows = [row for run in options.runs for row in measure(run)]
    write_csv(options.results / "spectra.csv", rows)
    (options.results / "spectra.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def measure(run: Path) -> Iterator[dict]:
    """One row per mode of a run's activation tensor."""
    from trnet import experiment
    from trnet.models.zoo import make_backbone
    from trnet.tensor.backend import mx
    from trnet.training import checkpoint

    weights = checkpoint.latest(run / "checkpoints") / "network.params"
    chosen = config.load(run / "config.yaml", [f"model.pretrained={weights}"])
    dataset = experiment.find_dataset(chosen)
    _, batches = experiment.activations(chosen, IMAGES, [mx.cpu()])
    moments = dict(zip(MODES, mode_moments((b.asnumpy() for b in batches), centred=True)))
    if make_backbone(chosen.model.backbone, dataset.shape, dataset.classes).pooling:
        pooled = (batch.mean(axis=(2, 3)).asnumpy() for batch in batches)
        moments["channels, pooled"] = mode_moments(pooled, centred=True)[0]
    for mode, covariance in moments.items():
        held = np.cumsum(np.linalg.eigvalsh(covariance)[::-1])
        held /= held[-1]
        yield {
            "run": f"{chosen.suite}/{chosen.name}",
            "seed": chosen.seed,
            "mode": mode,
            "size": len(held),
            **{f"for {100 * share:g} %": int((held < share).sum()) + 1 for share in SHARES},
            **{
                f"in {rank}": round(100 * float(held[rank - 1]), 2) if rank <= len(held) else None
                for rank in LEADING
            },
        }


def table(rows: list[dict]) -> str:
    """The rows in Markdown, with how they were made."""
    runs = " ".join(dict.fromkeys(f"runs/{row['run']}/seed{row['seed']}" for row in rows))
    laid_out = tabulate.tabulate(rows, headers="keys", tablefmt="pipe", missingval="")
    return (
        f"# Spectra of the features' covariance\n\n{laid_out}\n\n"
        f"Directions of {IMAGES} training images that hold so much of the variance, and the share "
        "in percent that\nthe leading 50 to 200 hold.\n\n"
        f"Measured by `python benchmarks/spectra.py {runs}`.\n"
    )


if __name__ == "__main__":
    main()
