"""Timing in turns, so that what slows the machine slows everything that is compared."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

WARM_UP = 2
FEWEST = 2


def in_own_process(function: Callable, *arguments):
    """Call a function in a process that starts with it and ends with it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def timed(function: Callable[[], None], before: Callable[[], None]) -> float:
    """Seconds of a function, which returns when its work is done; `before` runs first, untimed."""
    before()
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def take_turns(
    functions: Mapping[str, Callable[[], None]],
    rounds: int,
    budget: float,
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every function, called in turn, round by round.

    Parameters
    ----------
    functions : mapping of str to callable
        Each returns when its work is done.
    rounds : int
    budget : float
        Seconds after which a slow function is called no more, once it had some rounds.
    before : callable
        Called before every function, and not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-WARM_UP, rounds):
        for name, function in functions.items():
            taken = seconds[name]
            if sum(taken) > budget and len(taken) >= FEWEST:
                continue
            spent = timed(function, before)
            if turn >= 0 or spent > budget:  # what is so slow needs no warming up
                taken.append(spent)
    return seconds


def ratio(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of medians, and the quartiles of the ratios turn by turn."""
    turns = [a / b for a, b in zip(ours, others)]
    low, high = np.quantile(turns, [0.25, 0.75])
    return float(np.median(ours) / np.median(others)), float(low), float(high)


def rows_of(seconds: Mapping[str, Sequence[float]]) -> list[dict]:
    """A row for each that took turns, with our ratio to it; ours is the first."""
    rows = []
    for what, taken in seconds.items():
        times, low, high = ratio(seconds["ours"], taken)
        rows.append(
            {
                "what": what,
                "ms": round(1e3 * float(np.median(taken)), 3),
                "ours/this": float(f"{times:.3g}"),
                "quartile 1": float(f"{low:.3g}"),
                "quartile 3": float(f"{high:.3g}"),
                "turns": len(taken),
            }
        )
    return rows


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """Write rows of the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict]:
    """Rows of a file that :func:`write_csv` wrote, if it is there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
