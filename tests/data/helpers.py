"""Requests, and what the tests compare: batches, files, and messages of one line."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from trnet.data import WHOLE, Request
from trnet.data.prepare import prepare
from trnet.errors import UserError

SIZE = 56  # 64 before the crop
MEAN = np.array([123.68, 116.779, 103.939], "float32")[:, None, None]
STD = np.array([58.393, 57.12, 57.375], "float32")[:, None, None]


def digits_request(root=None, augment=True, shard=WHOLE) -> Request:
    return Request(root, augment, classes=10, shape=(1, 28, 28), shard=shard)


def labels(batches) -> list:
    return [label for _, part in batches for label in part.asnumpy().astype(int)]


def images_request(root, augment=False, shard=WHOLE, threads=2, classes=4, size=SIZE) -> Request:
    return Request(str(root), augment, classes, (3, size, size), threads, shard)


def to_records(folder: Path, root: Path) -> Path:
    for part in ("train", "val"):
        prepare(folder / part, root / part, jobs=2, show=False)
    return root


def arrays(batches) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images.asnumpy(), labels.asnumpy()) for images, labels in batches]


def joined(batches) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate(part) for part in zip(*arrays(batches)))


def prints(batches) -> list[bytes]:
    """One fingerprint per image."""
    return [image.tobytes() for images, _ in arrays(batches) for image in images]


def by_hand(path: Path) -> np.ndarray:
    """The centre crop in [0, 255], (3, SIZE, SIZE), of an image resized as a whole."""
    image = Image.open(path).convert("RGB")
    shorter = min(image.size)
    resized = image.resize([64 * side // shorter for side in image.size], Image.BILINEAR)
    left, upper = ((side - SIZE) // 2 for side in resized.size)
    crop = resized.crop((left, upper, left + SIZE, upper + SIZE))
    return np.asarray(crop, "float32").transpose(2, 0, 1)


def one_line(function, *said: str) -> None:
    """Call what must be refused, in one line that says all of ``said``."""
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        function()
    assert [words for words in said if words not in str(error.value)] == []


def read(output: Path) -> dict[int, tuple]:
    """The records' headers and contents by key."""
    reader = mx.recordio.MXIndexedRecordIO(f"{output}.idx", f"{output}.rec", "r")
    return {key: mx.recordio.unpack(reader.read_idx(key)) for key in reader.keys}


def files_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.parent.iterdir()}


def unfinish(output: Path, source: Path, **options) -> None:
    """Make partial files from finished ones, as they are before the renames at the end."""
    blocked = output.with_name("train.classes.txt")
    for suffix in ("rec", "idx", "crc32", "json", "skipped.txt", "classes.txt"):
        Path(f"{output}.{suffix}").unlink()
    blocked.mkdir()  # so that everything but the end succeeds
    with pytest.raises(OSError):
        prepare(source, output, show=False, **options)
    blocked.rmdir()
    for path in (*output.parent.glob(".train*"), output.with_name("train.idx")):
        path.unlink()
