"""A folder of images by classes, and the RecordIO files made of it: written, resumed, verified."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from trnet.errors import UserError
from trnet.files import read_json, write_aside
from trnet.tensor.backend import mx

# dmlc's RecordIO: every part of a record is its magic number, its kind and length in one word, and
# its bytes, padded to whole words.
_ORIENTATION = 0x0112  # EXIF's tag
_MAGIC = 0xCED7230A
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

_HEADER_BYTES = 24  # of MXNet's IRHeader
_AHEAD = 16  # records of every thread that may wait for one that takes long

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Listing:
    """The images of a folder that holds a folder for every class.

    Attributes
    ----------
    classes : list of str
        The folders' names, sorted; a class's label is its place here.
    files : list of str
        ``class/file``, sorted.
    labels : np.ndarray
        int, (n,).
    """

    classes: list[str]
    files: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Preparation:
    """What a preparation came to.

    Attributes
    ----------
    images, classes : int
    skipped : dict
        The reason by file, of those that are no images or damaged ones.
    made : bool
        Whether the records were made; otherwise they were there, and verified only.
    """

    images: int
    classes: int
    skipped: dict[str, str]
    made: bool


def list_images(folder: Path) -> Listing:
    """List a folder of class folders; what is hidden is left out.

    Raises
    ------
    UserError
        Where it is no such folder, or a class has no images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; one with a folder of images per class would fit")
    with os.scandir(folder) as inside:
        entries = [entry for entry in inside if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    if entries and not classes:
        raise UserError(
            f"{folder}: holds {len(entries)} files and no class folders; ImageNet's validation "
            "images come like that: sort them into one folder per class first"
        )
    if not classes:
        raise UserError(f"{folder}: is empty; one folder of images per class would fit")
    files, labels = [], []
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as inside:
            own = sorted(
                entry.name for entry in inside if entry.is_file() and not entry.name.startswith(".")
            )
        if not own:
            raise UserError(f"{folder / name}: holds no images; fill it, or remove it")
        files += [f"{name}/{file}" for file in own]
        labels += [label] * len(own)
    return Listing(classes, files, np.array(labels))


class Undecodable(Exception):
    """What is wrong with a file, which gives no image or no record."""


@contextmanager
def decoding() -> Iterator[None]:
    """Make one kind of error of the many that Pillow's decoders raise for damaged bytes."""
    # GluonCV, once imported, has Pillow fill up what is missing of any image of the process.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except UnidentifiedImageError:
        raise Undecodable("is no image") from None
    except Exception as error:
        raise Undecodable(f"cannot be decoded: {' '.join(str(error).split())}") from None


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says, as MXNet's decoder does."""
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, as MXNet's decoder does it."""
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would cut off the upper ones
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    return image.convert("RGB")


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int, ahead: int
) -> Iterator[_Result]:
    """Map in threads and in order, some items ahead of the consumer; no thread outlives it."""
    pool = ThreadPoolExecutor(threads)
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_index(rec: Path, idx: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the index of a RecordIO file, and check that the file ends where its last record does.

    Returns
    -------
    np.ndarray, np.ndarray
        Keys and byte offsets, int64, (n,) each.
    """
    size = rec.stat().st_size
    try:
        entries = np.loadtxt(idx, dtype=np.int64, ndmin=2) if idx.stat().st_size else None
    except ValueError:
        entries = None
    if entries is None or entries.shape[1] != 2 or entries.min() < 0:
        raise UserError(f"{idx}: is no index of records; lines of a key and an offset would fit")
    with rec.open("rb") as file:
        if _record_end(file, int(entries[:, 1].max())) != size:
            raise UserError(f"{rec}: does not end where {idx.name} says; a whole copy would fit")
    return entries[:, 0], entries[:, 1]


def frame(content: bytes) -> bytes:
    """Lay out one record as dmlc's RecordIO does, which MXNet appends to no file that exists."""
    if len(content) >= 1 << _LENGTH_BITS:
        raise Undecodable("is too large: a record holds less than 512 MiB")
    words = np.frombuffer(content, "<u4", count=len(content) // 4)
    cuts = 4 * np.flatnonzero(words == _MAGIC)  # the magic number inside would look like a record
    begins, ends = [0, *(cuts + 4).tolist()], [*cuts.tolist(), len(content)]
    kinds = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST] if len(cuts) else [_WHOLE]
    parts = []
    for kind, begin, end in zip(kinds, begins, ends):
        head = struct.pack("<2I", _MAGIC, kind << _LENGTH_BITS | end - begin)
        parts += [head, content[begin:end]]
    return b"".join([*parts, bytes(-len(content) % 4)])


def prepare(
    source: Path,
    output: Path,
    resize: int | None = None,
    quality: int = 95,
    jobs: int = 1,
    show: bool = True,
) -> Preparation:
    """Make ``output``.rec, .idx, .classes.txt and .skipped.txt of a folder of class folders.

    What is stopped, however hard, goes on where it was, to the same bytes; and nothing has its
    final name before all of it is verified.

    Parameters
    ----------
    source, output : Path
    resize : int, optional
        The shorter side of images that are larger, which are then JPEG of the ``quality`` given;
        all others keep their bytes, if MXNet can decode them.
    quality : int
    jobs : int
        Threads that decode.
    show : bool
        Whether to show progress.

    Raises
    ------
    UserError
        Where records are there that were made of something else, or do not verify.
    """
    listing = list_images(source)
    order = np.random.RandomState(0).permutation(len(listing.files))  # frozen in every numpy
    work = _Work(source, output, listing, order, resize, quality, jobs, show)
    rec, idx = work.beside("rec"), work.beside("idx")
    made = not (rec.exists() and idx.exists())
    if made:
        skipped = work.write()
    else:
        work.check_note(work.beside("json"), rec, "made")
        skipped = work.read_skipped()
        work.verify(rec, idx, skipped)
    work.beside("json.partial").unlink(missing_ok=True)
    images = len(listing.files) - len(skipped)
    return Preparation(images, len(listing.classes), skipped, made)


@dataclass(frozen=True)
class _Work:
    """A preparation; a record's key and id is its position in ``order``."""

    source: Path
    output: Path
    listing: Listing
    order: np.ndarray
    resize: int | None
    quality: int
    jobs: int
    show: bool

    def beside(self, suffix: str) -> Path:
        return self.output.with_name(f"{self.output.name}.{suffix}")

    def file(self, position: int) -> str:
        return self.listing.files[self.order[position]]

    def label(self, position: int) -> int:
        return int(self.listing.labels[self.order[position]])

    def write(self) -> dict[str, str]:
        """Write what is missing of the partial files, verify them, and give them their names."""
        rec, idx = self.beside("rec"), self.beside("idx")
        rec_partial, idx_partial = self.beside("rec.partial"), self.beside("idx.partial")
        half_named = rec_partial.exists() and not idx_partial.exists()  # stopped at the last line
        if rec.exists() or (idx.exists() and not half_named):
            alone, missing = (rec, idx) if rec.exists() else (idx, rec)
            raise UserError(f"{alone}: is there without {missing.name}; its removal would fit")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with rec_partial.open("a+b", buffering=0) as rec_file:
            try:
                fcntl.flock(rec_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{rec_partial}: another process is writing it") from None
            if idx.exists():
                idx.rename(idx_partial)
            self._claim(rec_partial)
            with idx_partial.open("ab", buffering=0) as idx_file:
                skipped = self._append(rec_file, idx_file)
                os.fsync(rec_file.fileno())
                os.fsync(idx_file.fileno())
            self.verify(rec_partial, idx_partial, skipped)
            write_aside(self.beside("classes.txt"), _lines(self.listing.classes))
            if skipped:
                reasons = (f"{file}\t{reason}" for file, reason in skipped.items())
                write_aside(self.beside("skipped.txt"), _lines(reasons))
            else:
                self.beside("skipped.txt").unlink(missing_ok=True)
            write_aside(self.beside("json"), self.beside("json.partial").read_text())
            idx_partial.rename(idx)
            rec_partial.rename(rec)  # last: where it is, its index is
        return skipped

    def read_skipped(self) -> dict[str, str]:
        path = self.beside("skipped.txt")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {file: reason for file, _, reason in (line.rpartition("\t") for line in lines)}

    def verify(self, rec: Path, idx: Path, skipped: dict[str, str]) -> None:
        """Read every record through the index, and check its label and id, and that it decodes."""
        keys, offsets = read_index(rec, idx)
        expected = [p for p in range(len(self.order)) if self.file(p) not in skipped]
        if keys.tolist() != expected:
            raise UserError(
                f"{idx}: lists {len(keys)} records, not the {len(expected)} of {self.source}; "
                f"remove {rec.name} and {idx.name} to make them anew"
            )
        offset_of = dict(zip(expected, offsets.tolist()))
        local = threading.local()

        def fault(position: int) -> str | None:
            if not hasattr(local, "reader"):  # its own for every thread, for it seeks
                local.reader = mx.recordio.MXIndexedRecordIO(os.devnull, str(rec), "r")
                local.reader.idx = offset_of
            try:
                record = local.reader.read_idx(position)
                if record is None or len(record) < _HEADER_BYTES:
                    return "cannot be read"
                header, content = mx.recordio.unpack(record)
                label = self.label(position)
                if header.flag or header.id != position or header.label != label:
                    found = f"has id {header.id} and label {header.label}"
                    return f"{found}, not id {position} and label {label}"
                mx.image.imdecode(content).wait_to_read()
            except mx.MXNetError as error:
                return f"cannot be read: {str(error).strip().splitlines()[-1]}"
            return None

        faults = map_ahead(fault, expected, self.jobs, ahead=_AHEAD * self.jobs)
        with closing(faults), self._bar("verify", len(skipped)) as bar:
            for position, reason in zip(expected, faults):
                if reason is not None:
                    raise UserError(
                        f"{rec}: record {position} ({self.file(position)}) {reason}; "
                        f"remove {rec.name} and {idx.name} to make them anew"
                    )
                bar.update()

    def _claim(self, rec_partial: Path) -> None:
        """Note what the partial files are made of; refuse those made of something else."""
        note = self.beside("json.partial")
        if not rec_partial.stat().st_size:
            write_aside(note, json.dumps(self._made_of()) + "\n")
        else:
            self.check_note(note, rec_partial, "begun")

    def check_note(self, note: Path, rec: Path, was: str) -> None:
        """Refuse records whose note says that they were made of something else."""
        noted, made_of = read_json(note, dict[str, Any]) if note.exists() else {}, self._made_of()
        if noted == made_of:
            return
        how = "of other files"
        if noted.get("files") == made_of["files"]:
            how = f"with resize {noted['resize']} and quality {noted['quality']}"
        raise UserError(f"{rec}: was {was} {how}; the same, or its removal, would fit")

    def _made_of(self) -> dict[str, str | int | None]:
        """What decides the records: the files by name and size, and the options."""
        digest = hashlib.sha256()
        for file in self.listing.files:
            digest.update(os.fsencode(f"{file}\t{(self.source / file).stat().st_size}\n"))
        return {"files": digest.hexdigest(), "resize": self.resize, "quality": self.quality}

    def _append(self, rec: io.FileIO, idx: io.FileIO) -> dict[str, str]:
        """Go on behind the last whole record; returns what was skipped, before too."""
        done = _cut_torn(rec, idx)
        begin = done[-1] + 1 if done else 0
        passed = sorted(set(range(begin)).difference(done))  # once more, for their reasons
        positions = [*passed, *range(begin, len(self.order))]
        offset = rec.seek(0, os.SEEK_END)
        skipped = {}
        made = map_ahead(self._make, positions, self.jobs, ahead=_AHEAD * self.jobs)
        with closing(made), self._bar("prepare", len(self.order) - len(positions)) as bar:
            for position, (record, reason) in zip(positions, made):
                if reason is not None:
                    skipped[self.file(position)] = reason
                elif position < begin:
                    raise UserError(
                        f"{self.source / self.file(position)}: was damaged when {rec.name} was "
                        "begun and no longer is; the removal of that would fit"
                    )
                else:
                    _write_all(rec, record)
                    _write_all(idx, f"{position}\t{offset}\n".encode())
                    offset += len(record)
                bar.update()
        return skipped

    def _make(self, position: int) -> tuple[bytes, str | None]:
        """A record, or the reason why there is none."""
        path = self.source / self.file(position)
        header = mx.recordio.IRHeader(0, self.label(position), position, 0)
        try:
            return frame(mx.recordio.pack(header, self._content(path.read_bytes()))), None
        except Undecodable as error:
            return b"", str(error)

    def _content(self, content: bytes) -> bytes:
        """A file's own bytes where they will do, otherwise JPEG."""
        if not content:
            raise Undecodable("is empty")
        with decoding():
            image = Image.open(io.BytesIO(content))
            image.load()
        if self.resize and min(image.size) > self.resize:
            image = upright(image)
            scale = self.resize / min(image.size)
            size = tuple(round(side * scale) for side in image.size)
            return self._encode(to_rgb(image).resize(size, Image.LANCZOS))
        if image.format == "JPEG" or _decodes_in_mxnet(content):
            return content
        return self._encode(to_rgb(upright(image)))

    def _bar(self, what: str, done: int) -> tqdm:
        hidden = not self.show
        return tqdm(total=len(self.order), initial=done, desc=what, unit=" images", disable=hidden)

    def _encode(self, image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def _decodes_in_mxnet(content: bytes) -> bool:
    """Whether MXNet's OpenCV knows the format; of Pillow's it lacks GIF and WebP, among others."""
    try:
        mx.image.imdecode(content).wait_to_read()
    except mx.MXNetError:
        return False
    return True


def _record_end(file: io.IOBase, offset: int) -> int | None:
    """Where the record at an offset ends, or None if it does not end in the file."""
    size = os.fstat(file.fileno()).st_size
    while True:
        head = os.pread(file.fileno(), 8, offset)
        if len(head) < 8:
            return None
        magic, kind_and_length = struct.unpack("<2I", head)
        if magic != _MAGIC:
            return None
        kind, length = divmod(kind_and_length, 1 << _LENGTH_BITS)
        offset += 8 + length + -length % 4
        if offset > size:
            return None
        if kind in (_WHOLE, _LAST):
            return offset


def _cut_torn(rec: io.FileIO, idx: io.FileIO) -> list[int]:
    """Cut both files off behind the last record that is whole in both; returns the keys left."""
    text = Path(idx.name).read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
    end = None
    while lines and end is None:
        offset = lines[-1].strip().rpartition(b"\t")[2]
        end = _record_end(rec, int(offset)) if offset.isdigit() else None
        if end is None:
            lines.pop()
    rec.truncate(end or 0)
    idx.truncate(sum(map(len, lines)))
    return [int(line.partition(b"\t")[0]) for line in lines]


def _write_all(file: io.FileIO, content: bytes) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise UserError(
            f"{file.name}: {error.strerror}; the same command goes on from there"
        ) from None


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
