"""ImageNet, and whatever is laid out as it is: RecordIO files, or folders of images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from trnet.data.records import (
    Listing,
    Undecodable,
    decoding,
    list_images,
    map_ahead,
    read_index,
    to_rgb,
    upright,
)
from trnet.data.source import Batch, DataSource, Request
from trnet.errors import UserError
from trnet.tensor.backend import mx

MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)

_SHORTER_SIDE = 1 / 0.875  # of a validation image, in sides of the crop
_AREA, _ASPECT, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a random crop
_JITTER, _LIGHTING = 0.4, 0.1
# Principal components of ImageNet's colours (Krizhevsky et al., 2012), times their deviations.
_COLOURS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * [55.46, 4.794, 1.148]

_BATCHES_AHEAD = 3


def imagenet(request: Request) -> DataSource:
    """ImageNet from ``train.rec`` and ``val.rec``, or from the folders ``train/`` and ``val/``.

    Records need their index (``train.idx``) beside them, folders hold one folder per class, and
    records are preferred to a folder. Images are normalised by ImageNet's mean and deviation. For
    training they are cropped and resized at random, mirrored, and changed in colour, or just
    cropped as in validation: the centre of the image with its shorter side at 8/7 of the crop.

    From a folder an epoch is the same for any number of threads and of workers. From records every
    worker reads a part of the file of its own; and within an epoch the image in a row of a batch is
    augmented as all others in that row are, for MXNet's iterator draws by the row.

    Raises
    ------
    UserError
        Where files are missing or broken, or the classes are not those asked for.
    """
    if request.root is None:
        raise UserError(
            "dataset.root: is missing; a folder with train.rec, train.idx, val.rec and val.idx, "
            "or with train/ and val/ in folders of classes, would fit"
        )
    root = Path(request.root)
    if not root.is_dir():
        raise UserError(f"dataset.root: {root} is no folder; the one of train and val would fit")
    train, validation = (_open(root, name, request) for name in ("train", "val"))
    _check_classes(root, train.classes, validation.classes, request.classes)
    workers = request.shard.count
    if train.size < workers:
        raise UserError(
            f"dataset.root: {root} has {train.size} images to train on; at least {workers}, "
            "one a worker, would fit"
        )

    def train_epoch(batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        return train.train(source.train_batches(batch_size), min(batch_size, train.size), seed)

    source = DataSource(train.size, validation.size, train_epoch, validation.validation)
    return source


def _open(root: Path, name: str, request: Request) -> _Records | _Folder:
    """One part of the data set, in the form that is there."""
    rec, folder = root / f"{name}.rec", root / name
    try:
        if rec.is_file():
            return _open_records(rec, request)
        if folder.is_dir():
            return _Folder(folder, list_images(folder), request)
    except UserError as error:
        raise UserError(f"dataset.root: {error}") from None
    raise UserError(f"dataset.root: {root} holds neither {rec.name} nor {name}/; one would fit")


def _open_records(rec: Path, request: Request) -> _Records:
    idx, names = rec.with_suffix(".idx"), rec.with_suffix(".classes.txt")
    if not idx.is_file():
        raise UserError(
            f"{rec}: is without {idx.name}; both, as scripts/prepare_imagenet.py makes them, "
            "would fit"
        )
    # An index or an end that is torn would end the whole process in MXNet's iterator.
    size = len(read_index(rec, idx)[0])
    classes = names.read_text(encoding="utf-8").splitlines() if names.is_file() else None
    return _Records(rec, idx, size, classes, request)


def _check_classes(
    root: Path, train: list[str] | None, validation: list[str] | None, wanted: int
) -> None:
    known = [classes for classes in (train, validation) if classes is not None]
    if len(known) == 2 and train != validation:
        odd = min(set(train).symmetric_difference(validation))
        raise UserError(
            f"dataset.root: {root} has {len(train)} classes in train and {len(validation)} in "
            f"val, and {odd} in one only; the same classes in both would fit"
        )
    if known and len(known[0]) != wanted:
        raise UserError(
            f"dataset.classes: got {wanted}; {root} has {len(known[0])} classes, so "
            f"dataset.classes: {len(known[0])} would fit"
        )


@dataclass(frozen=True)
class _Records:
    """A part in a RecordIO file, read by MXNet's own iterator.

    ``classes`` are the names of the preparation's list, None where that is missing.
    """

    rec: Path
    idx: Path
    size: int
    classes: list[str] | None
    request: Request

    def train(self, steps: int, batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        shard = self.request.shard
        rows = shard.slice(batch_size)
        part, parts, own = shard.index, shard.count, rows.stop - rows.start
        if self._part_size(parts - 1) < math.ceil(batch_size / parts):
            # Too few records to share: every worker reads whole batches and keeps its rows.
            part, parts, own = 0, 1, batch_size
        else:
            rows = slice(own)
        order, augmentation = np.random.SeedSequence((*seed, part)).generate_state(2) >> 2
        iterator = self._iterator(
            batch_size=own,
            part_index=part,
            num_parts=parts,
            shuffle=True,
            seed=int(order),
            # Of it and the row in the batch the iterator seeds an image's augmentation, so that
            # in one epoch a row's is the same in all batches.
            seed_aug=int(augmentation),
            **(self._augmentation() if self.request.augment else self._centre()),
        )
        wrapped = False
        for _ in range(steps):
            batch = next(iterator, None)
            if batch is None:  # rows and parts are even only up to one
                wrapped = True
                iterator.reset()
                batch = next(iterator)
            yield self._checked(batch.data[0][rows], batch.label[0][rows])
        if not wrapped:
            for _ in iterator:  # few; but an iterator that is left early never frees a batch
                pass

    def validation(self, batch_size: int) -> Iterator[Batch]:
        shard = self.request.shard
        size = self._part_size(shard.index)
        if not size:
            return
        iterator = self._iterator(
            # No larger than the part, which the iterator can go round but once.
            batch_size=min(batch_size, size),
            part_index=shard.index,
            num_parts=shard.count,
            **self._centre(),
        )
        for batch in iterator:
            rows = slice(len(batch.data[0]) - batch.pad)
            yield self._checked(batch.data[0][rows], batch.label[0][rows])

    def _part_size(self, index: int) -> int:
        """Records in a worker's part, as the iterator cuts it; it fails on an empty one."""
        size = math.ceil(self.size / self.request.shard.count)
        return min(max(self.size - index * size, 0), size)

    def _checked(self, images: mx.nd.NDArray, labels: mx.nd.NDArray) -> Batch:
        """A copy, for the iterator writes its next batches over those it gave."""
        values = labels.asnumpy()
        wrong = values[(values < 0) | (values >= self.request.classes)]
        if len(wrong):
            raise UserError(
                f"dataset.root: {self.rec} has the label {wrong[0]:g}; labels from 0 to "
                f"{self.request.classes - 1} would fit, or another dataset.classes"
            )
        return images.copy(), labels.copy()

    def _iterator(self, **options: object) -> mx.io.MXDataIter:
        return mx.io.ImageRecordIter(
            path_imgrec=str(self.rec),
            path_imgidx=str(self.idx),
            data_shape=self.request.shape,
            preprocess_threads=self.request.threads,
            **{f"mean_{channel}": value for channel, value in zip("rgb", MEAN)},
            **{f"std_{channel}": value for channel, value in zip("rgb", STD)},
            inter_method=9,  # by areas where it shrinks, which blurs what would alias
            # Batches it holds back from reuse, and never frees: it prefetches 16 in any case.
            prefetch_buffer=1,
            verbose=False,
            **options,
        )

    def _centre(self) -> dict[str, object]:
        return {"resize": round(self.request.shape[1] * _SHORTER_SIDE)}

    def _augmentation(self) -> dict[str, object]:
        return {
            "random_resized_crop": True,
            "min_random_area": _AREA[0],
            "max_random_area": _AREA[1],
            "min_aspect_ratio": _ASPECT[0],
            "max_aspect_ratio": _ASPECT[1],
            "rand_mirror": True,
            "brightness": _JITTER,
            "contrast": _JITTER,
            "saturation": _JITTER,
            "pca_noise": _LIGHTING,
        }


