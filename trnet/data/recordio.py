"""RecordIO, MXNet's format for images: how records are laid out in a ``.rec``, and appended to it.

A record is a header (flag, label, id) and an image file's bytes. It is stored in one part or more:
a magic number, one word of kind and length, and the bytes, padded to whole words. Beside the
``.rec`` is an index: :mod:`trnet.data.records` reads both.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from itertools import takewhile
from pathlib import Path

import numpy as np

from trnet.errors import UserError
from trnet.files import sync

# The numbers of dmlc-core's recordio.h: 3 bits of kind and 29 of length share a word.
MAGIC = 0xCED7230A
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)

HEADER = struct.Struct("<IfQQ")  # MXNet's IRHeader: the number of further labels, label, id, id2
_LINE = re.compile(rb"\d{1,18}\t\d{1,18}\t\d{1,10}\t\d{1,9}\n")  # of what Writer notes


class TooLarge(Exception):
    """A record is longer than the format can say."""


def pack(key: int, label: int, content: bytes) -> bytes:
    """Make the record of an image file's bytes, as it is stored in a ``.rec``."""
    return frame(HEADER.pack(0, label, key, 0) + content)


def frame(content: bytes) -> bytes:
    """Lay out the bytes of one record; MXNet's writer does it too, but cannot append to a file.

    Raises
    ------
    TooLarge
    """
    if len(content) >= 1 << LENGTH_BITS:
        raise TooLarge(f"expected less than 512 MiB, got {len(content) >> 20} MiB")
    words = np.frombuffer(content, "<u4", count=len(content) // 4)
    cuts = 4 * np.flatnonzero(words == MAGIC)  # the magic number inside would look like a record
    begins, ends = [0, *(cuts + 4).tolist()], [*cuts.tolist(), len(content)]
    kinds = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST] if len(cuts) else [WHOLE]
    parts = []
    for kind, begin, end in zip(kinds, begins, ends):
        head = struct.pack("<2I", MAGIC, kind << LENGTH_BITS | end - begin)
        parts += [head, content[begin:end]]
    return b"".join([*parts, bytes(-len(content) % 4)])


def unframe(record: bytes) -> bytes | None:
    """What :func:`frame` laid out; None if it is not that from its first byte to its last."""
    parts, begin = [], 0
    while begin + 8 <= len(record):
        magic, word = struct.unpack_from("<2I", record, begin)
        kind, length = divmod(word, 1 << LENGTH_BITS)
        if magic != MAGIC or kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            return None
        begin += 8
        parts.append(record[begin : begin + length])
        begin += length + -length % 4
        if kind in (WHOLE, LAST):
            magic = struct.pack("<I", MAGIC)  # it stood between the parts
            return magic.join(parts) if begin == len(record) else None
    return None


class Writer:
    """Appends records to a ``.rec`` and to lines of key, offset, CRC-32 and length.

    Parameters
    ----------
    rec, lines : io.FileIO
        Open for reading and appending, without a buffer. What an interrupted writer left torn at
        the end of either is cut off.

    Attributes
    ----------
    keys : list of int
        Of the records that were there.
    """

    def __init__(self, rec: io.FileIO, lines: io.FileIO) -> None:
        self._rec, self._lines = rec, lines
        self.keys = _cut_torn(rec, lines)
        self._offset = rec.seek(0, os.SEEK_END)

    def append(self, key: int, record: bytes) -> None:
        """Append a packed record, and then its line.

        Raises
        ------
        UserError
            If the disk is full, or the file cannot be written for another reason.
        """
        line = f"{key}\t{self._offset}\t{zlib.crc32(record)}\t{len(record)}\n"
        _write_all(self._rec, record)
        _write_all(self._lines, line.encode())
        self._offset += len(record)

    def sync(self) -> None:
        """Wait until both files are on the disk."""
        for file in (self._rec, self._lines):
            sync(Path(file.name))


def _cut_torn(rec: io.FileIO, lines: io.FileIO) -> list[int]:
    """Cut both files off after the last record that is whole in both; returns the keys left."""
    text = Path(lines.name).read_bytes()
    whole, end = [*takewhile(_LINE.fullmatch, text.splitlines(keepends=True))], None
    while whole and end is None:
        end = _record_end(rec, whole[-1])
        if end is None:
            whole.pop()
    rec.truncate(end or 0)
    lines.truncate(sum(map(len, whole)))
    return [int(line.partition(b"\t")[0]) for line in whole]


def _record_end(rec: io.FileIO, line: bytes) -> int | None:
    """Where the record of a line ends, or None if the file does not hold it as it was written."""
    _, offset, crc32, length = map(int, line.split())
    record = os.pread(rec.fileno(), length, offset)
    return offset + length if zlib.crc32(record) == crc32 else None


def _write_all(file: io.FileIO, content: bytes) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]  # a disk that fills up takes a part first
    except OSError as error:
        raise UserError(
            f"{file.name}: {error.strerror}; run the same command again to resume"
        ) from None
