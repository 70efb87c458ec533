"""Things that take turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

WARM_UP = 3
FEWEST = 5


def timed(function: Callable[[], None]) -> Callable[[], float]:
    """The same function, which returns when its work is done, answering with its seconds."""

    def call() -> float:
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin

    return call


def take_turns(
    functions: Mapping[str, Callable[[], float]], rounds: int, budget: float, pause: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of every function, called one behind the other, round by round.

    Parameters
    ----------
    functions : mapping of str to callable
        Each answers with the seconds that it took.
    rounds : int
    budget : float
        Seconds behind which a slow function sits out, once it had some rounds.
    pause : float
        Seconds of rest before every turn.
    """
    for function in functions.values():
        for _ in range(WARM_UP):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            taken = seconds[name]
            if sum(taken) > budget and len(taken) >= FEWEST:
                continue
            time.sleep(pause)
            taken.append(function())
    return seconds


def rows_of(seconds: Mapping[str, Sequence[float]]) -> list[dict]:
    """A row for each that took turns, with our ratio to it; ours is the first."""
    rows = []
    for what, taken in seconds.items():
        times, low, high = ratio(seconds["ours"], taken)
        rows.append(
            {
                "what": what,
                "ms": round(1e3 * float(np.median(taken)), 3),
                "ours/this": round(times, 3),
                "quartile 1": round(low, 3),
                "quartile 3": round(high, 3),
                "turns": len(taken),
            }
        )
    return rows


def ratio(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of medians, and the quartiles of the ratios turn by turn."""
    turns = [a / b for a, b in zip(ours, others)]
    low, high = np.quantile(turns, [0.25, 0.75])
    return float(np.median(ours) / np.median(others)), float(low), float(high)


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """Write rows of the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
