"""CIFAR-10 and CIFAR-100, from their binary files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from trnet.data.arrays import Part, from_arrays, shift_and_flip
from trnet.data.source import DataSource, Request
from trnet.errors import UserError

_SHAPE = (3, 32, 32)
_PADDING = 4  # pixels, as is usual for CIFAR


def cifar10(request: Request) -> DataSource:
    """50 000 and 10 000 images in 10 classes (Krizhevsky 2009): six files of the binary version."""
    read = partial(_read, request, "cifar-10-binary.tar.gz", 1)
    return from_arrays(
        request,
        read([f"data_batch_{i}.bin" for i in range(1, 6)]),
        read(["test_batch.bin"]),
        mean=[0.4914, 0.4822, 0.4465],
        std=[0.2470, 0.2435, 0.2616],
        augmentation=partial(shift_and_flip, pixels=_PADDING),
    )


def cifar100(request: Request) -> DataSource:
    """50 000 and 10 000 images in 100 classes (Krizhevsky 2009): train.bin and test.bin."""
    read = partial(_read, request, "cifar-100-binary.tar.gz", 2)  # the coarse label, then the fine
    return from_arrays(
        request,
        read(["train.bin"]),
        read(["test.bin"]),
        mean=[0.5071, 0.4865, 0.4409],
        std=[0.2673, 0.2564, 0.2762],
        augmentation=partial(shift_and_flip, pixels=_PADDING),
    )


def _read(request: Request, archive: str, n_labels: int, names: Sequence[str]) -> Part:
    """Read the records of some files: one byte per label, of which the last counts, and pixels."""
    where = f"https://www.cs.toronto.edu/~kriz/{archive}"
    if request.root is None:
        raise UserError(f"dataset.root: expected a folder with the files of {where}, got none")
    records = [_records(Path(request.root) / name, n_labels, where) for name in names]
    joined = np.concatenate(records)  # (n, labels + 3·32·32)
    labels = joined[:, n_labels - 1].astype(np.int64)
    if labels.max() >= request.classes:
        raise UserError(
            f"dataset.root: expected labels below {request.classes} in {request.root}, got "
            f"{labels.max()}"
        )
    return Part(joined[:, n_labels:].reshape(-1, *_SHAPE), labels)


def _records(path: Path, n_labels: int, where: str) -> np.ndarray:
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise UserError(f"dataset.root: expected the files of {where}, got no {path}") from None
    except OSError as error:
        raise UserError(f"dataset.root: {path} cannot be read: {error.strerror}") from None
    length = n_labels + int(np.prod(_SHAPE))
    if len(content) == 0 or len(content) % length:
        raise UserError(
            f"dataset.root: expected records of {length} bytes in {path}, got {len(content)} bytes"
        )
    return content.reshape(-1, length)
