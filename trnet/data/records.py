"""Records of images, found by their index: checked before they are trusted, and read one by one.

A line of an ``.idx`` is a record's key and its offset in bytes. A ``.crc32``, which the preparation
writes, has the CRC-32 of every record as it is stored, in the index's order. MXNet's own readers
end the whole process on damaged files.
"""

from __future__ import annotations

import os
import re
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
from pydantic import BeforeValidator

from trnet.data.images import Undecodable
from trnet.data.recordio import FIRST, HEADER, LENGTH_BITS, MAGIC, WHOLE, unframe
from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.files import File, Sealed, check_described, check_seal, read_json

VERSION = 1  # of a preparation's note

# How a record of one part begins in the file.
_BEGIN = np.dtype([("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4")])
_LARGEST_LABEL = 2**24  # above it, float32 does not tell labels apart
_CHUNK = 8192  # records whose beginnings one thread reads at a time


@dataclass(frozen=True)
class Index:
    """Where records are.

    Attributes
    ----------
    path : Path
    keys, offsets : np.ndarray
        int64, (n,) each; offsets in bytes.
    sums : np.ndarray or None
        uint32, (n,): the CRC-32 of every record as it is stored.
    """

    path: Path
    keys: np.ndarray
    offsets: np.ndarray
    sums: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The index as MXNet reads it."""
        return "".join(f"{key}\t{offset}\n" for key, offset in zip(self.keys, self.offsets))


def read_index(idx: Path, crc32: Path | None = None) -> Index:
    """Read an index, and the checksums beside it.

    Raises
    ------
    UserError
        If either is no such file, or a key or an offset is there twice.
    """
    index = _parse_lines(idx, columns=2)
    if crc32 is None:
        return index
    sums = np.frombuffer(crc32.read_bytes(), np.uint8)
    if len(sums) != 4 * len(index.keys):
        raise UserError(
            f"{crc32}: expected {len(index.keys)} checksums of 4 bytes, one per line of "
            f"{idx.name}, got {len(sums)} bytes"
        )
    return Index(idx, index.keys, index.offsets, sums.view("<u4"))


def read_lines(path: Path) -> Index:
    """Read what :class:`Writer` notes of its records."""
    return _parse_lines(path, columns=4)


def _parse_lines(path: Path, columns: int) -> Index:
    content = path.read_bytes()
    number = rb"\d{1,18}"  # fits in 64 bits
    line = rb"\t".join([number] * columns)
    if not re.fullmatch(rb"(?:%b\r?\n)*%b(?:\r?\n)?" % (line, line), content):
        what = "key and offset" if columns == 2 else "key, offset, CRC-32 and length"
        got = "other text" if content else "an empty file"
        raise UserError(f"{path}: expected one line per record, its {what}, got {got}")
    numbers = np.fromstring(content, np.int64, sep=" ").reshape(-1, columns)
    for what, values in (("key", numbers[:, 0]), ("offset", numbers[:, 1])):
        found, counts = np.unique(values, return_counts=True)
        if len(found) < len(values):
            raise UserError(
                f"{path}: expected every {what} once, got {found[counts.argmax()]} "
                f"{counts.max()} times"
            )
    return Index(path, *numbers.T[:3])


class Note(Sealed):
    """``train.json``, which the preparation writes beside ``train.rec``.

    Attributes
    ----------
    version : int
        Of this structure.
    files : str
        SHA-256 of the images' names and sizes.
    resize, quality : int or None, int
        The preparation's.
    size : int
        Of the ``.rec``, in bytes.
    beside : dict of str to File
        The other files, by their suffix.
    """

    version: int
    files: str
    resize: Optional[int]
    quality: int
    size: int
    beside: dict[str, File]


def _of_this_version(content: Any) -> Any:
    """A note in this version's form; another version is refused before its keys are."""
    if isinstance(content, dict) and content.get("version") != VERSION:
        raise ValueError(
            f"expected version {VERSION}, got {content.get('version')}; another release of trnet "
            "made these records: prepare them again, or delete this file to use them without "
            "checksums"
        )
    return check_seal(content)


def beside(rec: Path, suffix: str) -> Path:
    """The file of another suffix beside a ``.rec``, such as ``train.classes.txt``."""
    return rec.with_name(f"{rec.name.removesuffix('.rec')}.{suffix}")


def open_records(rec: Path, threads: int = 1) -> tuple[Records, list[str] | None]:
    """Open a RecordIO file and its index; give the names of its classes, too, if they are noted.

    Raises
    ------
    UserError
        If a file is missing or damaged.
    """
    idx, crc32, names, note = (
        beside(rec, suffix) for suffix in ("idx", "crc32", "classes.txt", "json")
    )
    if not idx.is_file():
        raise UserError(
            f"{rec}: expected {idx.name} in the same folder, got none; `trnet prepare` makes both"
        )
    if note.is_file():
        read_note(rec)
    index = read_index(idx, crc32 if crc32.is_file() else None)
    records = Records(rec, index, threads)
    if not names.is_file():
        return records, None
    text = names.read_bytes().decode(errors="surrogateescape")
    return records, text.removesuffix("\n").split("\n")


