"""A suite at a glance: for each experiment what is published, computed and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from trnet.config import Config, DenseHead, TCLHead, parse_yaml
from trnet.errors import UserError
from trnet.files import Result, read_json


@dataclass(frozen=True)
class Measurement:
    """A quantity over seeds.

    Attributes
    ----------
    mean : float
    deviation : float or None
        Sample standard deviation; None for a single seed.
    seeds : int
    """

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Published:
    """What the authors give for an experiment, in percent; None for what they do not.

    ``source`` is where: the reference as it is printed under the table.
    """

    top1: float | None = None
    top5: float | None = None
    top1_change: float | None = None
    space_savings: float | None = None
    note: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Row:
    """An experiment of a suite.

    Attributes
    ----------
    name : str
    baseline : str or None
        The experiment that it is measured against.
    kind : str
        ``"dense"``, ``"TCL"``, ``"TRL"``, ``"TRL, CP"`` or ``"TRL, tensor train"``.
    rank : str
        As the paper writes it; empty for a dense head.
    weights : int
        Weights of the head, counted.
    space_savings : float
        In percent, computed from the counts.
    published : Published
    top1, top5, top1_change : Measurement or None
        In percent and points; the change is over the seeds that the baseline has as well.
    """

    name: str
    baseline: str | None
    kind: str
    rank: str
    weights: int
    space_savings: float
    published: Published
    top1: Measurement | None
    top5: Measurement | None
    top1_change: Measurement | None


def summarise(
    configs: Sequence[Config],
    weights: Mapping[str, int],
    runs: Sequence[dict],
    published: Mapping[str, Published],
) -> list[Row]:
    """Put together what is known of a suite's experiments.

    Parameters
    ----------
    configs : sequence of Config
    weights : mapping of str to int
        Weights in each experiment's head.
    runs : sequence of dict
        Results, as ``result.json`` holds them; those of another config by that name are left out.
    published : mapping of str to Published

    Returns
    -------
    list of Row
        Baselines in order, each with its experiments behind it, by savings.
    """
    rows = [_row(config, weights, runs, published, configs) for config in configs]
    groups = {row.name: i for i, row in enumerate(rows) if row.baseline is None}
    return sorted(
        rows,
        key=lambda row: (
            groups[row.baseline or row.name],
            row.baseline is not None,
            row.kind,
            row.space_savings,
        ),
    )


def read_runs(runs: Path, results: Path, suite: str) -> list[dict]:
    """Results of a suite: those in its run folders, and those noted in ``results`` beside them."""
    noted = results / suite / "runs.json"
    found = read_json(noted, list[Result]) if noted.is_file() else []
    paths = (runs / suite).glob("*/seed*/result.json")
    found += [read_json(path, Result) for path in paths]
    latest = {(run["name"], run["seed"], run["config_hash"]): run for run in found}
    return [latest[key] for key in sorted(latest)]


def current(runs: Sequence[dict], configs: Sequence[Config]) -> list[dict]:
    """The results that were made by the configs as they are now."""
    hashes = {config.name: config.hash for config in configs}
    return [run for run in runs if hashes.get(run["name"]) == run["config_hash"]]


def read_published(path: Path, suite: str) -> dict[str, Published]:
    """A suite's published numbers by experiment; none where there is no such file."""
    if not path.is_file():
        return {}
    content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    try:
        found = {name: Published(**values) for name, values in content.get(suite, {}).items()}
        sources = {None: None, **content.get("sources", {})}
        return {name: replace(p, source=sources[p.source]) for name, p in found.items()}
    except KeyError as error:
        raise UserError(f"{path}: sources: {error} is missing, and {suite} refers to it") from None
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: {suite}: is not experiments with what is published: {error}"
        ) from None


def _row(config, weights, runs, published, configs) -> Row:
    of = _by_seed(runs, config)
    baseline = config.baseline or config.name
    of_baseline = _by_seed(runs, next(c for c in configs if c.name == baseline))
    changes = [of[seed]["top1"] - of_baseline[seed]["top1"] for seed in of if seed in of_baseline]
    kind, rank = _head(config)
    return Row(
        name=config.name,
        baseline=config.baseline,
        kind=kind,
        rank=rank,
        weights=weights[config.name],
        space_savings=100 * (1 - weights[config.name] / weights[baseline]),
        published=published.get(config.name, Published()),
        top1=_measurement([run["top1"] for run in of.values()]),
        top5=_measurement([run["top5"] for run in of.values()]),
        top1_change=_measurement(changes) if config.baseline else None,
    )


def _by_seed(runs: Sequence[dict], config: Config) -> dict[int, dict]:
    return {run["seed"]: run for run in current(runs, [config])}


def _measurement(shares: Sequence[float]) -> Measurement | None:
    if not shares:
        return None
    percent = [100 * share for share in shares]
    return Measurement(mean(percent), stdev(percent) if len(percent) > 1 else None, len(percent))


def _head(config: Config) -> tuple[str, str]:
    head = config.model.head
    if isinstance(head, DenseHead):
        return "dense", ""
    rank = f"({', '.join(map(str, head.rank))})" if isinstance(head.rank, list) else str(head.rank)
    if isinstance(head, TCLHead):
        return "TCL", rank
    names = {"tucker": "TRL", "cp": "TRL, CP", "tensor_train": "TRL, tensor train"}
    return names[head.factorization], rank
