"""What a config may hold: the experiment, its data set, network, head and recipe.

Imports no MXNet, so that errors are instant; whether a rank is possible for its network is found
out when the network is built.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, Optional, Union, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from trnet.errors import ConfigError
from trnet.tensor.factorizations import DEFAULT, FACTORIZATIONS, is_savings
from trnet.tensor.factorizations.base import are_positive

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _rank_in_some_form(rank: Any) -> Any:
    """A TRL's rank; whether its factorization has ranks of this form is checked later."""
    is_exact = any(form.is_rank(rank) for form in FACTORIZATIONS.values())
    is_fraction = isinstance(rank, float) and 0 < rank <= 1
    if is_exact or is_fraction or rank == "same" or is_savings(rank):
        return rank
    raise PydanticCustomError(
        "rank",
        "integers ≥ 1 as the factorization has them, {savings: a share below 1}, a float in "
        "(0, 1] or 'same'",
    )


def _rank_of_tcls(rank: Any) -> Any:
    """A TCL's rank, or a list of them, for several one after another."""
    ranks = rank if isinstance(rank, list) and rank and isinstance(rank[0], list) else [rank]
    if all(are_positive(each) and isinstance(each, list) for each in ranks):
        return rank
    raise PydanticCustomError("rank", "integers ≥ 1 as [R1, R2, R3], or a list of such lists")


def _each_once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return values


def _name(name: Optional[str]) -> Optional[str]:
    if name is not None and not _NAME.fullmatch(name):
        raise ValueError("a name of letters, digits, '_', '-' and '.'")
    return name


def _path_of_names(path: str) -> str:
    if not all(map(_NAME.fullmatch, path.split("/"))):
        raise ValueError("names of letters, digits, '_', '-' and '.', with '/' between them")
    return path


def _file_or_flag(value: Any) -> Any:
    if not isinstance(value, (bool, str)) or value == "":
        raise ValueError("the name of a .params file, true or false")
    return value


def _frozen(value: Any) -> Any:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if value == "backbone" or is_list:
        return value
    raise ValueError("'backbone', or patterns of parameters' names, as [features.0.*]")


def _import_each(modules: list[str]) -> list[str]:
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a user's module raises is the user's to mend
            raise ValueError(
                f"modules that can be imported; {module}: {type(error).__name__}: {error}"
            ) from error
    return modules


UNDECIDING = (("dataset", "root"), ("train", "checkpoint_minutes"))  # nothing of a run's outcome

PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Rank = Annotated[Any, BeforeValidator(_rank_in_some_form)]
TCLRank = Annotated[list, BeforeValidator(_rank_of_tcls)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
# What MXNet computes in float32.
NonNegative = Annotated[float, Field(ge=0, lt=1e38, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, lt=1e38, allow_inf_nan=False)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(_Schema):
    """What is learned: a name of :data:`trnet.data.DATASETS`, and where its files are.

    ``classes`` and ``size`` (of an image's side, in pixels) are for data sets that have no fixed
    ones. ``samples`` trains on only so many images, and ``holdout`` scores on that fraction of the
    training images, left out of the training, in place of the validation images; both are drawn
    by the seed, as many of every class. An epoch goes ``repeat`` times through the images that it
    trains on. With ``damaged: skip``, all images are decoded before the training, and those that
    are damaged are left out; otherwise the first of them stops it.
    """

    name: str
    root: Optional[str] = None
    augment: bool = True
    classes: Optional[Annotated[int, Field(ge=2, le=2**24)]] = None  # float32 labels are distinct
    size: Optional[Annotated[int, Field(ge=1, le=4096)]] = None
    samples: Optional[PositiveInt] = None
    holdout: Optional[OpenFraction] = None
    repeat: PositiveInt = 1
    damaged: Literal["stop", "skip"] = "stop"


class Head(_Schema):
    """A head; its type is a name of :data:`trnet.models.HEADS`.

    ``lr_mult`` multiplies the learning rate of its parameters.
    """

    type: str
    lr_mult: Positive = 1.0


class DenseHead(Head):
    """The network's own head; see :func:`trnet.models.heads.dense_head`."""

    type: Literal["dense"]
    hidden: Optional[list[PositiveInt]] = None
    dropout: Optional[Fraction] = None
    pooling: Optional[bool] = None


class TCLHead(Head):
    """A TCL and dense layers; see :func:`trnet.models.heads.tcl_head`."""

    type: Literal["tcl"]
    rank: TCLRank
    hidden: Optional[list[PositiveInt]] = None
    dropout: Optional[Fraction] = None
    norm: bool = True


class TRLHead(Head):
    """A TRL; see :func:`trnet.models.heads.trl_head`."""

    type: Literal["trl"]
    rank: Rank
    factorization: str = DEFAULT
    dropout: Fraction = 0.0
    pooling: Optional[bool] = None
    norm: bool = False
    weight_norm: bool = False
    tcl: Optional[list[PositiveInt]] = None

    @field_validator("factorization")
    @classmethod
    def _is_registered(cls, factorization: str) -> str:
        if factorization not in FACTORIZATIONS:
            raise ValueError(f"one of {_listed(FACTORIZATIONS)}")
        return factorization

    @model_validator(mode="after")
    def _suits_the_factorization(self) -> TRLHead:
        form = FACTORIZATIONS[self.factorization]
        if not form.is_rank(self.rank) and not isinstance(self.rank, (float, str, dict)):
            raise ValueError(
                f"rank: expected {form.rank_form} ≥ 1 for factorization {self.factorization}, "
                f"got {self.rank!r}"
            )
        if self.pooling and not form.supports_pooling:
            known = ", ".join(name for name, f in FACTORIZATIONS.items() if f.supports_pooling)
            raise ValueError(
                f"pooling: expected a factorization that supports pooling ({known}), "
                f"got {self.factorization}"
            )
        return self


_HEADS = {"dense": DenseHead, "tcl": TCLHead, "trl": TRLHead}


def _head(value: Any) -> Head:
    """A head by its type: one of ours, or one that a plugin registered."""
    if isinstance(value, Head):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "a mapping")
    if "type" not in value:
        raise PydanticCustomError("union_tag_not_found", "a type")
    return head_schema(value["type"]).model_validate(value)


def head_schema(kind: Any) -> type[Head]:
    """The keys of a type of head; those of one from outside are its function's parameters."""
    if isinstance(kind, str) and kind in _HEADS:
        return _HEADS[kind]
    from trnet.models import HEADS  # imports MXNet, which the heads above can do without

    if not isinstance(kind, str) or kind not in HEADS:
        raise PydanticCustomError(
            "union_tag_invalid", "a type", {"tag": kind, "expected_tags": _listed(HEADS)}
        )
    return _schema_of(kind, HEADS[kind])


@cache
def _schema_of(kind: str, make: Callable) -> type[Head]:
    _, _, _, *parameters = inspect.signature(make).parameters.values()
    function = getattr(make, "func", make)  # of a partial
    if not inspect.isroutine(function):
        function = function.__init__ if isinstance(function, type) else function.__call__
    hints = get_type_hints(function, include_extras=True)
    keys = {
        parameter.name: (
            hints.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    return create_model(f"{kind}_head", __base__=Head, type=(Literal[kind], ...), **keys)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


class Fit(_Schema):
    """How a head is fitted to the trained one: for how many ``images`` of the training set.

    ``weigh_classes`` compares class scores as the softmax sees them; see
    :meth:`trnet.TRL.init_from_dense`.
    """

    images: PositiveInt = 4096
    weigh_classes: bool = False


class Model(_Schema):
    """A network: a name of :data:`trnet.models.BACKBONES` or of GluonCV's, and its head.

    ``pretrained`` is a ``.params`` file, or true for GluonCV's store. With ``fit``, the head is
    fitted to the outputs of the trained one; without, to its weight.
    """

    backbone: str
    pretrained: Annotated[Union[bool, str], BeforeValidator(_file_or_flag)] = False
    fit: Optional[Fit] = None
    head: Annotated[SerializeAsAny[Head], BeforeValidator(_head)]


class CosineSchedule(_Schema):
    """From the learning rate to ``final`` along half a cosine, after a linear warm-up."""

    type: Literal["cosine"]
    warmup_epochs: NonNegative = 0.0
    final: NonNegative = 0.0


class StepSchedule(_Schema):
    """The learning rate times ``factor`` at each of ``milestones``, after a linear warm-up."""

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
    """The recipe; ``optimizer`` is a name of :data:`trnet.training.optimizers.OPTIMIZERS`.

    ``clip_gradient`` bounds the norm of all gradients together, ``accumulate`` is the number of
    batches per step, ``lasso`` a penalty on the components of a TRL, and ``checkpoint_minutes`` the
    time between checkpoints within an epoch. ``nonfinite`` says what a gradient that is not finite
    does: it stops the training, or its step is skipped. ``freeze`` names what is not trained; see
    :mod:`trnet.training.freezing`.
    With 0 epochs, the network is scored as it starts; this needs trained weights.
    """

    epochs: Annotated[int, Field(ge=0, lt=2**31)]
    batch_size: PositiveInt
    learning_rate: Positive
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    label_smoothing: Fraction = 0.0
    optimizer: str = "sgd"
    clip_gradient: Optional[Positive] = None
    accumulate: PositiveInt = 1
    lasso: NonNegative = 0.0
    nonfinite: Literal["stop", "skip"] = "stop"
    freeze: Annotated[Union[Literal["backbone"], list[str]], BeforeValidator(_frozen)] = []
    dtype: Literal["float32", "float16"] = "float32"
    checkpoint_minutes: Positive = 10.0
    schedule: Union[CosineSchedule, StepSchedule] = Field(discriminator="type")

    @property
    def cut_schedule(self) -> Union[CosineSchedule, StepSchedule]:
        """The schedule without what is after the last epoch: the one that is trained.

        A warm-up that is no shorter than the training takes half of it.
        """
        schedule, changes = self.schedule, {}
        if schedule.warmup_epochs >= self.epochs:
            changes["warmup_epochs"] = self.epochs / 2
        if isinstance(schedule, StepSchedule):
            changes["milestones"] = [m for m in schedule.milestones if m < self.epochs]
        return schedule.model_copy(update=changes)

    @property
    def cuts(self) -> list[str]:
        """What of the schedule is cut, and to what; a line each."""
        schedule, cut, lines = self.schedule, self.cut_schedule, []
        if self.epochs == 0:
            return lines
        last = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        if cut.warmup_epochs != schedule.warmup_epochs:
            lines.append(
                f"train.schedule.warmup_epochs: {schedule.warmup_epochs:g} is cut to "
                f"{cut.warmup_epochs:g}, half of the {last}"
            )
        if isinstance(schedule, StepSchedule) and cut.milestones != schedule.milestones:
            late = schedule.milestones[len(cut.milestones) :]
            lines.append(f"train.schedule.milestones: {late} are not reached in {last}")
        return lines


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
    """An experiment.

    ``suite`` is the name of the config's folder, from ``configs/`` on. ``plugins`` are Python
    modules that are imported first: they may register factorizations, heads, backbones, data sets
    and optimisers.
    """

    plugins: Annotated[list[str], AfterValidator(_import_each)] = []  # before the keys that need it
    suite: Annotated[str, AfterValidator(_path_of_names)]
    name: Annotated[str, AfterValidator(_name)]
    baseline: Annotated[Optional[str], AfterValidator(_name)] = None
    dataset: Dataset
    model: Model
    train: Train
    tune: Optional[Tune] = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _starts_trained_where_it_must(self) -> Config:
        if not self.model.pretrained and self.train.epochs == 0:
            raise ValueError("train.epochs: expected at least 1 without model.pretrained, got 0")
        if not self.model.pretrained and self.model.fit is not None:
            raise ValueError("model.fit: expected none without model.pretrained")
        if self.model.fit and self.model.fit.weigh_classes and isinstance(self.model.head, TCLHead):
            raise ValueError(
                "model.fit.weigh_classes: expected false for a TCL, which gives no class scores, "
                "got true"
            )
        return self

    @model_validator(mode="after")
    def _has_components_to_shrink(self) -> Config:
        head, why = self.model.head, None
        if not isinstance(head, TRLHead):
            why = "for a head that is no TRL"
        elif head.weight_norm:
            why = "with model.head.weight_norm: true"
        elif not FACTORIZATIONS[head.factorization].supports_lasso:
            why = f"for factorization {head.factorization}"
        elif self.train.dtype == "float16":
            why = "with train.dtype: float16"
        if self.train.lasso > 0 and why is not None:
            raise ValueError(f"train.lasso: expected 0 {why}, got {self.train.lasso:g}")
        return self

    @model_validator(mode="after")
    def _trials_can_be_scored(self) -> Config:
        if self.tune is not None and self.dataset.holdout is not None:
            raise ValueError("dataset.holdout: expected none beside tune.holdout")
        return self

    def __reduce__(self) -> tuple:
        # A process that is sent a config has to import its plugins; to validate it does that.
        return Config.model_validate, (self.model_dump(),)

    def with_seed(self, seed: int) -> Config:
        """The same experiment from another seed."""
        try:
            return Config.model_validate({**self.model_dump(), "seed": seed})
        except ValidationError:
            raise ConfigError(
                f"seed: expected an integer from 0 to {2**31 - 1}, got {seed}"
            ) from None

    @property
    def pretrained(self) -> Union[str, bool]:
        """``model.pretrained``, with the run's seed in place of ``{seed}``."""
        source = self.model.pretrained
        return source.replace("{seed}", str(self.seed)) if isinstance(source, str) else source

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of everything that decides a run's outcome, except the seed.

        The place of the files decides nothing, and neither does what is cut of a schedule. Keys at
        their defaults are left out, so that earlier results stay valid when the schema gets a new
        key.
        """
        decides = self.model_dump(include={"dataset", "model", "train"}, exclude_defaults=True)
        for part, key in UNDECIDING:
            decides[part].pop(key, None)
        decides["train"]["schedule"] = self.train.cut_schedule.model_dump(exclude_defaults=True)
        return _digest(decides)

    def hash_until(self, epoch: int) -> str:
        """The hash of what decides the run up to an epoch.

        With a step schedule, runs of more epochs begin alike.
        """
        if not isinstance(self.train.schedule, StepSchedule):
            return self.hash
        begun = self.train.model_copy(update={"epochs": epoch})
        return self.model_copy(update={"train": begun}).hash

    @property
    def model_hash(self) -> str:
        """Twelve hexadecimal digits of everything that decides the shapes of the network."""
        decides = {
            "dataset": self.dataset.model_dump(include={"name", "classes", "size"}),
            "model": self.model.model_dump(
                include={"backbone", "head"}, exclude={"head": {"lr_mult"}}, exclude_defaults=True
            ),
        }
        if is_savings(getattr(self.model.head, "rank", None)) and self.pretrained:
            decides["spectra"] = self.pretrained  # they choose the rank
        return _digest(decides)


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
