"""Configs: YAML files on common bases, checked before anything runs.

``load`` gives a :class:`Config` or raises one :class:`~trnet.errors.ConfigError` of one line.
Imports no MXNet, so that errors are instant; whether a rank fits its network is found out when
the network is built.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trnet.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RANK_FORMS = {
    "tucker": "a list [R1, …, RN, Rout] of integers",
    "cp": "an integer",
    "tensor_train": "a list [r1, …, rN] of integers",
}


def _checked_rank(rank: Any) -> Any:
    """A TRL's rank in one of its forms; whether it is its factorisation's is checked behind it."""
    is_integers = isinstance(rank, list) and rank and all(_is_positive_integer(r) for r in rank)
    is_fraction = isinstance(rank, float) and 0 < rank <= 1
    if is_integers or is_fraction or _is_positive_integer(rank) or rank == "same":
        return rank
    raise ValueError("positive integers as the factorization has them, a float in (0, 1] or 'same'")


def _is_positive_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _each_once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return values


Rank = Annotated[Any, BeforeValidator(_checked_rank)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(_Schema):
    """What is learned: a name of :data:`trnet.data.DATASETS`, and where its files are.

    ``classes`` and ``size`` (of an image's side, in pixels) are for data sets that have no fixed
    ones. ``samples`` trains on only so many images, and ``holdout`` scores on that fraction of the
    training images, left out of the training, in place of the validation images; both are drawn
    by the seed, as many of every class.
    """

    name: str
    root: Optional[str] = None
    augment: bool = True
    classes: Optional[Annotated[int, Field(ge=2)]] = None
    size: Optional[PositiveInt] = None
    samples: Optional[PositiveInt] = None
    holdout: Optional[OpenFraction] = None


class DenseHead(_Schema):
    """The network's own head; see :func:`trnet.models.heads.dense_head`."""

    type: Literal["dense"]
    hidden: Optional[list[PositiveInt]] = None
    dropout: Optional[Fraction] = None
    pooling: Optional[bool] = None


class TCLHead(_Schema):
    """A TCL and dense layers; see :func:`trnet.models.heads.tcl_head`."""

    type: Literal["tcl"]
    rank: list[PositiveInt]
    hidden: Optional[list[PositiveInt]] = None
    dropout: Optional[Fraction] = None
    norm: bool = True


class TRLHead(_Schema):
    """A TRL; see :func:`trnet.models.heads.trl_head`."""

    type: Literal["trl"]
    rank: Rank
    factorization: Literal["tucker", "cp", "tensor_train"] = "tucker"
    dropout: Fraction = 0.0
    pooling: Optional[bool] = None

    @model_validator(mode="after")
    def _fits_the_factorization(self) -> TRLHead:
        takes_one = self.factorization == "cp"
        is_one = isinstance(self.rank, int)
        if (is_one or isinstance(self.rank, list)) and is_one is not takes_one:
            form = _RANK_FORMS[self.factorization]
            raise ValueError(f"rank: got {self.rank!r}; a {self.factorization} rank is {form}")
        if self.pooling and self.factorization != "tucker":
            raise ValueError(f"pooling: got true; only tucker starts so, not {self.factorization}")
        return self


class Model(_Schema):
    """A network: a name of :data:`trnet.models.BACKBONES` or of GluonCV's, and its head.

    ``pretrained`` is a ``.params`` file, or true for GluonCV's store.
    """

    backbone: str
    pretrained: Union[bool, str] = False
    head: Union[DenseHead, TCLHead, TRLHead] = Field(discriminator="type")


class CosineSchedule(_Schema):
    """From the learning rate to ``final`` along half a cosine, behind a linear warm-up."""

    type: Literal["cosine"]
    warmup_epochs: NonNegative = 0.0
    final: NonNegative = 0.0


class StepSchedule(_Schema):
    """The learning rate times ``factor`` at each of ``milestones``, behind a linear warm-up."""

    type: Literal["step"]
    milestones: list[PositiveInt]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup_epochs: NonNegative = 0.0

    @field_validator("milestones")
    @classmethod
    def _ascend(cls, milestones: list[int]) -> list[int]:
        if not milestones or any(a >= b for a, b in zip(milestones, milestones[1:])):
            raise ValueError("epochs in ascending order")
        return milestones


class Train(_Schema):
    """The recipe; ``optimizer`` is a name of :data:`trnet.training.optimizers.OPTIMIZERS`."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: Positive
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    label_smoothing: Fraction = 0.0
    optimizer: str = "sgd"
    dtype: Literal["float32", "float16"] = "float32"
    schedule: Union[CosineSchedule, StepSchedule] = Field(discriminator="type")

    @model_validator(mode="after")
    def _schedule_ends_in_time(self) -> Train:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: got {self.schedule.warmup_epochs}; less than the "
                f"{self.epochs} epochs"
            )
        if isinstance(self.schedule, StepSchedule) and self.schedule.milestones[-1] >= self.epochs:
            raise ValueError(
                f"schedule.milestones: got {self.schedule.milestones}; all before the last of the "
                f"{self.epochs} epochs"
            )
        return self


class Tune(_Schema):
    """How a suite's learning rates and weight decays are chosen; see :mod:`trnet.tuning`.

    Every pair is trained for some ``epochs`` from ``seeds`` seeds, with a part of the training
    images, ``holdout``, left out to be scored.
    """

    learning_rate: Annotated[list[Positive], Field(min_length=1), AfterValidator(_each_once)]
    weight_decay: Annotated[list[NonNegative], Field(min_length=1), AfterValidator(_each_once)]
    epochs: PositiveInt
    holdout: OpenFraction
    seeds: PositiveInt = 1


class Config(_Schema):
    """An experiment. ``suite`` is the name of the config's folder, from ``configs/`` on."""

    suite: str
    name: str
    baseline: Optional[str] = None
    dataset: Dataset
    model: Model
    train: Train
    tune: Optional[Tune] = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _trials_can_be_trained(self) -> Config:
        if self.tune is not None:
            if self.dataset.holdout is not None:
                raise ValueError("dataset.holdout: leave it to tune.holdout")
            try:
                Train.model_validate({**self.train.model_dump(), "epochs": self.tune.epochs})
            except ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"tune.epochs: too few for train.{why}") from None
        return self

    @field_validator("suite")
    @classmethod
    def _is_a_path_of_names(cls, suite: str) -> str:
        if not all(map(_NAME.fullmatch, suite.split("/"))):
            raise ValueError("names of letters, digits, '_', '-' and '.', with '/' between them")
        return suite

    @field_validator("name", "baseline")
    @classmethod
    def _is_a_name(cls, name: Optional[str]) -> Optional[str]:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError("a name of letters, digits, '_', '-' and '.'")
        return name

    def with_seed(self, seed: int) -> Config:
        """The same experiment from another seed."""
        try:
            return Config.model_validate({**self.model_dump(), "seed": seed})
        except ValidationError:
            raise ConfigError(f"seed: got {seed}; from 0 to {2**31 - 1} would fit") from None

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of all that decides a run's outcome, the seed aside.

        Where the files are decides nothing. Keys at their defaults are left out, so that a key
        that is new to the schema leaves earlier results standing.
        """
        decides = self.model_dump(include={"dataset", "model", "train"}, exclude_defaults=True)
        decides["dataset"].pop("root", None)
        return _digest(decides)

    @property
    def model_hash(self) -> str:
        """Twelve hexadecimal digits of all that decides the shapes of the network."""
        return _digest(
            {
                "dataset": self.dataset.model_dump(include={"name", "classes", "size"}),
                "model": self.model.model_dump(include={"backbone", "head"}, exclude_defaults=True),
            }
        )


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a config.

    Parameters
    ----------
    path : str or Path
        A YAML file; ``extends: other.yaml`` in it names a base beside it, whose keys it overrides.
    overrides : sequence of str
        ``"key.sub=value"``, with the value in YAML.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        One line with file, key, value and what would be right.
    """
    path = Path(path)
    tree = _read(path, ())
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    values = tree.plain()
    values.setdefault("suite", _suite_of(path.resolve().parent))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _complaint(error, tree, path) from None


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
        As :func:`load`, and for an empty folder, a name used twice or an unknown baseline.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of configs")
    paths = sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("_"))
    if not paths:
        below = sorted({str(path.parent) for path in folder.glob("*/*.yaml")})
        hint = f"; {' or '.join(below)} would fit" if below else ""
        raise ConfigError(f"{folder}: holds no config (*.yaml){hint}")
    configs: dict[str, Config] = {}
    for path in paths:
        config = load(path)
        if config.name in configs:
            raise ConfigError(f"{path}: name: {config.name!r} is another config's of this suite")
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
            f"{path}: baseline: {config.baseline!r} is no baseline of this suite; "
            f"it has {', '.join(known) or 'none'}"
        )
    return suite[config.baseline]


