"""The layout of MXNet's ``.params`` files, which is checked before MXNet reads one.

MXNet may wait forever for a damaged file. The layout, all little-endian: a magic number and a
reserved word of 8 bytes; the number of arrays, and each of them; the number of names, and each
with its length. An array is a magic number, its storage, its number of dimensions and their sizes,
its device, its type and its values.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

_LIST_MAGIC, _ARRAY_MAGICS = 0x112, (0xF993FAC9, 0xF993FACA)  # of MXNet 1.0 and later
_DENSE = 0
_BYTES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 12: 2}  # by the number of the type
_MOST_DIMENSIONS = 32  # as in NumPy


def check_layout(path: Path) -> None:
    """Follow a file from its first byte to its last, without reading values.

    Raises
    ------
    ValueError
        If it is not a list of dense arrays with a name for each.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        try:
            magic, _, n_arrays = _read(file, "<3Q")
            if magic != _LIST_MAGIC:
                raise ValueError("it is no file of MXNet's arrays")
            for _ in range(n_arrays):
                _skip_array(file, size)
            (n_names,) = _read(file, "<Q")
            names = [_name(file, size) for _ in range(min(n_names, n_arrays + 1))]
        except struct.error:
            raise ValueError("it ends before its arrays do") from None
        if n_names == 0:
            raise ValueError("its arrays have no names")
        if len(set(names)) != n_arrays or n_names != n_arrays:
            raise ValueError(f"it has {n_arrays} arrays and {len(set(names))} names")
        if file.tell() != size:
            raise ValueError("it has more bytes than its arrays")


def _skip_array(file: BinaryIO, size: int) -> None:
    magic, storage, n_dimensions = _read(file, "<I2i")
    if magic not in _ARRAY_MAGICS or storage != _DENSE:
        raise ValueError("an array is not dense, or of a format before MXNet 1.0")
    if not 0 < n_dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"an array has {n_dimensions} dimensions")
    shape = _read(file, f"<{n_dimensions}q")
    *_, kind = _read(file, "<3i")
    if kind not in _BYTES or min(shape) < 0:
        raise ValueError("an array has no known type or shape")
    _skip(file, math.prod(shape) * _BYTES[kind], size)


def _name(file: BinaryIO, size: int) -> bytes:
    (length,) = _read(file, "<Q")
    begin = file.tell()
    _skip(file, length, size)
    file.seek(begin)
    return file.read(length)


def _skip(file: BinaryIO, length: int, size: int) -> None:
    end = file.tell() + length
    if end > size:
        raise ValueError("it ends before its arrays do")
    file.seek(end)


def _read(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))