def read_note(rec: Path) -> Note:
    """Read the note of a preparation, and check all files beside it against it.

    Raises
    ------
    UserError
        If one of them is not as it was written.
    """
    path = beside(rec, "json")
    note: Note = read_json(path, Annotated[Note, BeforeValidator(_of_this_version)])
    for suffix, expected in note["beside"].items():
        check_described(beside(rec, suffix), expected, path)
    if rec.stat().st_size != note["size"]:
        raise UserError(
            f"{rec}: expected {note['size']} bytes, as {path.name} notes, got "
            f"{rec.stat().st_size}; copy it again"
        )
    return note


class Records:
    """The records of a RecordIO file, of which all beginnings and lengths are checked.

    Parameters
    ----------
    rec : Path
    index : Index
    threads : int
        That read the beginnings.

    Attributes
    ----------
    rec : Path
    keys, labels : np.ndarray
        int64, (n,), in the index's order.

    Raises
    ------
    UserError
        If the index is not of this file from its first byte to its last, or a record's label is
        not one whole number.
    """

    def __init__(self, rec: Path, index: Index, threads: int = 1) -> None:
        self.rec, self.keys, self._index = rec, index.keys, index
        self._file = os.open(rec, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        order = np.argsort(index.offsets)
        ends = np.append(index.offsets[order[1:]], os.fstat(self._file).st_size)
        self._lengths = np.empty_like(ends)
        self._lengths[order] = ends - index.offsets[order]
        if index.offsets[order[0]] != 0:
            raise self._mismatch("the first record at byte 0", index.offsets[order[0]])
        self.labels = self._check_beginnings(threads)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        """A record's name in messages."""
        return f"{self.rec}: record {self.keys[i]}"

    def read(self, i: int) -> bytes:
        """Read the bytes of a record's image file.

        Raises
        ------
        Undecodable
            If the record is damaged.
        """
        return self._content(i)[HEADER.size :]

    def _content(self, i: int) -> bytes:
        record, sums = self._stored(i), self._index.sums
        if sums is not None and zlib.crc32(record) != sums[i]:
            raise Undecodable("is damaged: its checksum is not the recorded one")
        content = unframe(record)
        if content is None:
            raise Undecodable("is damaged")
        return content

    def _stored(self, i: int) -> bytes:
        offset, left, parts = int(self._index.offsets[i]), int(self._lengths[i]), []
        while left:
            try:
                part = os.pread(self._file, left, offset)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.rec)) from None
            if not part:
                raise Undecodable("cannot be read: the file ends before")
            parts.append(part)
            offset, left = offset + len(part), left - len(part)
        return b"".join(parts)

    def _check_beginnings(self, threads: int) -> np.ndarray:
        """The labels, once every record begins and ends where the index has it."""
        offsets = self._index.offsets.tolist()
        size = _BEGIN.itemsize

        def beginnings(begin: int) -> bytes:
            reads = (os.pread(self._file, size, at) for at in offsets[begin : begin + _CHUNK])
            return b"".join(part.ljust(size, b"\0") for part in reads)

        chunks = map_ahead(beginnings, range(0, len(offsets), _CHUNK), threads, threads)
        begins = np.frombuffer(b"".join(chunks), _BEGIN)
        kinds, lengths = np.divmod(begins["word"].astype(np.int64), 1 << LENGTH_BITS)
        fits = (begins["magic"] == MAGIC) & (kinds == WHOLE) & (lengths >= HEADER.size)
        fits &= 8 + lengths + -lengths % 4 == self._lengths
        for i in np.flatnonzero(~fits).tolist():
            if kinds[i] != FIRST or not self._is_of_parts(i):
                raise self._mismatch(
                    f"record {self.keys[i]} in {self._lengths[i]} bytes from byte {offsets[i]} on",
                    "something else",
                )
        labels, flags = begins["label"], begins["flag"]
        is_whole = np.floor(labels) == labels  # NaN is not
        fits = (flags == 0) & is_whole & (labels >= 0) & (labels < _LARGEST_LABEL)
        for i in np.flatnonzero(~fits)[:1]:
            got = f"{labels[i]:g}" if flags[i] == 0 else f"{flags[i]} labels"
            raise UserError(f"{self.name(i)}: expected one label, a whole number, got {got}")
        return labels.astype(np.int64)

    def _is_of_parts(self, i: int) -> bool:
        try:
            return len(self._content(i)) >= HEADER.size
        except Undecodable:
            return False

    def _mismatch(self, expected: str, got: object) -> UserError:
        return UserError(
            f"{self.rec}: expected {expected}, as in {self._index.path.name}, got {got}; copy "
            "both files again"
        )