def dump(config: Config) -> str:
    """The resolved config as YAML, which :func:`load` reads again."""
    stream = io.StringIO()
    YAML().dump(config.model_dump(exclude_none=True), stream)
    return stream.getvalue()


class _Tree(dict):
    """A mapping of a config that remembers which file each of its keys was written in."""

    def __init__(self, values: dict, origin: str) -> None:
        super().__init__(
            {k: _Tree(v, origin) if isinstance(v, dict) else v for k, v in values.items()}
        )
        self.origins = dict.fromkeys(values, origin)

    def plain(self) -> dict:
        return {k: v.plain() if isinstance(v, _Tree) else v for k, v in self.items()}

    def origin_of(self, keys: Sequence) -> str | None:
        """The file of the last of ``keys`` that is there."""
        if not keys or keys[0] not in self.origins:
            return None
        below = self[keys[0]]
        deeper = below.origin_of(keys[1:]) if isinstance(below, _Tree) else None
        return deeper or self.origins[keys[0]]


def _read(path: Path, extended_by: tuple[Path, ...]) -> _Tree:
    """A file's mapping, merged onto those of the files it extends."""
    tree = _Tree(_parse_file(path), str(path))
    if "extends" not in tree:
        return tree
    base = tree.pop("extends")
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends: got {_short(base)}; the name of a YAML file beside it")
    base_path = path.parent / base
    if not base_path.is_file():
        raise ConfigError(f"{path}: extends: there is no file {base_path}")
    chain = (*extended_by, path.resolve())
    if base_path.resolve() in chain:
        raise ConfigError(f"{path}: extends: {base} extends this file in turn")
    return _merge(_read(base_path, chain), tree)


