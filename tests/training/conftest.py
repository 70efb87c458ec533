"""Fixtures of the tests of training."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from trnet.data import Request
from trnet.data.arrays import Part, from_arrays, shift_and_flip
from trnet.training import checkpoint


@pytest.fixture(scope="module")
def blobs():
    """Forty images of 4×4 in three classes that differ in brightness, and 13 to score."""
    rng = np.random.default_rng(0)
    labels = np.arange(53) % 3
    images = rng.integers(0, 40, (53, 1, 4, 4)) + 80 * labels[:, None, None, None]
    train, validation = slice(0, 40), slice(40, 53)
    parts = (Part(images[s].astype("uint8"), labels[s]) for s in (train, validation))
    return from_arrays(
        Request(None, augment=False, classes=3, shape=(1, 6, 6)),
        *parts,
        mean=[0.5],
        std=[0.3],
        augmentation=shift_and_flip,
    )


@pytest.fixture
def saved(monkeypatch) -> list[str]:
    """The names of the checkpoints that a test saves, in order."""
    names, save = [], checkpoint.save

    def noting(folder, *rest):
        save(folder, *rest)
        names.append(checkpoint.newest(folder).name)

    monkeypatch.setattr(checkpoint, "save", noting)
    return names


@pytest.fixture
def port() -> int:
    """A free port whose next one is free, too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            found = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", found + 1)).close()
            except OSError:
                continue
            return found
