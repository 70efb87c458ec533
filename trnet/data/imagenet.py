"""ImageNet, and any images with the same layout: RecordIO files, or folders of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trnet.data import crops
from trnet.data.images import Undecodable, faults, list_images
from trnet.data.records import open_records
from trnet.data.source import Batch, DataSource, Request
from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.tensor.backend import mx

_BATCHES_AHEAD = 3  # that threads read before their turn


def imagenet(request: Request) -> DataSource:
    """ImageNet from ``train.rec`` and ``val.rec``, or from the folders ``train/`` and ``val/``.

    Records need their index (``train.idx``) in the same folder, image folders hold one folder per
    class, and records are preferred to a folder. Images are normalised by ImageNet's mean and
    standard deviation. Training images are cropped and resized at random, mirrored, and changed in
    colour; without augmentation they are cropped as in validation: the centre of the image, after
    its shorter side is resized to 8/7 of the crop.

    An epoch is the same for any number of threads and of workers.

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
    images = {name: _open(root, name, request) for name in ("train", "val")}
    _check_classes(root, images["train"].classes, images["val"].classes, request.classes)
    for part in images.values():
        part.check_labels(request.classes)
    note = {f"ignored in {name}": part.note for name, part in images.items() if part.note}
    for name in request.skip_damaged:
        images[name], n_skipped = images[name].without_damaged(request.threads)
        if n_skipped:
            note[f"skipped in {name}"] = f"{n_skipped} damaged images"
    train, validation = images.values()
    workers = request.shard.count
    if len(train) < workers:
        raise UserError(
            f"dataset.root: expected at least {workers} images to train on, one per worker, got "
            f"{len(train)} in {root}"
        )
    reader = _Reader(request)

    def train_epoch(batch_size: int, seed: tuple[int, ...]) -> Iterator[Batch]:
        steps, size = source.train_batches(batch_size), min(batch_size, len(train))
        return reader.train(train, steps, size, seed)

    source = DataSource(
        len(train), len(validation), train_epoch, partial(reader.validation, validation), note
    )
    return source


@dataclass(frozen=True)
class _Images:
    """The images of a part of the data set: where their bytes and labels are.

    Attributes
    ----------
    content : callable
        From a number to the bytes of an image file.
    name : callable
        From a number to the file or record, for messages.
    numbers, labels : np.ndarray
        int, (n,), of each image.
    classes : list of str or None
        By label, if their names are known.
    note : str
        What was ignored, for the result.
    """

    content: Callable[[int], bytes]
    name: Callable[[int], str]
    numbers: np.ndarray
    labels: np.ndarray
    classes: list[str] | None
    note: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    def check_labels(self, classes: int) -> None:
        """Refuse labels that are of no class."""
        for i in np.flatnonzero(self.labels >= classes)[:1]:
            raise UserError(
                f"dataset.root: {self.name(self.numbers[i])}: expected a label from 0 to "
                f"{classes - 1}, got {self.labels[i]}; set dataset.classes if there are more "
                "classes"
            )

    def without_damaged(self, threads: int) -> tuple[_Images, int]:
        """Decode all images; give those that are undamaged, and the number of the others."""
        found = faults(self.content, self.numbers, threads)
        # The bar is for terminals, where the minutes that ImageNet takes would be a puzzle.
        bar = tqdm(found, "look for damaged images", len(self), leave=False, disable=None)
        is_sound = np.fromiter((fault is None for fault in bar), bool, len(self))
        if not is_sound.any():
            name = self.name(self.numbers[0])
            raise UserError(
                f"dataset.root: {name}: expected at least one undamaged image, got none"
            )
        kept = replace(self, numbers=self.numbers[is_sound], labels=self.labels[is_sound])
        return kept, len(self) - len(kept)


def _open(root: Path, name: str, request: Request) -> _Images:
    """One part of the data set, in the form that is there."""
    rec, folder = root / f"{name}.rec", root / name
    try:
        if rec.is_file():
            records, classes = open_records(rec, request.threads)
            numbers = np.arange(len(records))
            return _Images(records.read, records.name, numbers, records.labels, classes)
        if folder.is_dir():
            listing = list_images(folder)
            paths = [folder / file for file in listing.files]
            return _Images(
                lambda number: paths[number].read_bytes(),
                lambda number: str(paths[number]),
                np.arange(len(paths)),
                listing.labels,
                listing.classes,
                f"{listing.ignored} entries of class folders that are no images"
                if listing.ignored
                else "",
            )
    except UserError as error:
        raise UserError(f"dataset.root: {error}") from None
    raise UserError(f"dataset.root: expected {rec.name} or {name}/ in {root}, got neither")


def _check_classes(
    root: Path, train: list[str] | None, validation: list[str] | None, wanted: int
) -> None:
    known = [classes for classes in (train, validation) if classes is not None]
    if len(known) == 2 and train != validation:
        label, (one, other) = next(
            (i, pair) for i, pair in enumerate(zip_longest(train, validation)) if len({*pair}) > 1
        )
        raise UserError(
            f"dataset.root: expected the same classes in train and val of {root}, got {len(train)} "
            f"in train and {len(validation)} in val; class {label} is {one} in train and {other} "
            "in val"
        )
    if known and len(known[0]) != wanted:
        raise UserError(
            f"dataset.classes: expected {len(known[0])}, the number of classes in {root}, got "
            f"{wanted}"
        )


@dataclass(frozen=True)
class _Reader:
    """Batches of images that Pillow decodes in threads."""

    request: Request

    def train(
        self, images: _Images, steps: int, batch_size: int, seed: tuple[int, ...]
    ) -> Iterator[Batch]:
        """One epoch, in an order and with an augmentation that the seed decides."""
        order = np.random.default_rng(seed).permutation(len(images))
        rows = self.request.shard.slice(batch_size)
        batches = [
            range(step * batch_size + rows.start, step * batch_size + rows.stop)
            for step in range(steps)
        ]

        def read(position: int) -> np.ndarray:
            i = order[position]
            if not self.request.augment:
                return self._read_centre(images, i)
            rng = np.random.default_rng((*seed, position))
            image = self._read(images, i, partial(crops.random_box, rng=rng))  # (3, size, size)
            crops.recolour(image, rng)
            image = crops.normalise(image)
            return image[:, :, ::-1] if rng.random() < 0.5 else image

        return self._batches(batches, read, images.labels[order])

    def validation(self, images: _Images, batch_size: int) -> Iterator[Batch]:
        """The worker's share of the images, in their order."""
        own = range(len(images))[self.request.shard.slice(len(images))]
        batches = [own[begin : begin + batch_size] for begin in range(0, len(own), batch_size)]
        return self._batches(batches, partial(self._read_centre, images), images.labels)

    def _read_centre(self, images: _Images, i: int) -> np.ndarray:
        size = self.request.shape[1]
        return crops.normalise(self._read(images, i, partial(crops.centre_box, size=size)))

    def _read(self, images: _Images, i: int, choose: Callable[[int, int], crops.Box]) -> np.ndarray:
        number = images.numbers[i]
        try:
            return crops.read_crop(images.content(number), self.request.shape[1], choose)
        except Undecodable as error:
            raise UserError(
                f"dataset.root: {images.name(number)} {error}; delete it, set "
                "dataset.damaged: skip, or make records with `trnet prepare`, which skips such "
                "files"
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