def _merge(base: _Tree, changes: _Tree) -> _Tree:
    """Mappings merge key by key; one that names another ``type`` stands in its place whole."""
    merged = _Tree({}, "")
    for source in (base, changes):
        for key, value in source.items():
            old = merged.get(key)
            both = isinstance(old, _Tree) and isinstance(value, _Tree)
            same_type = both and value.get("type", old.get("type")) == old.get("type")
            merged[key] = _merge(old, value) if same_type else value
            merged.origins[key] = source.origins[key]
    return merged


def _parse_file(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {_short(values)}; a mapping of keys to values would fit")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; a :class:`~trnet.errors.ConfigError` names where it was and the line."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, IndexError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from None


def _parse_override(override: str) -> _Tree:
    keys, equals, text = override.partition("=")
    if not equals or not all(keys.split(".")):
        raise ConfigError(f"--set {override}: key=value, or key.sub=value, would fit")
    value = parse_yaml(text, f"--set {override}")
    for key in reversed(keys.split(".")):
        value = {key: value}
    return _Tree(value, f"--set {override}")


def _complaint(error: ValidationError, tree: _Tree, path: Path) -> ConfigError:
    """The first thing that is wrong, as one line: file, key, value, and what would be right."""
    errors = error.errors(include_url=False)
    # A misspelt key is one unknown key and one that is missing; the former says more.
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    keys = _keys(first["loc"])
    file, key = tree.origin_of(keys) or path, ".".join(map(str, keys))
    where = f"{file}: {key}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        close = difflib.get_close_matches(str(keys[-1]), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return ConfigError(f"{where}: unknown key; {hint}known here: {', '.join(known)}")
    if first["type"] in ("missing", "union_tag_not_found"):
        missing = "" if first["type"] == "missing" else ".type"
        return ConfigError(f"{where}{missing}: is missing")
    expected = first["msg"].removeprefix("Value error, ").replace("Input", "it")
    if first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        expected = "a mapping of keys to values would fit"
    if first["type"] == "union_tag_invalid":
        return ConfigError(
            f"{where}.type: got {_short(first['ctx']['tag'])}; one of "
            f"{first['ctx']['expected_tags']} would fit"
        )
    if isinstance(first["input"], dict) and first["type"] == "value_error":  # a check across keys
        return ConfigError(f"{where}.{expected}" if key else f"{file}: {expected}")
    return ConfigError(f"{where}: got {_short(first['input'])}; {expected}")


def _keys(location: Sequence) -> list:
    """A location in the file: pydantic adds a union's tag behind the key that holds it."""
    tagged = ("head", "schedule")
    return [part for i, part in enumerate(location) if i == 0 or location[i - 1] not in tagged]


def _known_keys(location: Sequence) -> list[str]:
    """Keys that the mapping at a location may have."""
    schemas = [Config]
    for part in location:
        if len(schemas) > 1:  # a union, told apart by its type
            schemas = [s for s in schemas if part in get_args(s.model_fields["type"].annotation)]
            continue
        annotation = schemas[0].model_fields[part].annotation
        schemas = [s for s in (get_args(annotation) or (annotation,)) if s is not type(None)]
    return list(schemas[0].model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
