"""RecordIO, MXNet's format for images: a ``.rec`` of records and an ``.idx`` of their offsets.

A record is a header (flag, label, id) and an image file's bytes. It is stored in one part or more:
a magic number, one word of kind and length, and the bytes, padded to whole words. A line of the
index is a record's key, which is its id, and its offset in bytes.

MXNet's readers end the whole process on a damaged index or a torn file, so :func:`read_index` and
:func:`verify` check both first.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.tensor.backend import mx

# The numbers of dmlc-core's recordio.h: 3 bits of kind and 29 of length share a word.
_MAGIC = 0xCED7230A
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

_HEADER_BYTES = 24  # of MXNet's IRHeader
_AHEAD = 16  # records per thread that are read before their turn


class TooLarge(Exception):
    """A record is longer than the format can say."""


def pack(key: int, label: int, content: bytes) -> bytes:
    """Make the record of an image file's bytes, as it is stored in a ``.rec``."""
    return frame(mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), content))


def frame(content: bytes) -> bytes:
    """Lay out the bytes of one record; MXNet's writer does it too, but cannot append to a file.

    Raises
    ------
    TooLarge
    """
    if len(content) >= 1 << _LENGTH_BITS:
        raise TooLarge(f"expected less than 512 MiB, got {len(content) >> 20} MiB")
    words = np.frombuffer(content, "<u4", count=len(content) // 4)
    cuts = 4 * np.flatnonzero(words == _MAGIC)  # the magic number inside would look like a record
    begins, ends = [0, *(cuts + 4).tolist()], [*cuts.tolist(), len(content)]
    kinds = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST] if len(cuts) else [_WHOLE]
    parts = []
    for kind, begin, end in zip(kinds, begins, ends):
        head = struct.pack("<2I", _MAGIC, kind << _LENGTH_BITS | end - begin)
        parts += [head, content[begin:end]]
    return b"".join([*parts, bytes(-len(content) % 4)])


class Writer:
    """Appends records to a ``.rec`` and its ``.idx``, after the last one complete in both.

    Parameters
    ----------
    rec, idx : io.FileIO
        Open for reading and appending, without a buffer. What an interrupted writer left torn at
        the end of either is cut off.

    Attributes
    ----------
    keys : list of int
        Of the records that were there.
    """

    def __init__(self, rec: io.FileIO, idx: io.FileIO) -> None:
        self._rec, self._idx = rec, idx
        self.keys = _cut_torn(rec, idx)
        self._offset = rec.seek(0, os.SEEK_END)

    def append(self, key: int, record: bytes) -> None:
        """Append a packed record, and then its line of the index.

        Raises
        ------
        UserError
            If the disk is full, or the file cannot be written for another reason.
        """
        _write_all(self._rec, record)
        _write_all(self._idx, f"{key}\t{self._offset}\n".encode())
        self._offset += len(record)

    def sync(self) -> None:
        """Wait until both files are on the disk."""
        os.fsync(self._rec.fileno())
        os.fsync(self._idx.fileno())


def read_index(rec: Path, idx: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the index of a RecordIO file, and check that its last record ends the file.

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
        got = "other text" if idx.stat().st_size else "an empty file"
        raise UserError(f"{idx}: expected one line per record, of its key and offset, got {got}")
    with rec.open("rb") as file:
        if _record_end(file, int(entries[:, 1].max())) != size:
            raise UserError(
                f"{rec}: expected to end with the last record of {idx.name}, got {size} bytes that "
                "do not; copy both files again"
            )
    return entries[:, 0], entries[:, 1]


def verify(
    rec: Path, idx: Path, labels: Mapping[int, int], threads: int
) -> Iterator[tuple[int, str | None]]:
    """Read every record through the index: its id, its label, and whether its image decodes.

    Parameters
    ----------
    rec, idx : Path
    labels : mapping
        From the key of every record expected to its label, in the order of the file.
    threads : int

    Yields
    ------
    int, str or None
        A record's key, and what is wrong with it.

    Raises
    ------
    UserError
        If the index is damaged, or lists other keys.
    """
    keys, offsets = read_index(rec, idx)
    if keys.tolist() != list(labels):
        got = f"{len(keys)}" if len(keys) != len(labels) else "other keys"
        raise UserError(
            f"{idx}: expected {len(labels)} records, got {got}; "
            f"delete {rec.name} and {idx.name} to make them again"
        )
    offset_of = dict(zip(labels, offsets.tolist()))
    local = threading.local()

    def fault(key: int) -> str | None:
        if not hasattr(local, "reader"):  # one per thread, since reading moves its position
            local.reader = mx.recordio.MXIndexedRecordIO(os.devnull, str(rec), "r")
            local.reader.idx = offset_of
        try:
            record = local.reader.read_idx(key)
            if record is None or len(record) < _HEADER_BYTES:
                return "cannot be read"
            header, content = mx.recordio.unpack(record)
            label = labels[key]
            if header.flag or header.id != key or header.label != label:
                got = f"id {header.id} and label {header.label}"
                return f"is damaged: expected id {key} and label {label}, got {got}"
            mx.image.imdecode(content).wait_to_read()
        except mx.MXNetError as error:
            return f"cannot be read: {str(error).strip().splitlines()[-1]}"
        return None

    with closing(map_ahead(fault, labels, threads, _AHEAD * threads)) as faults:
        yield from zip(labels, faults)


def _record_end(file: io.IOBase, offset: int) -> int | None:
    """Where the record at an offset ends, or None if the file does not hold it completely."""
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
    """Cut both files off after the last record that is complete in both; returns the keys left."""
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
            left = left[file.write(left) :]  # a disk that fills up takes a part first
    except OSError as error:
        raise UserError(
            f"{file.name}: {error.strerror}; run the same command again to resume"
        ) from None