@dataclass(frozen=True)
class _Folder:
    """A part in a folder of class folders, read by Pillow in threads."""

    root: Path
    listing: Listing
    request: Request

    @property
    def classes(self) -> list[str]:
        return self.listing.classes

    @property
    def size(self) -> int:
        return len(self.listing.files)

    def train(self, steps: int, batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        order = np.random.default_rng(seed).permutation(self.size)
        rows = self.request.shard.slice(batch_size)
        batches = [
            range(step * batch_size + rows.start, step * batch_size + rows.stop)
            for step in range(steps)
        ]

        def read(position: int) -> np.ndarray:
            index = order[position]
            if not self.request.augment:
                return self._read_centre(index)
            rng = np.random.default_rng((*seed, position))
            planes = self._read(index, partial(_random_box, rng=rng))
            _recolour(planes, rng)
            planes = _normalised(planes)
            return planes[:, :, ::-1] if rng.random() < 0.5 else planes

        return self._batches(batches, read, self.listing.labels[order])

    def validation(self, batch_size: int) -> Iterator[Batch]:
        own = range(self.size)[self.request.shard.slice(self.size)]
        batches = [own[begin : begin + batch_size] for begin in range(0, len(own), batch_size)]
        return self._batches(batches, self._read_centre, self.listing.labels)

    def _read_centre(self, index: int) -> np.ndarray:
        size = self.request.shape[1]
        return _normalised(self._read(index, partial(_centre_box, size=size)))

    def _read(self, index: int, choose: Callable[[int, int], _Box]) -> np.ndarray:
        path = self.root / self.listing.files[index]
        try:
            return _read(path, self.request.shape[1], choose)
        except Undecodable as error:
            raise UserError(
                f"dataset.root: {path} {error}; its removal, or scripts/prepare_imagenet.py, "
                "which skips such files, would fit"
            ) from None

    def _batches(
        self, batches: list[range], read: Callable[[int], np.ndarray], labels: np.ndarray
    ) -> Iterator[Batch]:
        """Batches of images that are read in threads, some batches ahead."""
        flat = (row for rows in batches for row in rows)
        ahead = _BATCHES_AHEAD * max(map(len, batches), default=0)
        with closing(map_ahead(read, flat, self.request.threads, ahead)) as images:
            for rows in batches:
                batch = np.stack([next(images) for _ in rows])
                yield mx.nd.array(batch), mx.nd.array(labels[rows], dtype="float32")


_Box = tuple[float, float, float, float]  # left, upper, right, lower


def _read(path: Path, size: int, choose: Callable[[int, int], _Box]) -> np.ndarray:
    """Decode an image and resize a box of it: float32, (3, size, size).

    Parameters
    ----------
    path : Path
    size : int
    choose : callable
        From width and height to the box.
    """
    content = io.BytesIO(path.read_bytes())
    with decoding():
        image = upright(Image.open(content))
    whole = np.array(image.size)
    box = np.reshape(choose(*image.size), (2, 2))
    # A JPEG may be decoded at a fraction that leaves twice the pixels wanted, or more.
    image.draft(None, tuple(np.ceil(2 * size * whole / (box[1] - box[0])).astype(int)))
    with decoding():
        image = to_rgb(image)
    box = np.clip(box / whole, 0, 1) * image.size
    pixels = np.asarray(image.resize((size, size), Image.BILINEAR, box.ravel()))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype="float32")


