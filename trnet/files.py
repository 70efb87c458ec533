"""Files that are whole or not there, and what is said of those that are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from trnet.errors import UserError


def write_aside(path: Path, text: str) -> None:
    """Write a text beside its place and rename it there, so that no reader sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


class Curve(TypedDict):
    """What is noted of every epoch."""

    train_loss: list[float]
    top1: list[float]


class Images(TypedDict):
    """What is noted of a run's data set."""

    name: str
    train: int
    validation: int


class Result(TypedDict):
    """What of a run's ``result.json`` the reports need; it holds more."""

    name: str
    suite: str
    seed: int
    config_hash: str
    dataset: Images
    top1: float
    top5: float
    versions: dict[str, str]
    processor: str
    curve: NotRequired[Curve]


class Epoch(TypedDict):
    """What of an epoch's metrics a training that goes on needs; they are more."""

    epoch: int
    top1: float


class Head(TypedDict):
    """What is noted of a head that was counted."""

    model_hash: str
    weights: int


def read_json(path: Path, form: Any) -> Any:
    """Read a JSON file of ours.

    Parameters
    ----------
    path : Path
    form : type
        Its structure, as ``dict[str, Head]``; keys that this does not name are left as they are.

    Raises
    ------
    UserError
        Where it cannot be read, is no longer JSON, or is of another structure.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        TypeAdapter(form).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}; it was changed or damaged") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return content
