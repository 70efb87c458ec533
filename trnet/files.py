"""Files that are complete or absent, and one clear line for those that are damaged."""

from __future__ import annotations

import json
import os
import reprlib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trnet.errors import UserError

_adapter = cache(TypeAdapter)  # building one takes longer than reading a file


def write_aside(path: Path, text: str) -> None:
    """Write a text beside its place and rename it, so that no reader ever sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


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
    except (OSError, ValueError) as error:
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
