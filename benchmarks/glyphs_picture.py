#!/usr/bin/env python
"""Draw docs/glyphs.png from data/glyphs: some characters in some faces, to train and to test on.

python benchmarks/glyphs_picture.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from trnet.data.glyphs import CLASSES, SPLITS, manifest

matplotlib.use("Agg")

from matplotlib import pyplot as plt

CHARACTERS, FACES = 20, 8  # of each split


def main() -> None:
    """Parse the arguments, and draw."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--data", type=Path, default=Path("data/glyphs"))
    arguments.add_argument("--output", type=Path, default=Path("docs/glyphs.png"))
    options = arguments.parse_args()
    shown = np.linspace(0, CLASSES - 1, CHARACTERS).astype(int)
    figure, panels = plt.subplots(len(SPLITS), figsize=(8, 5.8), layout="constrained")
    for axes, split, title in zip(panels, SPLITS, ("to train on", "to test on")):
        images = np.load(options.data / f"{split}.npy")
        chosen = np.linspace(0, len(images) - 1, FACES).astype(int)
        names = [face.name for face in manifest() if face.split == split]
        # (faces, characters, 28, 28) -> (faces·28, characters·28)
        rows = images[np.ix_(chosen, shown)].transpose(0, 2, 1, 3).reshape(FACES * 28, -1)
        axes.imshow(255 - rows, cmap="gray", interpolation="antialiased")
        axes.set_yticks(28 * np.arange(FACES) + 14, [names[face] for face in chosen], fontsize=10)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_title(f"{len(images)} faces {title}", fontsize=11)
    figure.savefig(options.output, dpi=100)


if __name__ == "__main__":
    main()
