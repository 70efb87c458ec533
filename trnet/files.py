"""Files that are complete or absent, and one clear line for those that are damaged.

Objects in JSON files carry a checksum of their own: a file that was changed but is still JSON is
not read as if it were whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from trnet.errors import UserError

MANIFEST = "manifest.json"  # of files in a folder, with the size and the SHA-256 of each

_adapter = cache(TypeAdapter)  # building one takes longer than reading a file


def write_aside(path: Path, text: str) -> None:
    """Write a text beside its place and rename it, so that no reader ever sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    # Names of files that are not in UTF-8 keep their bytes.
    with aside.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


class File(TypedDict):
    """What is noted of a file, to hold it against later."""

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
    """Hold a file against what another one notes of it.

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


def note_in_manifest(*paths: Path) -> None:
    """Note files of one folder in the manifest beside them, which keeps its other entries."""
    manifest = paths[0].parent / MANIFEST
    noted = read_json(manifest, dict[str, File]) if manifest.is_file() else {}
    noted.update({path.name: described(path) for path in paths})
    write_aside(manifest, json.dumps(noted, indent=1) + "\n")


def check_noted(path: Path) -> None:
    """Hold a file against the manifest beside it, if there is one that notes the file.

    Raises
    ------
    UserError
        If it is not as the manifest has it.
    """
    manifest = path.parent / MANIFEST
    noted = read_json(manifest, dict[str, File]) if manifest.is_file() else {}
    if path.name in noted:
        check_described(path, noted[path.name], manifest)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
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
