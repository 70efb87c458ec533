#!/usr/bin/env python
"""Measure our layers against PyTorch and TensorLy-Torch, turn by turn.

python benchmarks/peers.py --python PEERS/bin/python

PyTorch runs in an environment of its own, made of benchmarks/requirements-peers.txt, as it cannot
stand beside MXNet's NumPy. The two processes alternate: while one computes some times, the other
waits. Of every such turn the first time is left out, in which threads wake up. The settings are
those of layers.py. In a network, on both sides the caches are overwritten before every time, and
the input is what was written last: on ours by the backbone of layers.py, whose time is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from cases import CASES, COPIED, MODES, PLACES, Case
from layers import ONE_BATCH, Behind, First, heads, key_of, machine, run, settings, tell, yardsticks
from timing import in_own_process, limited, parser_of, rows_of, timed, write_csv

from trnet.tensor.backend import mx
from trnet.threads import use_cores

TIMES = 4  # a turn


class Peer:
    """The process of PyTorch's side."""

    def __init__(self, python: str, threads: int) -> None:
        worker = Path(__file__).with_name("torch_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker), str(threads), str(COPIED)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request):
        """The answer to a request."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("error: PyTorch's side has ended; its last words stand above")
        return json.loads(line)


def main() -> None:
    """Parse the arguments, measure, and write peers.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--python", required=True, help="of the peers' environment")
    arguments.add_argument("--batches", type=int, nargs="+", default=(ONE_BATCH,))
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--budget", type=float, default=2.0, help="seconds a measurement")
    options = arguments.parse_args()
    use_cores()
    chosen = settings(options.batches)
    rows = []
    for instructions in dict.fromkeys(instructions for _, instructions, _ in chosen):
        own = [setting for setting in chosen if setting[1] == instructions]
        with limited(instructions):  # libraries read it, and count threads, when they are loaded
            rows += in_own_process(compare, own, options)
        write_csv(options.results / "peers.csv", rows)


def compare(chosen: list[tuple[str, str, int]], options: argparse.Namespace) -> list[dict]:
    """Rows of all cases in these settings, with as many threads on both sides."""
    peer = Peer(options.python, int(os.environ["OMP_NUM_THREADS"]))
    versions = peer.ask(do="versions")
    rows = []
    for case in CASES:
        for place, instructions, batch in chosen:
            for mode in MODES:
                measured = measure(peer, case, batch, place, mode, options.rounds, options.budget)
                key = key_of(case, batch, mode, place, instructions)
                rows += [{**key, **r, "machine": f"{machine()}, {versions}"} for r in measured]
                ours, *others = measured
                told = ", ".join(f"{row['ours/this']:.3g} of {row['what']}" for row in others)
                tell(key, f"{ours['ms']:.2f} ms, {told}")
    return rows


def measure(
    peer: Peer, case: Case, batch: int, place: str, mode: str, rounds: int, budget: float
) -> list[dict]:
    """Rows of a case: ours, then a peer's way each."""
    x = mx.nd.random.normal(shape=(batch, *case.in_shape))
    ours = heads(case)["ours"]
    if place == PLACES[1]:
        turns = {"ours": partial(turn, run(ours.alone, x, mode), lambda: None)}
    else:
        copy, _ = yardsticks()
        turns = {
            "backbone": partial(turn, run(Behind(First()), x, MODES[0]), copy),
            "ours": partial(turn, run(ours, x, mode), copy),
        }
    prepared = peer.ask(do="prepare", case=asdict(case), batch=batch, mode=mode, place=place)
    for way in prepared:
        turns[way] = partial(peer.ask, do="compute", way=way, times=TIMES)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, take in turns.items():
            if sum(seconds[name]) < budget:
                seconds[name] += take()[1:]
    if "backbone" in seconds:
        backbone = float(np.median(seconds.pop("backbone")))
        seconds["ours"] = [spent - backbone for spent in seconds["ours"]]
    return rows_of(seconds)


def turn(function: Callable[[], None], before: Callable[[], None]) -> list[float]:
    """Seconds of some calls."""
    return [timed(function, before) for _ in range(TIMES)]


if __name__ == "__main__":
    main()
