"""Data sets that are held in memory: batches from arrays, and their augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trnet.data.source import Batch, DataSource, Request
from trnet.errors import UserError
from trnet.tensor.backend import mx

# Images that are augmented at once: for one small batch, launching the operators costs the most.
_CHUNK = 1024

Augmentation = Callable[[mx.nd.NDArray, np.random.Generator], mx.nd.NDArray]


@dataclass(frozen=True)
class Part:
    """One part of a data set.

    Attributes
    ----------
    images : np.ndarray
        uint8, (n, channels, height, width).
    labels : np.ndarray
        int, (n,).
    """

    images: np.ndarray
    labels: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Part:
        return Part(self.images[rows], self.labels[rows])


def from_arrays(
    request: Request,
    train: Part,
    validation: Part,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation,
) -> DataSource:
    """Make a data source from arrays.

    Parameters
    ----------
    request : Request
    train, validation : Part
    mean, std : sequence of float
        Of the training images' values in [0, 1], per channel, for their normalisation.
    augmentation : callable
        From images in [0, 1] and a generator to images in [0, 1].

    Raises
    ------
    UserError
        If the request has more samples than there are, or a holdout that leaves none to score or
        none to train on.
    """
    train, validation = _requested(request, train, validation)
    # (channels,) -> (1, channels, 1, 1)
    mean, std = (mx.nd.array(values).reshape((1, -1, 1, 1)) for values in (mean, std))
    shard = request.shard

    def batch(part: Part, rows: np.ndarray, rng: np.random.Generator | None) -> Batch:
        # (rows, channels, height, width), uint8 in [0, 255] -> float32 in [0, 1]
        images = mx.nd.array(part.images[rows], dtype="float32") / 255
        if rng is not None and request.augment:
            images = augmentation(images, rng)
        return (images - mean) / std, mx.nd.array(part.labels[rows], dtype="float32")

    def own(whole: Batch) -> Batch:
        """A worker's rows of a batch that is made whole, so that no image depends on the shards."""
        rows = shard.slice(len(whole[0]))
        return tuple(array[rows.start : rows.stop] for array in whole)

    def train_epoch(batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(train.labels))
        order = order[: source.train_batches(batch_size) * batch_size]
        chunk = batch_size * max(1, _CHUNK // batch_size)
        for chunk_begin in range(0, len(order), chunk):
            rows = order[chunk_begin : chunk_begin + chunk]
            images, labels = batch(train, rows, rng)
            for begin in range(0, len(rows), batch_size):
                step = slice(begin, begin + batch_size)
                yield own((images[step], labels[step]))

    def validation_epoch(batch_size: int) -> Iterator[Batch]:
        order = np.arange(len(validation.labels))[shard.slice(len(validation.labels))]
        for begin in range(0, len(order), batch_size):
            yield batch(validation, order[begin : begin + batch_size], None)

    source = DataSource(
        train_size=len(train.labels),
        validation_size=len(validation.labels),
        train=train_epoch,
        validation=validation_epoch,
    )
    return source


def _requested(request: Request, train: Part, validation: Part) -> tuple[Part, Part]:
    """The parts that a request names: some samples, of which a fraction is scored instead."""
    rng = np.random.default_rng(request.seed)
    if request.samples is not None:
        if request.samples > len(train.labels):
            raise UserError(
                f"dataset.samples: expected at most {len(train.labels)}, the number of images to "
                f"train on, got {request.samples}"
            )
        train = train[_evenly_by_class(train.labels, rng)[: request.samples]]
    if request.holdout:
        rows = _evenly_by_class(train.labels, rng)
        n_scored = round(request.holdout * len(rows))
        if not 0 < n_scored < len(rows):
            raise UserError(
                "dataset.holdout: expected a fraction that leaves images to score and images to "
                f"train on, got {request.holdout}, which scores {n_scored} of {len(rows)} images"
            )
        train, validation = train[rows[n_scored:]], train[rows[:n_scored]]
    return train, validation


def _evenly_by_class(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All rows in a random order whose first n rows, for every n, have the classes evenly."""
    rows = rng.permutation(len(labels))
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    # A row's turn is the share of its class that comes before it; the draw breaks ties.
    turns = np.concatenate([(np.arange(n) + rng.random()) / n for n in counts])
    return by_class[np.argsort(turns, kind="stable")]


def warp(
    images: mx.nd.NDArray,
    rng: np.random.Generator,
    rotation: float = 12.0,
    scale: float = 0.1,
    shift: float = 0.15,
    shear: float = 0.1,
) -> mx.nd.NDArray:
    """Warp every image by its own small affine map, bilinearly; pixels from outside are black.

    Parameters
    ----------
    images : NDArray
        (batch, channels, height, width).
    rng : np.random.Generator
    rotation : float
        Largest angle, in degrees.
    scale, shear : float
        Largest relative change of either axis's length, and largest shear.
    shift : float
        Largest shift, in halves of the image's side, as the grid spans [-1, 1].
    """
    n, _, height, width = images.shape
    angle = np.deg2rad(rng.uniform(-rotation, rotation, n))
    scale_x, scale_y = rng.uniform(1 - scale, 1 + scale, (2, n))
    shift_x, shift_y = rng.uniform(-shift, shift, (2, n))
    shear_x = rng.uniform(-shear, shear, n)
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [scale_x * cos, shear_x - scale_x * sin, shift_x, scale_y * sin, scale_y * cos, shift_y]
    theta = mx.nd.array(np.stack(rows, axis=1))  # (n, 6), an affine map of 2 rows per image
    grid = mx.nd.GridGenerator(theta, transform_type="affine", target_shape=(height, width))
    return mx.nd.BilinearSampler(images, grid)  # grid: (n, 2, height, width)


def shift(images: mx.nd.NDArray, rng: np.random.Generator, pixels: int = 2) -> mx.nd.NDArray:
    """Shift every image by at most ``pixels``, with black from outside."""
    return mx.nd.array(_shifted(images, rng, pixels))


def shift_and_flip(
    images: mx.nd.NDArray, rng: np.random.Generator, pixels: int = 2
) -> mx.nd.NDArray:
    """Shift every image as :func:`shift` does, and mirror half of them."""
    shifted = _shifted(images, rng, pixels)
    mirrored = rng.random(len(shifted)) < 0.5
    shifted[mirrored] = shifted[mirrored, :, :, ::-1]
    return mx.nd.array(shifted)


def _shifted(images: mx.nd.NDArray, rng: np.random.Generator, pixels: int) -> np.ndarray:
    n, _, height, width = images.shape
    padded = np.pad(images.asnumpy(), ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    # (n, channels, 2·pixels + 1, 2·pixels + 1, height, width), a view
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    rows, columns = rng.integers(0, 2 * pixels + 1, (2, n))
    return windows[np.arange(n), :, rows, columns]  # (n, channels, height, width)
