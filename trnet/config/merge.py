"""Read YAML files, merge them onto their bases, and remember where each key stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trnet.config.errors import short
from trnet.errors import ConfigError

_MOST_VALUES = 10_000


class Tree(dict):
    """A mapping of a config that remembers the file of each of its keys."""

    def __init__(self, values: dict, origin: str) -> None:
        super().__init__(
            {k: Tree(v, origin) if isinstance(v, dict) else v for k, v in values.items()}
        )
        self.origins = dict.fromkeys(values, origin)

    def plain(self) -> dict:
        return {k: v.plain() if isinstance(v, Tree) else v for k, v in self.items()}

    def origin_of(self, keys: Sequence) -> str | None:
        """The file of the last key in ``keys`` that exists."""
        if not keys or keys[0] not in self.origins:
            return None
        below = self[keys[0]]
        deeper = below.origin_of(keys[1:]) if isinstance(below, Tree) else None
        return deeper or self.origins[keys[0]]


def read(path: Path, extended_by: tuple[Path, ...] = ()) -> Tree:
    """A file's mapping, merged onto the mappings of the files that it extends."""
    tree = parse_mapping(_text_of(path), path)
    if "extends" not in tree:
        return tree
    base = tree.pop("extends")
    if not isinstance(base, str):
        raise ConfigError(
            f"{path}: extends: expected the name of a YAML file in the same folder, "
            f"got {short(base)}"
        )
    base_path = path.parent / base
    if not base_path.is_file():
        raise ConfigError(f"{path}: extends: expected a file, found no {base_path}")
    chain = (*extended_by, path.resolve())
    if base_path.resolve() in chain:
        raise ConfigError(f"{path}: extends: expected no cycle, but {base} extends this file")
    return merge(read(base_path, chain), tree)


def merge(base: Tree, changes: Tree) -> Tree:
    """Merge key by key; a mapping with another ``type`` replaces the whole mapping."""
    merged = Tree({}, "")
    for source in (base, changes):
        for key, value in source.items():
            old = merged.get(key)
            both = isinstance(old, Tree) and isinstance(value, Tree)
            same_type = both and value.get("type", old.get("type")) == old.get("type")
            merged[key] = merge(old, value) if same_type else value
            merged.origins[key] = source.origins[key]
    return merged


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None


def parse_mapping(text: str, path: Path) -> Tree:
    """The mapping that a text of ``path`` is in YAML."""
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {short(values)}")
    return Tree(values, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; a :class:`~trnet.errors.ConfigError` names the source and the line."""
    try:
        content = YAML(typ="safe", pure=True).load(text)
        _check_size(content)
        return content
    except KeyError as error:  # of a word that a tag does not know, as in !!bool maybe
        raise ConfigError(f"{where}: not valid YAML: {error} is not what its tag says") from None
    except (YAMLError, ValueError, IndexError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        problem = "an integer of too many digits" if "integer string" in problem else problem
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from None


def _check_size(content: Any) -> None:
    """Refuse what is small as text and large or endless as a tree, by aliases of aliases."""
    count, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"expected at most {_MOST_VALUES} values, with those of aliases")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value


def parse_override(override: str) -> Tree:
    """The mapping that ``key.sub=value`` stands for, with the value in YAML."""
    keys, equals, text = override.partition("=")
    if not equals or not all(keys.split(".")):
        raise ConfigError(f"--set: expected key=value or key.sub=value, got {override}")
    value = parse_yaml(text, f"--set {override}")
    for key in reversed(keys.split(".")):
        value = {key: value}
    return Tree(value, f"--set {override}")
