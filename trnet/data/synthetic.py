"""Random images, to measure a network without any data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from trnet.data.source import Batch, DataSource, Request
from trnet.errors import UserError
from trnet.tensor.backend import mx

_TRAIN, _VALIDATION = 1280, 256
_POOL = 2  # batches that are made once and repeated


def synthetic(request: Request) -> DataSource:
    """1 280 images of noise for training and 256 for validation, which cost nothing to load."""
    if request.root is not None:
        raise UserError(
            f"dataset.root: expected null, as synthetic has no files, got {request.root!r}"
        )
    shard = request.shard

    @lru_cache(maxsize=2)  # training's size and validation's
    def pool(rows: int) -> list[Batch]:
        rng = np.random.default_rng(shard.index)
        shape = (rows, *request.shape)
        return [
            (
                mx.nd.array(rng.standard_normal(shape, "float32")),
                mx.nd.array(rng.integers(request.classes, size=rows), dtype="float32"),
            )
            for _ in range(_POOL)
        ]

    def train_epoch(batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        rows = shard.slice(min(batch_size, _TRAIN))
        for step in range(source.train_batches(batch_size)):
            yield pool(rows.stop - rows.start)[step % _POOL]

    def validation_epoch(batch_size: int) -> Iterator[Batch]:
        own = range(_VALIDATION)[shard.slice(_VALIDATION)]
        for begin in range(0, len(own), batch_size):
            images, labels = pool(min(batch_size, _VALIDATION))[0]
            rows = min(batch_size, len(own) - begin)
            yield images[:rows], labels[:rows]

    source = DataSource(_TRAIN, _VALIDATION, train_epoch, validation_epoch)
    return source
