"""The interface between data sets and training: a request, and the data source it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

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
        """Give the worker's rows of ``length``; the workers' shares differ by at most one row."""
        begin, end = (length * i // self.count for i in (self.index, self.index + 1))
        return slice(begin, end)


WHOLE = Shard()


@dataclass(frozen=True)
class Request:
    """What a config asks of a data set.

    Attributes
    ----------
    root : str or None
        The folder that holds its files.
    augment : bool
        Whether training images are augmented.
    classes : int
    shape : tuple of int
        (channels, height, width) of the images.
    threads : int
        Threads that decode images, if the data set has any to decode.
    shard : Shard
        The worker's part of every batch.
    samples : int or None
        Number of training images to use; None for all.
    holdout : float
        Fraction of these that is not trained on, and scored in place of the validation images.
    seed : int
        Decides which images the samples and the holdout are.
    skip_damaged : tuple of str
        Parts of the data set, train or val, whose images are all decoded first; those that are
        damaged are left out.
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
    skip_damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSource:
    """A data set in batches of images (batch, channels, height, width) and labels (batch,).

    Attributes
    ----------
    train_size, validation_size : int
        Images in each part, summed over all workers.
    train : callable
        ``train(batch_size, seed)``: one epoch of ``train_batches(batch_size)`` full batches, of
        each the worker's shard. The seed decides the order and the augmentation.
    validation : callable
        ``validation(batch_size)``: the worker's share of the images. All workers together give
        every image exactly once.
    note : dict of str to str
        What else a result says of the images: what they were made by, and their checksum.
    passes : int
        How often an epoch goes through the images.
    """

    train_size: int
    validation_size: int
    train: Callable[[int, tuple[int, ...]], Iterator[Batch]]
    validation: Callable[[int], Iterator[Batch]]
    note: dict[str, str] = field(default_factory=dict)
    passes: int = 1

    def train_batches(self, batch_size: int) -> int:
        """Count the batches of an epoch: the full ones of each pass, or one of all images."""
        return self.passes * max(1, self.train_size // batch_size)

    def repeated(self, passes: int) -> DataSource:
        """The same images, of which an epoch takes several passes."""

        def train(batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
            *others, epoch = seed
            for each in range(passes):
                yield from self.train(batch_size, (*others, epoch * passes + each))

        return replace(self, train=train, passes=self.passes * passes)


@dataclass(frozen=True)
class DataSet:
    """An entry of :data:`~trnet.data.DATASETS`: what is known of a data set without its files.

    Attributes
    ----------
    classes : int
    shape : tuple of int
        (channels, height, width) of an image.
    load : callable
        ``load(request)`` gives the :class:`DataSource`, or raises a
        :class:`~trnet.errors.UserError` that says what is missing and where to get it.
    takes_size : bool
        Whether a config may set ``dataset.classes`` and ``dataset.size``.
    takes_samples : bool
        Whether a config may set ``dataset.samples`` and ``dataset.holdout``.
    takes_damaged : bool
        Whether a config may set ``dataset.damaged``.
    in_memory : bool
        Whether loading is quick, because the images are held in memory; then a config's data are
        checked before a suite is trained.
    """

    classes: int
    shape: tuple[int, int, int]
    load: Callable[[Request], DataSource]
    takes_size: bool = False
    takes_samples: bool = True
    takes_damaged: bool = False
    in_memory: bool = True
