#!/usr/bin/env python
"""Measure training by the number of threads, and by how they wait, alone and on a shared machine.

python benchmarks/threads.py

Every choice trains in a process of its own, and they take turns, step by step: on a machine that is
otherwise idle, and beside a process that keeps one core busy. And a product by the kernels that
MXNet's OpenBLAS takes by itself, and after `import trnet`. Writes results/benchmark/threads.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from unittest import mock

import tabulate
from networks import make_steps
from timing import parser_of

from trnet import config
from trnet.threads import cores, use_cores

NETWORKS = {  # and the batch
    "configs/imagenet/alexnet.yaml": 32,
    "configs/imagenet/vgg19.yaml": 8,
    "configs/imagenet/trl_paper/resnet50.yaml": 8,
    "configs/imagenet/resnet101.yaml": 8,
}
WARM_UP = 2
PRODUCT = """
import ctypes, time
from pathlib import Path
import mxnet as mx
library = ctypes.CDLL(str(Path(mx.__file__).with_name("libopenblas.so.0")))
library.openblas_get_corename.restype = ctypes.c_char_p
batch, factor = (mx.nd.random.normal(shape=shape) for shape in ((32, 2048), (2048, 200)))
taken = []
for _ in range(200):
    begin = time.perf_counter()
    mx.nd.dot(batch, factor).wait_to_read()
    taken.append(time.perf_counter() - begin)
print(sorted(taken)[100], library.openblas_get_corename().decode())
"""


def main() -> None:
    """Parse the arguments, measure, and write the table."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="CONFIG")
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    choices = {
        "MXNet's default": {},
        "1 thread": {"OMP_NUM_THREADS": "1"},
        f"{cores()} threads": {"OMP_NUM_THREADS": str(cores())},
        "trnet's default": chosen_by_commands(),
    }
    rows = []
    for path in options.networks:
        rows += measure(path, NETWORKS.get(path, 8), choices, options.rounds)
        print(f"measured {path}", flush=True)
    kernels = products()
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "threads.md"
    path.write_text(report(rows, kernels), encoding="utf-8")
    print(f"Written to {path}")


def products() -> list[dict]:
    """Milliseconds of a product on one thread, by what is imported before MXNet."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("OPENBLAS_CORETYPE", None)
    best: dict[str, tuple[float, str]] = {}
    for _ in range(3):
        for before in ("", "import trnet"):
            command = [sys.executable, "-W", "ignore", "-c", f"{before}\n{PRODUCT}"]
            seconds, kernels = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout.split()
            best[before] = min(best.get(before, (float("inf"), "")), (float(seconds), kernels))
    return [
        {"imported before MXNet": before or "nothing", "kernels": kernels, "ms": 1e3 * seconds}
        for before, (seconds, kernels) in best.items()
    ]


def chosen_by_commands() -> dict[str, str]:
    """What a command sets before it imports MXNet."""
    with mock.patch.dict(os.environ, clear=True):
        use_cores()
        return dict(os.environ)


def measure(path: str, batch: int, choices: Mapping[str, dict], rounds: int) -> Iterator[dict]:
    """Images per second of every choice, alone and beside a busy process."""
    with ExitStack() as stack:
        ends = {
            name: stack.enter_context(training(path, batch, env)) for name, env in choices.items()
        }
        for others in ("alone", "beside a busy process"):
            with nullcontext() if others == "alone" else busy():
                seconds = take_turns(ends, rounds)
            speeds = {name: batch / median(taken) for name, taken in seconds.items()}
            yield {"network": Path(path).stem, "batch": batch, "machine": others, **speeds}


@contextmanager
def training(path: str, batch: int, environment: Mapping[str, str]) -> Iterator[Connection]:
    """A process that takes a step at every message, and answers with the seconds of it."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("OMP_", "GOMP_"))}
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=train, args=(path, batch, there), daemon=True)
    with mock.patch.dict(os.environ, {**kept, **environment}, clear=True):
        process.start()
    there.close()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


def train(path: str, batch: int, end: Connection) -> None:
    """Take training steps on one synthetic batch, in a process of its own."""
    from trnet.tensor.backend import mx

    step = make_steps(config.load(path), batch)["train"]
    while True:
        end.recv()
        begin = time.perf_counter()
        step()
        mx.nd.waitall()
        end.send(time.perf_counter() - begin)


def take_turns(ends: Mapping[str, Connection], rounds: int) -> dict[str, list[float]]:
    """Seconds of the steps of every process, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ends}
    for turn in range(-WARM_UP, rounds):
        for name, end in ends.items():
            end.send(None)
            taken = end.recv()
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


@contextmanager
def busy() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def report(rows: Sequence[dict], kernels: Sequence[dict]) -> str:
    """Format the measurements in Markdown."""
    from trnet import result
    from trnet.tensor.backend import mx

    versions = ", ".join(f"{name} {version}" for name, version in result.versions().items())
    return "\n\n".join(
        [
            "# Images per second in training, by threads",
            laid_out(rows),
            "Synthetic batches, float32; every choice trains in a process of its own, and they "
            "take turns. trnet's default is as many threads as cores, which fall asleep early.",
            "A product (32, 2048) × (2048, 200) by `mx.nd.dot`, on one thread:",
            laid_out(kernels),
            f"Measured by `python benchmarks/threads.py` on {result.processor([mx.cpu()])}; "
            f"{versions}.\n",
        ]
    )


def laid_out(rows: Sequence[dict]) -> str:
    """A table of numbers in three digits."""
    cells = [
        {key: f"{cell:.3g}" if isinstance(cell, float) else cell for key, cell in row.items()}
        for row in rows
    ]
    return tabulate.tabulate(cells, headers="keys", tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    main()
