#!/usr/bin/env python
"""Measure our layers against PyTorch and TensorLy-Torch, turn by turn.

python benchmarks/peers.py --python PEERS/bin/python

PyTorch runs in an environment of its own, made of benchmarks/requirements-peers.txt, as it cannot
stand beside MXNet's NumPy. The two processes alternate: while one computes, the other waits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from functools import partial
from pathlib import Path

from cases import BATCHES, CASES, MODES, Case
from timing import rows_of, take_turns, timed, write_csv

PAUSE = 0.05  # seconds in which the threads of whoever was before stop spinning


class Peer:
    """The process of PyTorch's side."""

    def __init__(self, python: str, threads: int) -> None:
        worker = Path(__file__).with_name("torch_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker), str(threads)],
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
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--python", required=True, help="of the peers' environment")
    arguments.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--budget", type=float, default=4.0, help="seconds a measurement")
    arguments.add_argument("--results", type=Path, default=Path("results/benchmark"))
    options = arguments.parse_args()
    threads = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    peer = Peer(options.python, threads)
    rows = []
    for case in CASES:
        for batch in options.batches:
            for mode in MODES:
                rows += measure(peer, case, batch, mode, options.rounds, options.budget)
    write_csv(options.results / "peers.csv", rows)


def measure(
    peer: Peer, case: Case, batch: int, mode: str, rounds: int, budget: float
) -> list[dict]:
    """Rows of a case: a peer's way each, with ours beside it."""
    import mxnet as mx
    from layers import blocks, run

    x = mx.nd.random.normal(shape=(batch, *case.in_shape))
    key = {"case": case.name, "batch": batch, "mode": mode}
    ways = {"ours": timed(run(blocks(case)["ours"], x, mode))}
    for way in peer.ask(do="prepare", **key):
        ways[way] = partial(peer.ask, do="compute", way=way, **key)
    rows = [{**key, **row} for row in rows_of(take_turns(ways, rounds, budget, PAUSE))]
    ours, *others = rows
    told = ", ".join(f"{row['ours/this']:.3f} of {row['what']}" for row in others)
    print(f"{case.name}, batch {batch}, {mode}: {ours['ms']:.2f} ms, {told}", flush=True)
    return rows


if __name__ == "__main__":
    main()
