"""What the training loop takes from a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Optional

from trnet.tensor.backend import mx

Batch = tuple[mx.nd.NDArray, mx.nd.NDArray]


@dataclass(frozen=True)
class DataSource:
    """A data set in batches of images (batch, channels, height, width) and labels (batch,).

    Attributes
    ----------
    train_size, validation_size : int
        Images in each part.
    train : callable
        ``train(batch_size, seed)``: one epoch in an order, and with an augmentation, that the
        seed decides, in ``train_batches(batch_size)`` full batches.
    validation : callable
        ``validation(batch_size)``: every image exactly once.
    """

    train_size: int
    validation_size: int
    train: Callable[[int, tuple[int, ...]], Iterator[Batch]]
    validation: Callable[[int], Iterator[Batch]]

    def train_batches(self, batch_size: int) -> int:
        """Full batches in an epoch, as batch normalisation wants them; at least one of any size."""
        return max(1, self.train_size // batch_size)


@dataclass(frozen=True)
class DataSet:
    """A data set by what is known of it without its files.

    Attributes
    ----------
    classes : int
    shape : tuple of int
        (channels, height, width) of an image.
    load : callable
        ``load(root, augment)`` gives the :class:`DataSource`, or raises a
        :class:`~trnet.errors.UserError` that says what is missing and where to get it.
    """

    classes: int
    shape: tuple[int, int, int]
    load: Callable[[Optional[str], bool], DataSource]
