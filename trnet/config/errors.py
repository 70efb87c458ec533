"""What is wrong with a config, as one line: file, key, what was expected, what was got."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from trnet.config.schema import Config, Head, head_schema
from trnet.errors import ConfigError

_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "invalid_key": "a key that is a string",
}
_LIMITS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", "≥"),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "≤"),
}

_ACROSS = re.compile(r"([\w.]+): expected ")  # a check across keys names one of them
_BRACKETS = "YAML has lists in square brackets, as [8, 4, 4, 10]"


def explain(error: ValidationError, tree: Any, path: Path) -> ConfigError:
    """The first thing that is wrong, as one line.

    Parameters
    ----------
    error : ValidationError
        Of :class:`~trnet.config.Config`.
    tree : Tree
        What was validated, with the file of every key.
    path : Path
        The file that was loaded.
    """
    errors = error.errors(include_url=False)
    # A misspelt key is one unknown key and one that is missing; the former says more.
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    keys = _keys(first["loc"])
    file, key = tree.origin_of(keys) or path, ".".join(map(str, keys))
    where = f"{file}: {key}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1], tree)
        if len(keys) == 1 and not str(file).startswith("--set"):
            known = ["extends", *known]  # read before all others
        close = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        hint = f"{_BRACKETS}; " if str(keys[-1]).endswith(")") else hint
        return ConfigError(f"{where}: unknown key; {hint}known here: {', '.join(known)}")
    if first["type"] in ("missing", "union_tag_not_found"):
        missing = "" if first["type"] == "missing" else ".type"
        return ConfigError(f"{where}{missing}: is missing")
    if first["type"] == "union_tag_invalid":
        tag, expected = short(first["ctx"]["tag"]), first["ctx"]["expected_tags"]
        return ConfigError(f"{where}.type: expected one of {expected}, got {tag}")
    message = _expected(first)
    across = _ACROSS.match(message)
    if across is not None:
        file = tree.origin_of([*keys, *across[1].split(".")]) or file
        return ConfigError(f"{file}: {key}.{message}" if key else f"{file}: {message}")
    got = short(first["input"])
    hint = f"; {_BRACKETS}" if isinstance(first["input"], str) and got.startswith("'(") else ""
    return ConfigError(f"{where}: expected {message}, got {got}{hint}")


def short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _expected(error: dict) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _LIMITS:
        name, sign = _LIMITS[kind]
        number = "an integer" if isinstance(context[name], int) else "a number"
        limit = context[name] if isinstance(context[name], int) else f"{context[name]:g}"
        return f"{number} {sign} {limit}"
    if kind == "literal_error":
        return f"one of {context['expected']}".replace(" or ", ", ")
    if kind == "too_short":
        return f"at least {context['min_length']} item"
    return _TYPES.get(kind) or error["msg"].removeprefix("Value error, ")


def _keys(location: Sequence) -> list:
    """A location in the file: pydantic adds a union's tag after the key that holds it."""
    return [part for i, part in enumerate(location) if i == 0 or location[i - 1] != "schedule"]


def _known_keys(keys: Sequence, values: dict) -> list[str]:
    """Keys that the mapping at ``keys`` may have; ``values`` says which type of union it is."""
    schema: Any = Config
    for key in keys:
        values = values[key]
        options = get_args(schema.model_fields[key].annotation) or (
            schema.model_fields[key].annotation,
        )
        schemas = [option for option in options if option is not type(None)]
        if len(schemas) > 1:  # a union, told apart by its type
            schemas = [
                s for s in schemas if values["type"] in get_args(s.model_fields["type"].annotation)
            ]
        schema = head_schema(values["type"]) if schemas[0] is Head else schemas[0]
    return list(schema.model_fields)
