"""Files that are complete or absent, and one clear line for those that are damaged.

Objects in JSON files carry a checksum of their own: a file that was changed but is still JSON is
not read as if it were whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from trnet.errors import UserError

_adapter = cache(TypeAdapter)  # building one takes longer than reading a file


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in errors of writing it: a full disk is noticed when no name is known."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Give a name beside a file to write to; what is there takes the file's place in the end.

    No reader ever sees half of it, and an earlier file stays if anything fails.

    Raises
    ------
    OSError
        If there is no such folder, or not all of it reaches the disk.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "there is no such folder", str(path.parent))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield beside
            sync(beside, path)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_aside(path: Path, text: str) -> None:
    """Write a text with :func:`aside`. Names of files that are not in UTF-8 keep their bytes."""
    with aside(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")


class File(TypedDict):
    """What is recorded of a file, to compare it with later."""

    size: int
    sha256: str


def described(path: Path) -> File:
    """The size of a file in bytes, and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def check_described(path: Path, expected: File | None, noted: Path) -> None:
    """Compare a file with its size and SHA-256 as another file records them.

    Raises
    ------
    UserError
        If it is not as it was described, or cannot be read.
    """
    try:
        found = described(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if found != expected:
        raise UserError(f"{path}: is damaged: its checksum is not that of {noted.name}")


def write_checksum(path: Path) -> None:
    """Write a file's SHA-256 beside it, as sha256sum does, which checks it, too."""
    write_aside(_sidecar(path), f"{described(path)['sha256']}  {path.name}\n")


def check_checksum(path: Path) -> None:
    """Check a file against the SHA-256 beside it, if there is one.

    Raises
    ------
    UserError
        If it is another one.
    """
    sidecar = _sidecar(path)
    if path.is_file() and sidecar.is_file():
        expected = sidecar.read_bytes().split()[:1]
        if expected != [described(path)["sha256"].encode()]:
            raise UserError(f"{path}: is damaged: its checksum is not that of {sidecar.name}")


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def sync(path: Path, name: Path | None = None) -> None:
    """Wait until a file, or a folder's names, are on the disk; errors may call it by a ``name``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(name or path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed(content: dict) -> dict:
    """An object with its ``checksum``, for a file that :func:`read_json` reads."""
    return {**content, "checksum": _checksum(content)}


def _checksum(content: dict) -> str:
    """Sixteen hexadecimal digits of all keys but ``checksum``, whatever their order."""
    own = {key: value for key, value in content.items() if key != "checksum"}
    canonical = json.dumps(own, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Sealed(TypedDict):
    """An object of a JSON file with the checksum that :func:`sealed` gives it."""

    checksum: str


def check_seal(content: Any) -> Any:
    """Give an object of a JSON file back, if it is what was written: a validator for pydantic."""
    if isinstance(content, dict) and content.get("checksum") not in (None, _checksum(content)):
        raise ValueError("is damaged: its checksum is not that of its content")
    return content


def read_json(path: Path, form: Any) -> Any:
    """Read a JSON file that trnet wrote.

    Parameters
    ----------
    path : Path
    form : type
        The expected structure, such as ``list[Result]``; keys that it does not name are kept.

    Raises
    ------
    UserError
        If the file cannot be read, is not JSON, or has another structure.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _adapter(form).validate_python(content, strict=True)
    except ValidationError as error:
        where, why = _first(error)
        raise UserError(f"{path}: {where}: {why}" if where else f"{path}: {why}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return content


def _first(error: ValidationError) -> tuple[str, str]:
    """The key of the first thing that is wrong, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":  # a message of ours
        return where, str(first["ctx"]["error"])
    if first["type"] == "missing":
        return where, "is missing; the file was changed or damaged"
    got = reprlib.repr(first["input"])
    return where, f"{first['msg'].lower()}, got {got}; the file was changed or damaged"
