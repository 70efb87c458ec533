"""Load configs and suites of configs; write a config as YAML."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML

from trnet.config import errors, merge
from trnet.config.schema import Config
from trnet.errors import ConfigError


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a config.

    Parameters
    ----------
    path : str or Path
        A YAML file; ``extends: ../other.yaml`` in it names a base, by its path from there, whose
        keys it overrides.
    overrides : sequence of str
        ``"key.sub=value"``, with the value in YAML.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        One line with file, key, value and what was expected.
    """
    path = Path(path)
    return _validated(merge.read(path), path, overrides)


def parse(text: str, path: Path, overrides: Sequence[str] = ()) -> Config:
    """A config from what :func:`dump` wrote into a file of another kind.

    Parameters
    ----------
    text : str
        YAML, which extends no file.
    path : Path
        That file, for messages.
    overrides : sequence of str
        As in :func:`load`.

    Raises
    ------
    ConfigError
        As :func:`load`.
    """
    return _validated(merge.parse_mapping(text, path), path, overrides)


def _validated(tree: merge.Tree, path: Path, overrides: Sequence[str]) -> Config:
    for override in overrides:
        tree = merge.merge(tree, merge.parse_override(override))
    values = tree.plain()
    values.setdefault("suite", _suite_of(path.resolve().parent))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise errors.explain(error, tree, path) from None


def _suite_of(folder: Path) -> str:
    """A folder's name, with those of the folders above it up to one called ``configs``."""
    parts = folder.parts
    above = [place for place, part in enumerate(parts[:-1]) if part == "configs"]
    return "/".join(parts[above[-1] + 1 :]) if above else folder.name


def load_baseline(path: str | Path, config: Config) -> Config | None:
    """Load the experiment that a config loaded from ``path`` is measured against, if it has one.

    It is that of the suite, on the config's own data set and network, which may be overridden.
    """
    if config.baseline is None:
        return None
    suite = {c.name: c for c in load_suite(Path(path).parent)}
    baseline = _checked_baseline(config, suite, Path(path))
    model = baseline.model.model_copy(update={"backbone": config.model.backbone})
    return baseline.model_copy(update={"dataset": config.dataset, "model": model})


def load_suite(folder: str | Path) -> list[Config]:
    """Load every config of a folder but the bases (``_*.yaml``), baselines first, then by name.

    Raises
    ------
    ConfigError
        As :func:`load`, and for an empty folder, two suites in one, a name used twice or an unknown
        baseline.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder of configs, found no such folder")
    paths = sorted(path for path in folder.glob("*.yaml") if path.name[0] not in "_.")
    if not paths:
        below = sorted({str(path.parent) for path in folder.glob("*/*.yaml")})
        hint = f"; try {' or '.join(below)}" if below else ""
        raise ConfigError(f"{folder}: expected a folder of configs, found no *.yaml{hint}")
    configs: dict[str, Config] = {}
    for path in paths:
        config = load(path)
        first = next(iter(configs.values()), config)
        if config.suite != first.suite:
            raise ConfigError(
                f"{path}: suite: expected {first.suite!r}, as for the others of this folder, got "
                f"{config.suite!r}"
            )
        if config.name in configs:
            raise ConfigError(
                f"{path}: name: expected a name of its own, got {config.name!r}, which another "
                "config of this suite has"
            )
        configs[config.name] = config
    for path, config in zip(paths, configs.values()):
        if config.baseline is not None:
            _checked_baseline(config, configs, path)
    return sorted(configs.values(), key=lambda c: (c.baseline is not None, _by_number(c.name)))


def _by_number(name: str) -> list[str]:
    """A name's parts, to sort by; 300 comes before 1000."""
    return [part.zfill(12) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _checked_baseline(config: Config, suite: dict[str, Config], path: Path) -> Config:
    """The baseline of a config, one of its suite that has none itself."""
    known = [name for name, other in suite.items() if other.baseline is None]
    if config.baseline not in known:
        raise ConfigError(
            f"{path}: baseline: expected a baseline of this suite ({', '.join(known) or 'none'}), "
            f"got {config.baseline!r}"
        )
    return suite[config.baseline]


def dump(config: Config) -> str:
    """The resolved config as YAML, which :func:`load` reads again."""
    values = config.model_dump(exclude_none=True)
    head = config.model.head  # of a plugin: its null may not be its default
    values["model"]["head"] = {
        key: value
        for key, value in head.model_dump().items()
        if value is not None or type(head).model_fields[key].default is not None
    }
    if not config.plugins:
        del values["plugins"]
    stream = io.StringIO()
    YAML().dump(values, stream)
    return stream.getvalue()
