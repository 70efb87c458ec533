"""What the training loop takes from a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trnet.tensor.backend import mx

Batch = tuple[mx.nd.NDArray, mx.nd.NDArray]


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several workers trains on: part ``index`` of ``count``.

    Attributes
    ----------
    index, count : int
    """

    index: int = 0
    count: int = 1

    def slice(self, length: int) -> slice:
        """The worker's rows among ``length``, as even as they go; all workers' are all rows."""
        begin, end = (length * i // self.count for i in (self.index, self.index + 1))
        return slice(begin, end)


WHOLE = Shard()


@dataclass(frozen=True)
class Request:
    """What is asked of a data set.

    Attributes
    ----------
    root : str or None
        Where its files are.
    augment : bool
        Whether training images are augmented.
    classes : int
    shape : tuple of int
        (channels, height, width) of the images wanted.
    threads : int
        Threads that decode images, where there is something to decode.
    shard : Shard
    samples : int or None
        Images to train on, of those there are; None for all.
    holdout : float
        Fraction of these that is left out of the training, and scored in place of the rest.
    seed : int
        Decides which.
    """

    root: str | None
    augment: bool
    classes: int
    shape: tuple[int, int, int]
    threads: int = 1
    shard: Shard = WHOLE
    samples: int | None = None
    holdout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class DataSource:
    """A data set in batches of images (batch, channels, height, width) and labels (batch,).

    Attributes
    ----------
    train_size, validation_size : int
        Images in each part, those of all workers together.
    train : callable
        ``train(batch_size, seed)``: one epoch in an order, and with an augmentation, that the
        seed decides, in ``train_batches(batch_size)`` full batches; of each the worker's shard.
    validation : callable
        ``validation(batch_size)``: the worker's share of the images. Over all workers every image
        comes exactly once.
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
        ``load(request)`` gives the :class:`DataSource`, or raises a
        :class:`~trnet.errors.UserError` that says what is missing and where to get it.
    adjustable : bool
        Whether a config may ask for other classes and another size, and not for a part of it.
    """

    classes: int
    shape: tuple[int, int, int]
    load: Callable[[Request], DataSource]
    adjustable: bool = False
