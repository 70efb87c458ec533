"""ImageNet, and any images with the same layout: RecordIO files, or folders of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trnet.data import crops
from trnet.data.images import Listing, Undecodable, list_images
from trnet.data.recordio import read_index
from trnet.data.source import Batch, DataSource, Request
from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.tensor.backend import mx

_BATCHES_AHEAD = 3  # that a folder's threads read before their turn


def imagenet(request: Request) -> DataSource:
    """ImageNet from ``train.rec`` and ``val.rec``, or from the folders ``train/`` and ``val/``.

    Records need their index (``train.idx``) in the same folder, image folders hold one folder per
    class, and records are preferred to a folder. Images are normalised by ImageNet's mean and
    standard deviation. Training images are cropped and resized at random, mirrored, and changed in
    colour; without augmentation they are cropped as in validation: the centre of the image, after
    its shorter side is resized to 8/7 of the crop.

    From a folder, an epoch is the same for any number of threads and of workers. From records,
    every worker reads its own part of the file; and within an epoch, images in the same row of
    their batches are augmented alike, because MXNet's iterator draws by the row.

    Raises
    ------
    UserError
        If files are missing or damaged, or the classes are not those asked for.
    """
    if request.root is None:
        raise UserError(
            "dataset.root: expected a folder with train.rec, train.idx, val.rec and val.idx, or "
            "with folders train/ and val/ of one folder per class, got none"
        )
    root = Path(request.root)
    if not root.is_dir():
        raise UserError(
            f"dataset.root: expected a folder that holds train and val, got {root}, which is not a "
            "folder"
        )
    train, validation = (_open(root, name, request) for name in ("train", "val"))
    _check_classes(root, train.classes, validation.classes, request.classes)
    workers = request.shard.count
    if train.size < workers:
        raise UserError(
            f"dataset.root: expected at least {workers} images to train on, one per worker, got "
            f"{train.size} in {root}"
        )

    def train_epoch(batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        return train.train(source.train_batches(batch_size), min(batch_size, train.size), seed)

    ignored = {
        name: f"{part.listing.ignored} entries of class folders that are no images"
        for name, part in {"ignored in train": train, "ignored in val": validation}.items()
        if isinstance(part, _Folder) and part.listing.ignored
    }
    source = DataSource(train.size, validation.size, train_epoch, validation.validation, ignored)
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
    raise UserError(f"dataset.root: expected {rec.name} or {name}/ in {root}, got neither")


def _open_records(rec: Path, request: Request) -> _Records:
    idx, names = rec.with_suffix(".idx"), rec.with_suffix(".classes.txt")
    if not idx.is_file():
        raise UserError(
            f"{rec}: expected {idx.name} in the same folder, got none; `trnet prepare` makes both"
        )
    # Checks first: MXNet's iterator ends the whole process on a torn file.
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
            f"dataset.root: expected the same classes in train and val of {root}, got {len(train)} "
            f"classes in train and {len(validation)} in val, {odd} in only one of them"
        )
    if known and len(known[0]) != wanted:
        raise UserError(
            f"dataset.classes: expected {len(known[0])}, the number of classes in {root}, got "
            f"{wanted}"
        )


@dataclass(frozen=True)
class _Records:
    """A part in a RecordIO file, read by MXNet's own iterator.

    ``classes`` are the names in the list that the preparation made, None if there is no list.
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
            # The iterator seeds an image's augmentation by this and by its row in the batch, so
            # in one epoch a row is augmented alike in all batches.
            seed_aug=int(augmentation),
            **(self._augmentation() if self.request.augment else self._centre()),
        )
        wrapped = False
        for _ in range(steps):
            batch = next(iterator, None)
            if batch is None:  # parts, and rows per worker, differ by one: a short part ends early
                wrapped = True
                iterator.reset()
                batch = next(iterator)
            yield self._checked(batch.data[0][rows], batch.label[0][rows])
        if not wrapped:
            for _ in iterator:  # few are left; without this loop the iterator never frees a batch
                pass

    def validation(self, batch_size: int) -> Iterator[Batch]:
        shard = self.request.shard
        size = self._part_size(shard.index)
        if not size:
            return
        iterator = self._iterator(
            # No larger than the part, which the iterator can repeat only once to fill a batch.
            batch_size=min(batch_size, size),
            part_index=shard.index,
            num_parts=shard.count,
            **self._centre(),
        )
        for batch in iterator:
            rows = slice(len(batch.data[0]) - batch.pad)
            yield self._checked(batch.data[0][rows], batch.label[0][rows])

    def _part_size(self, index: int) -> int:
        """Records in a worker's part, as the iterator cuts them; it fails on an empty part."""
        size = math.ceil(self.size / self.request.shard.count)
        return min(max(self.size - index * size, 0), size)

    def _checked(self, images: mx.nd.NDArray, labels: mx.nd.NDArray) -> Batch:
        """A copy, because the iterator writes its next batches over those it gave."""
        values = labels.asnumpy()
        wrong = values[(values < 0) | (values >= self.request.classes)]
        if len(wrong):
            raise UserError(
                f"dataset.root: expected labels from 0 to {self.request.classes - 1} in "
                f"{self.rec}, got {wrong[0]:g}; set dataset.classes if it has more classes"
            )
        return images.copy(), labels.copy()

    def _iterator(self, **options: object) -> mx.io.MXDataIter:
        return mx.io.ImageRecordIter(
            path_imgrec=str(self.rec),
            path_imgidx=str(self.idx),
            data_shape=self.request.shape,
            preprocess_threads=self.request.threads,
            **{f"mean_{channel}": value for channel, value in zip("rgb", crops.MEAN)},
            **{f"std_{channel}": value for channel, value in zip("rgb", crops.STD)},
            inter_method=9,  # averages areas when it shrinks, so that fine patterns do not alias
            prefetch_buffer=1,  # these are never freed; it prefetches 16 in any case
            verbose=False,
            **options,
        )

    def _centre(self) -> dict[str, object]:
        return {"resize": round(self.request.shape[1] * crops.SHORTER_SIDE)}

    def _augmentation(self) -> dict[str, object]:
        return {
            "random_resized_crop": True,
            "min_random_area": crops.AREA[0],
            "max_random_area": crops.AREA[1],
            "min_aspect_ratio": crops.ASPECT[0],
            "max_aspect_ratio": crops.ASPECT[1],
            "rand_mirror": True,
            "brightness": crops.JITTER,
            "contrast": crops.JITTER,
            "saturation": crops.JITTER,
            "pca_noise": crops.LIGHTING,
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
            image = self._read(index, partial(crops.random_box, rng=rng))  # (3, size, size)
            crops.recolour(image, rng)
            image = crops.normalise(image)
            return image[:, :, ::-1] if rng.random() < 0.5 else image

        return self._batches(batches, read, self.listing.labels[order])

    def validation(self, batch_size: int) -> Iterator[Batch]:
        own = range(self.size)[self.request.shard.slice(self.size)]
        batches = [own[begin : begin + batch_size] for begin in range(0, len(own), batch_size)]
        return self._batches(batches, self._read_centre, self.listing.labels)

    def _read_centre(self, index: int) -> np.ndarray:
        size = self.request.shape[1]
        return crops.normalise(self._read(index, partial(crops.centre_box, size=size)))

    def _read(self, index: int, choose: Callable[[int, int], crops.Box]) -> np.ndarray:
        path = self.root / self.listing.files[index]
        try:
            return crops.read_crop(path, self.request.shape[1], choose)
        except Undecodable as error:
            raise UserError(
                f"dataset.root: {path} {error}; delete it, or make records with "
                "`trnet prepare`, which skips such files"
            ) from None

    def _batches(
        self, batches: list[range], read: Callable[[int], np.ndarray], labels: np.ndarray
    ) -> Iterator[Batch]:
        """Read images in threads, some batches ahead, and stack them into batches."""
        flat = (row for rows in batches for row in rows)
        ahead = _BATCHES_AHEAD * max(map(len, batches), default=0)
        with closing(map_ahead(read, flat, self.request.threads, ahead)) as images:
            for rows in batches:
                batch = np.stack([next(images) for _ in rows])  # (batch, 3, size, size)
                yield mx.nd.array(batch), mx.nd.array(labels[rows], dtype="float32")
