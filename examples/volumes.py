#!/usr/bin/env python
"""Heads on volumes, (channels, depth, height, width), with outputs that are volumes as well.

pip install --no-deps -r examples/requirements.txt   # nilearn ships the brain, nibabel reads it
python examples/volumes.py                           # trains 6 heads from 5 seeds, prints a table

How much of a voxel is grey matter? The brain is the ICBM 152 template of 2009, of 1 mm, symmetric:
Fonov et al., *Unbiased average age-appropriate brain templates from birth to adulthood*, NeuroImage
47 (2009). From 11³ voxels of its T1 image, a network tells the share of grey matter in the 3³ in
their middle. The back of the brain trains, its front tests.
"""

from __future__ import annotations

import argparse

import numpy as np
from heads import compare, data_folder
from mxnet import gluon
from mxnet.gluon import nn

from trnet import TCL, TRL

PATCH, MIDDLE = 11, 3
OUT = (MIDDLE, MIDDLE, MIDDLE)


def main() -> None:
    """Parse the arguments, train, and print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--epochs", type=int, default=8)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--patches", type=int, default=4000)
    options = arguments.parse_args()
    if options.seeds < 1:
        arguments.error(f"--seeds: expected an integer ≥ 1, got {options.seeds}")
    heads = {
        "flattened, dense": lambda: as_volume(nn.Dense(MIDDLE**3)),
        "TCL (16, 3, 3, 3), dense": lambda: as_volume(TCL((16, 3, 3, 3)), nn.Dense(MIDDLE**3)),
        "TRL (16, 3, 3, 3, 3, 3, 3)": lambda: TRL(OUT, (16, 3, 3, 3, 3, 3, 3)),
        "TRL (8, 3, 3, 3, 2, 2, 2)": lambda: TRL(OUT, (8, 3, 3, 3, 2, 2, 2)),
        "TRL, CP, 60": lambda: TRL(OUT, 60, in_shape=(0,) * 4, factorization="cp"),
        "TRL, tensor train (16, 24, 24, 16, 9, 3)": lambda: TRL(
            OUT, (16, 24, 24, 16, 9, 3), factorization="tensor_train"
        ),
    }
    volumes = [volume(name) for name in ("t1", "gm")]
    back, front = (slice(0, 110), slice(124, None))  # 14 voxels between them are unused
    print(
        compare(
            backbone,
            heads,
            gluon.loss.L2Loss(),
            explained,
            patches(*(v[:, back] for v in volumes), options.patches),
            patches(*(v[:, front] for v in volumes), options.patches // 4),
            options.epochs,
            range(options.seeds),
            "Variance explained, %",
        )
    )


def volume(name: str) -> np.ndarray:
    """An image of the template (197, 233, 189), from left to right, back to front, and upwards."""
    path = data_folder("nilearn") / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    import nibabel

    return nibabel.load(path).get_fdata(dtype=np.float32)


def patches(t1: np.ndarray, grey: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """T1 around voxels of the brain (count, 1, 11, 11, 11), and their grey matter (count, 3, 3, 3).

    Both have mean 0 and variance 1.
    """
    rng = np.random.default_rng(0)
    margin = (PATCH - MIDDLE) // 2
    inner = tuple(slice(0, size - PATCH + 1) for size in t1.shape)
    shifted = np.roll(t1, (-(PATCH // 2),) * 3, axis=(0, 1, 2))  # the middle voxel's place
    corners = np.argwhere(shifted[inner] > 0)
    x, y = [], []
    for corner in corners[rng.choice(len(corners), count, replace=False)]:
        x.append(t1[tuple(slice(c, c + PATCH) for c in corner)])
        y.append(grey[tuple(slice(c + margin, c + margin + MIDDLE) for c in corner)])
    x, y = np.stack(x)[:, None], np.stack(y)
    return (x - x.mean()) / x.std(), (y - y.mean()) / y.std()


def explained(outputs: np.ndarray, targets: np.ndarray) -> float:
    """The share of the targets' variance that outputs explain, in percent."""
    return 100 * (1 - float(np.square(outputs - targets).mean() / targets.var()))


def backbone() -> gluon.HybridBlock:
    """From (batch, 1, 11, 11, 11) to (batch, 32, 4, 4, 4)."""
    net = nn.HybridSequential()
    net.add(nn.Conv3D(16, 3, activation="relu"), nn.Conv3D(32, 3, strides=2, activation="relu"))
    return net


def as_volume(*layers: gluon.HybridBlock) -> gluon.HybridBlock:
    """Layers that end in (batch, 27), and their outputs as (batch, 3, 3, 3)."""
    net = nn.HybridSequential()
    net.add(*layers, nn.HybridLambda(lambda F, x: F.reshape(x, (-1, *OUT))))
    return net


if __name__ == "__main__":
    main()