def _centre_box(width: int, height: int, size: int) -> _Box:
    """Whole pixels at the centre of the image once its shorter side is resized, in its own."""
    shorter = round(size * _SHORTER_SIDE)
    whole = np.array([width, height])
    resized = shorter * whole // whole.min()
    corner = (resized - size) // 2
    return (*(corner * whole / resized), *((corner + size) * whole / resized))


def _random_box(width: int, height: int, rng: np.random.Generator) -> _Box:
    """Inception's crop: of a random area and aspect, or the largest at the centre."""
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            left, upper = rng.integers(width - columns + 1), rng.integers(height - rows + 1)
            return left, upper, left + columns, upper + rows
    columns, rows = min(width, height * _ASPECT[1]), min(height, width / _ASPECT[0])
    left, upper = (width - columns) / 2, (height - rows) / 2
    return left, upper, left + columns, upper + rows


def _recolour(planes: np.ndarray, rng: np.random.Generator) -> None:
    """Change brightness, contrast, saturation and lighting at random, in place."""
    brightness, contrast, saturation = rng.uniform(1 - _JITTER, 1 + _JITTER, 3)
    planes *= brightness
    _blend(planes, _grey(planes).mean(), contrast)
    _blend(planes, _grey(planes), saturation)
    planes += _planes(_COLOURS @ rng.normal(0, _LIGHTING, 3))


def _grey(planes: np.ndarray) -> np.ndarray:
    return 0.299 * planes[0] + 0.587 * planes[1] + 0.114 * planes[2]


def _blend(planes: np.ndarray, other: np.ndarray | float, share: float) -> None:
    planes *= share
    planes += (1 - share) * other


def _planes(values: Sequence[float]) -> np.ndarray:
    """A value a channel, beside images (3, height, width)."""
    return np.array(values, dtype="float32")[:, None, None]


def _normalised(planes: np.ndarray) -> np.ndarray:
    """The same array, for a new one costs more than its arithmetic."""
    planes -= _planes(MEAN)
    planes /= _planes(STD)
    return planes
