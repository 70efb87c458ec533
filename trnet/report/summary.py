"""A suite at a glance: for each experiment what is published, computed and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from scipy.special import stdtrit

from trnet.config import Config, DenseHead, TCLHead, TRLHead
from trnet.report.published import Published
from trnet.result import Result
from trnet.savings import space_savings
from trnet.tensor.factorizations import DEFAULT, FACTORIZATIONS


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

    @property
    def interval(self) -> float | None:
        """Half of the 95 % interval of the mean, by Student's t; None for a single seed."""
        if self.deviation is None:
            return None
        return float(stdtrit(self.seeds - 1, 0.975)) * self.deviation / math.sqrt(self.seeds)


@dataclass(frozen=True)
class Row:
    """An experiment of a suite.

    Attributes
    ----------
    name : str
    baseline : str or None
        The experiment that it is measured against.
    kind : str
        The kind of its head: ``"dense"``, ``"TCL"``, ``"TRL, CP"`` or the like; the type of a head
        that is registered by a plugin.
    rank : str
        As the paper writes it; empty for a head without one.
    hidden : str
        Units of hidden dense layers, if the config gives them.
    weights : int
        Weights of the head, counted.
    space_savings : float
        In percent, computed from the counts.
    published : Published
    top1, top5, top1_change : Measurement or None
        In percent and points; the change is over the seeds that the baseline has as well.
    curve : tuple of float or None
        Top-1 after every epoch in percent, the mean over the seeds.
    published_change : float or None
        Of Top-1 in points, as it is published or between two published Top-1.
    collapsed : tuple of (int, float)
        Seeds whose Top-1, in percent, is below half of the median over the seeds.
    failed : tuple of (int, str)
        Seeds without a result, and why.
    dataset : str
    twin : Row or None
        An experiment with the same head on other images.
    """

    name: str
    baseline: str | None
    kind: str
    rank: str
    hidden: str
    weights: int
    space_savings: float
    published: Published
    top1: Measurement | None
    top5: Measurement | None
    top1_change: Measurement | None
    curve: tuple[float, ...] | None = None
    published_change: float | None = None
    collapsed: tuple[tuple[int, float], ...] = ()
    failed: tuple[tuple[int, str], ...] = ()
    dataset: str = ""
    twin: Row | None = None

    @property
    def head(self) -> str:
        """Kind, rank and hidden layers in words, as TCL (36, 5, 5), dense 192, 192."""
        hidden = f", dense {self.hidden}" if self.hidden and self.rank else self.hidden
        return f"{self.kind} {self.rank}{hidden}".strip()


