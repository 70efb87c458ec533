"""What the authors published: ``published.yaml``, with a source for every number and claim."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Optional, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trnet.config import parse_yaml
from trnet.errors import UserError


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Published(_Schema):
    """The published numbers of an experiment, in percent; None for those that are not published.

    ``source`` is the reference, as it is printed under the table; None only where nothing is.
    """

    top1: Optional[float] = None
    top5: Optional[float] = None
    top1_change: Optional[float] = None
    space_savings: Optional[float] = None
    note: Optional[str] = None
    source: Optional[str] = None


class Comparison(_Schema):
    """An experiment ``<suite>/<name>``, and the experiment of its suite that it is compared with.

    ``against`` is by default its baseline.
    """

    experiment: str
    against: Optional[str] = None

    @property
    def suite(self) -> str:
        """The experiment's suite."""
        return self.experiment.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The experiment's name in its suite."""
        return self.experiment.rpartition("/")[2]


class Claim(_Schema):
    """A claim, as a range for the change of Top-1, and our experiments that test it.

    Attributes
    ----------
    claim : str
    published : str
        The numbers that support it.
    source : str
        The reference, as it is printed.
    low, high : float
        In points.
    tested_by : tuple of Comparison
    """

    claim: str
    published: str
    source: str
    low: float = -math.inf
    high: float = math.inf
    tested_by: Annotated[tuple[Comparison, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_range(self) -> Claim:
        if not self.low < self.high or math.inf in (self.low, -self.high):
            raise ValueError(f"expected low < high, got low {self.low:g} and high {self.high:g}")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError("expected low, high or both, got none")
        return self


_Entry = TypeVar("_Entry", Published, Claim)


class Publications(BaseModel):
    """The content of ``published.yaml``; all other keys are suites, with numbers by experiment.

    Attributes
    ----------
    sources : dict of str to str
        References by the names that numbers and claims use for them.
    beside : dict of str to str
        By a suite's name, the suite whose published curves its plot shows as well.
    twins : dict of str to dict of str to str
        By a suite's name and an experiment's, ``<suite>/<name>`` of the experiment with the same
        head on other images, which stands beside it in tables.
    claims : tuple of Claim
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Published]]

    sources: dict[str, str] = {}
    beside: dict[str, str] = {}
    twins: dict[str, dict[str, str]] = {}
    claims: tuple[Claim, ...] = ()

    def of(self, suite: str) -> dict[str, Published]:
        """The numbers of a suite by experiment, with their sources as they are printed."""
        return {name: self._cited(entry) for name, entry in self._numbers(suite).items()}

    def cited_claims(self) -> list[Claim]:
        """The claims, with their sources as they are printed."""
        return [self._cited(claim) for claim in self.claims]

    def _numbers(self, suite: str) -> dict[str, Published]:
        return (self.__pydantic_extra__ or {}).get(suite, {})

    def _cited(self, entry: _Entry) -> _Entry:
        return entry.model_copy(update={"source": self.sources[entry.source]})

    @model_validator(mode="after")
    def _twins_have_none(self) -> Publications:
        for suite, twins in self.twins.items():
            for name, twin in twins.items():
                if twin.rpartition("/")[0] in self.twins:
                    raise ValueError(
                        f"twins.{suite}.{name}: expected an experiment of a suite without twins of "
                        f"its own, got {twin!r}"
                    )
        return self

    @model_validator(mode="after")
    def _sources_are_there(self) -> Publications:
        cited = [claim.source for claim in self.claims]
        for suite in self.__pydantic_extra__ or {}:
            for name, numbers in self._numbers(suite).items():
                if numbers.source is None:
                    raise ValueError(f"{suite}.{name}: source: expected one of sources, got none")
                cited.append(numbers.source)
        for source in cited:
            if source not in self.sources:
                raise ValueError(
                    f"sources: expected {source!r}, which is used as a source, got "
                    f"{', '.join(self.sources) or 'none'}"
                )
        return self


def read_published(path: Path) -> Publications:
    """Read ``published.yaml``; nothing is published if there is no such file.

    Raises
    ------
    UserError
        One line with the file, the key and the error.
    """
    if not path.is_file():
        return Publications()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: not UTF-8 text") from None
    try:
        return Publications.model_validate(parse_yaml(text, str(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {key}: {why}" if key else f"{path}: {why}") from None
