"""Timing in turns, so that what slows the machine slows everything that is compared."""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import numpy as np

WARM_UP = 2
FEWEST = 2
# What limits libraries to AVX2 when they are loaded: MXNet's oneDNN and OpenBLAS, and PyTorch's.
_AVX2 = {
    "DNNL_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def parser_of(description: str) -> argparse.ArgumentParser:
    """A benchmark's parser, which knows the folder of its results."""
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--results", type=Path, default=Path("results/benchmark"))
    return arguments


def instruction_sets() -> tuple[str, ...]:
    """The processor's own instructions, and those of a processor without AVX-512."""
    has_avx512 = " avx512f " in Path("/proc/cpuinfo").read_text()
    return ("AVX-512", "AVX2") if has_avx512 else ("AVX2",)


@contextmanager
def limited(instructions: str) -> Iterator[None]:
    """Let processes that start here compute with these instructions."""
    with mock.patch.dict(os.environ, _AVX2 if instructions == "AVX2" else {}):
        yield


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
    before: Callable[[], None] | None = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every function, called in turn, round by round.

    Parameters
    ----------
    functions : mapping of str to callable
        Each returns when its work is done.
    rounds : int
    budget : float
        Seconds after which a slow function is called no more, once it had some rounds.
    before : callable or None
        Called before every function, and not timed. None: that function, whose data are in the
        caches then.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-WARM_UP, rounds):
        for name, function in functions.items():
            taken = seconds[name]
            if sum(taken) > budget and len(taken) >= FEWEST:
                continue
            spent = timed(function, before or function)
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