def summarise(
    configs: Sequence[Config],
    weights: Mapping[str, int],
    runs: Sequence[dict],
    published: Mapping[str, Published],
) -> list[Row]:
    """Combine what is published, computed and measured of a suite's experiments.

    Parameters
    ----------
    configs : sequence of Config
    weights : mapping of str to int
        Weights in each experiment's head.
    runs : sequence of dict
        Results, as in ``result.json``; those of another config with the same name are left out.
    published : mapping of str to Published

    Returns
    -------
    list of Row
        Each baseline, followed by its experiments in order of their kinds and savings.
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


def current(runs: Sequence[Result], configs: Sequence[Config]) -> list[Result]:
    """The results that were made by the configs as they are now."""
    hashes = {config.name: config.hash for config in configs}
    return [run for run in runs if hashes.get(run["name"]) == run["config_hash"]]


def seeds_text(rows: Sequence[Row]) -> str | None:
    """The number of seeds over which the rows were measured, in words; None if none was."""
    seeds = sorted({row.top1.seeds for row in rows if row.top1})
    if not seeds:
        return None
    fewest_to_most = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return "one seed" if fewest_to_most == "1" else f"{fewest_to_most} seeds"


def change(runs: Sequence[dict], config: Config, against: Config) -> Measurement | None:
    """The difference in Top-1 of two experiments, in points, over the seeds that both have.

    Pairs whose images differ, such as glyphs drawn by two versions of FreeType, are left out.
    """
    of, of_other = _by_seed(runs, config), _by_seed(runs, against)
    pairs = [(run, of_other[seed]) for seed, run in of.items() if seed in of_other]
    return _measurement([a["top1"] - b["top1"] for a, b in pairs if a["dataset"] == b["dataset"]])


def _row(config, weights, runs, published, configs) -> Row:
    of = _by_seed(runs, config).values()
    middle = median(run["top1"] for run in of) if of else 0
    baseline = next(c for c in configs if c.name == (config.baseline or config.name))
    curves = [run["curve"]["top1"] for run in of if "curve" in run]
    return Row(
        name=config.name,
        baseline=config.baseline,
        kind=_kind(config, baseline),
        rank=_rank(config),
        hidden=", ".join(map(str, getattr(config.model.head, "hidden", None) or ())),
        weights=weights[config.name],
        space_savings=100 * space_savings(weights[config.name], weights[baseline.name]),
        published=published.get(config.name, Published()),
        top1=_measurement([run["top1"] for run in of]),
        top5=_measurement([run["top5"] for run in of]),
        top1_change=change(runs, config, baseline) if config.baseline else None,
        curve=tuple(100 * mean(epoch) for epoch in zip(*curves)) or None,
        published_change=_published_change(*(published.get(c.name) for c in (config, baseline))),
        collapsed=tuple((r["seed"], 100 * r["top1"]) for r in of if r["top1"] < middle / 2),
        dataset=config.dataset.name,
    )


def _published_change(of: Published | None, baseline: Published | None) -> float | None:
    if of is None or of is baseline:
        return None
    if of.top1 is None or baseline is None or baseline.top1 is None:
        return of.top1_change
    return of.top1 - baseline.top1


def head_text(config: Config) -> str:
    """A config's head in words, as TRL (8, 4, 4, 10)."""
    return f"{_kind(config, config)} {_rank(config)}".strip()


def _by_seed(runs: Sequence[dict], config: Config) -> dict[int, dict]:
    return {run["seed"]: run for run in current(runs, [config])}


def _measurement(shares: Sequence[float]) -> Measurement | None:
    if not shares:
        return None
    percent = [100 * share for share in shares]
    return Measurement(mean(percent), stdev(percent) if len(percent) > 1 else None, len(percent))


def _kind(config: Config, baseline: Config) -> str:
    """The kind of a config's head; the type of a head that this module does not know."""
    head = config.model.head
    if isinstance(head, DenseHead):
        return {None: "dense", True: "pooling, dense", False: "flattened, dense"}[head.pooling]
    if isinstance(head, TCLHead):
        hidden, own = head.hidden, getattr(baseline.model.head, "hidden", None)
        # The papers add a TCL before the dense layers, or replace the first of them by it.
        replaced = 0 if hidden is None or own is None else max(0, len(own) - len(hidden))
        kinds = {0: "TCL", 1: "TCL for a dense layer"}
        kind = kinds.get(replaced, f"TCLs for {replaced} dense layers")
        return kind if head.norm else f"{kind}, not normalised"
    if isinstance(head, TRLHead):
        form = "" if head.factorization == DEFAULT else FACTORIZATIONS[head.factorization].title
        parts = (
            "TRL" if head.tcl is None else "TCL and TRL",
            form,
            "tensor dropout" if head.dropout else "",
            "" if config.model.fit is None else "fitted",
        )
        return ", ".join(filter(None, parts))
    return head.type


def _rank(config: Config) -> str:
    head = config.model.head
    rank, before = getattr(head, "rank", None), getattr(head, "tcl", None)
    ranks = rank if isinstance(rank, (list, tuple)) and isinstance(rank[0], list) else [rank]
    ranks = ranks if before is None else [before, *ranks]
    return ", ".join(_one_rank(each) for each in ranks if each is not None)


def _one_rank(rank: list[int] | int | float | str | dict) -> str:
    if isinstance(rank, (list, tuple)):
        return f"({', '.join(map(str, rank))})"
    return f"savings {rank['savings']:g}" if isinstance(rank, dict) else str(rank)
