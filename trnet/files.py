"""Files that are whole or not there, and what is said of those that are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trnet.errors import UserError


def write_aside(path: Path, text: str) -> None:
    """Write a text beside its place and rename it there, so that no reader sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises
    ------
    UserError
        Where it cannot be read, or is no longer JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
