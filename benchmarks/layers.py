#!/usr/bin/env python
"""Measure the layers against what they replace, against TensorLy, and against a roofline.

python benchmarks/layers.py

Every case takes turns, in one process on the same tensors, with the dense head that it replaces,
with the same formula through TensorLy's MXNet backend, and with the roofline: the time to read the
input and write the output once at the memory bandwidth, and to do the counted multiply-adds at the
matrix rate, both measured in the same turns.

A layer is measured where it stands in a network: after a backbone that has just written its input.
Here that backbone is one copy, whose own time is measured in the same turns and subtracted, as is
its memory where that is measured. Before every turn the caches are overwritten. At one batch it is
measured alone, too, over and over on one input. All of it is with the processor's own instructions,
and where these are AVX-512, at some batches, again with those of AVX2.

Every case is measured in several processes, as the place that a tensor gets in memory changes its
speed.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
from cases import BATCHES, CASES, COPIED, GROWTH, MODES, PLACES, Case
from mxnet.gluon import HybridBlock, nn
from timing import (
    in_own_process,
    instruction_sets,
    limited,
    parser_of,
    read_csv,
    rows_of,
    take_turns,
    write_csv,
)

from trnet.tensor.backend import mx
from trnet.threads import use_cores

SIDE = 1024  # of the square matrices whose product tells the matrix rate
MIB = 2**20
M_MMAP_THRESHOLD, PAGES = -3, 2**17  # of glibc's malloc: what is larger has pages of its own
ONE_BATCH = 32  # where one has to do: for rebuilt weights, for further ranks, and alone
AVX2_BATCHES = (32, 128)


def main() -> None:
    """Parse the arguments, measure, and write layers.csv, growth.csv or memory.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--budget", type=float, default=2.0, help="seconds a measurement")
    arguments.add_argument("--only", help="the case of this name; what others measured stays")
    arguments.add_argument("--growth", action="store_true", help="further ranks, at one batch")
    arguments.add_argument("--memory", action="store_true", help="memory, and not time")
    options = arguments.parse_args()
    use_cores()
    if options.memory:
        rows = []
        for case, batch in product(CASES, options.batches):
            rows += in_own_process(measure_memory, case, batch)
            write_csv(options.results / "memory.csv", rows)
        return
    if options.growth:
        cases, path = GROWTH, options.results / "growth.csv"
        chosen = [(PLACES[0], instruction_sets()[0], ONE_BATCH)]
    else:
        cases, path = CASES, options.results / "layers.csv"
        chosen = settings(options.batches)
    rows, order = [], [case.name for case in cases]
    if options.only:
        cases = [case for case in cases if case.name == options.only]
        rows = [row for row in read_csv(path) if row["case"] != options.only]
    for case in cases:
        for place, instructions, batch in chosen:
            with limited(instructions):
                measured = [
                    in_own_process(
                        measure, case, batch, place, options.rounds, options.budget, process
                    )
                    for process in range(options.processes)
                ]
            for mode in MODES:
                key = key_of(case, batch, mode, place, instructions)
                rows += summarize(key, [one[mode] for one in measured])
        write_csv(path, sorted(rows, key=lambda row: order.index(row["case"])))


def settings(batches: Sequence[int]) -> list[tuple[str, str, int]]:
    """Places, instructions and batches to measure: all batches where layers are used."""
    own, *others = instruction_sets()
    found = [(PLACES[0], own, batch) for batch in batches]
    found += [(PLACES[0], other, batch) for other in others for batch in AVX2_BATCHES]
    found += [(PLACES[1], one, ONE_BATCH) for one in (own, *others)]
    return [setting for setting in found if setting[-1] in batches]


def key_of(case: Case, batch: int, mode: str, place: str, instructions: str) -> dict:
    """What a row is of."""
    return {
        "case": case.name,
        "batch": batch,
        "mode": mode,
        "place": place,
        "instructions": instructions,
    }


def tell(key: dict, text: str) -> None:
    """Print what was measured of a key."""
    print(f"{', '.join(map(str, key.values()))}: {text}", flush=True)


def measure(case: Case, batch: int, place: str, rounds: int, budget: float, process: int) -> dict:
    """Seconds of every way to compute a case, and its roofline, by mode.

    What takes seconds, whatever the batch, is measured in the first process and at one batch.
    """
    x = mx.nd.random.normal(shape=(batch, *case.in_shape))
    copy, square = yardsticks()
    yardstick = {"copy": copy, "square": square}
    measured, backbone = {}, 0.0
    for mode in MODES:
        if place == PLACES[1]:
            functions = {name: run(way.alone, x, mode) for name, way in heads(case).items()}
            seconds = take_turns(functions, rounds, budget, before=None)
            seconds |= take_turns(yardstick, rounds, budget)
        else:
            functions = {name: run(way, x, mode) for name, way in ways(case).items()}
            if mode == "forward":  # its backward would write a gradient that no backbone needs
                functions["backbone"] = run(Behind(First()), x, mode)
            if process > 0 or batch != ONE_BATCH:
                functions.pop("TensorLy, full weight", None)
            seconds = take_turns({**functions, **yardstick}, rounds, budget, copy)
        roofline = roofline_of(case, batch, mode, seconds.pop("copy"), seconds.pop("square"))
        if "backbone" in seconds:
            backbone = float(np.median(seconds.pop("backbone")))
        for name in seconds:
            if not name.startswith("TensorLy"):
                seconds[name] = [spent - backbone for spent in seconds[name]]
        measured[mode] = {"roofline": roofline, "seconds": seconds}
    return measured


def measure_memory(case: Case, batch: int) -> list[dict]:
    """Rows of a case: what every way takes at the peak of forward and backward.

    That is beside its parameters, their gradients and its input, which the backbone writes.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, PAGES)  # so that what is freed is the system's again
    x = mx.nd.random.normal(shape=(batch, *case.in_shape))
    backbone = allocated(run(Behind(First()), x, MODES[0]))
    rows = []
    for name, way in ways(case).items():
        taken = allocated(run(way, x, MODES[1])) - (0 if name.startswith("TensorLy") else backbone)
        rows.append({"case": case.name, "batch": batch, "what": name, "MiB": round(taken / MIB, 1)})
    told = ", ".join(f"{row['what']} {row['MiB']}" for row in rows)
    print(f"{case.name}, batch {batch}: MiB: {told}", flush=True)
    return rows


def summarize(key: dict, measured: list[dict]) -> list[dict]:
    """Rows of a setting, a way to compute it each, ours first, from what processes measured."""
    pooled: dict[str, list[float]] = {}
    for one in measured:
        for name, taken in one["seconds"].items():
            pooled.setdefault(name, []).extend(taken)
    roofline = 1e3 * float(np.median([one["roofline"] for one in measured]))
    rows = [
        {
            **key,
            **row,
            "times roofline": round(row["ms"] / roofline, 2),
            "roofline ms": round(roofline, 3),
            "machine": machine(),
        }
        for row in rows_of(pooled)
    ]
    ours, *others = rows
    told = ", ".join(f"{row['ours/this']:.2f} of {row['what']}" for row in others)
    tell(key, f"{ours['ms']:.2f} ms, {ours['times roofline']} times the roofline, {told}")
    return rows


def machine() -> str:
    """What measured: the processor, its cores, and what computes."""
    from trnet.result import processor

    return f"{processor([mx.cpu()])}, MXNet {mx.__version__}"


def allocated(function: Callable[[], None]) -> int:
    """Bytes that a process takes more, at the peak of a function's first call, than before it."""
    gc.collect()
    mx.nd.waitall()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # makes the peak the present
    before = status("VmRSS")
    function()
    return status("VmHWM") - before


def status(key: str) -> int:
    """A size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def ways(case: Case) -> dict[str, Callable]:
    """The ways to compute a case: from a batch to its outputs, by name."""
    return heads(case) | through_tensorly(case)


def heads(case: Case) -> dict[str, Behind]:
    """Our head and the dense one that it replaces, each after a backbone, by name."""
    from trnet import TCL, TRL

    if case.layer == "TRL":
        layer = TRL(case.units, case.rank, case.in_shape, case.factorization)
        return {
            "ours": Behind(layer),
            "dense": Behind(nn.GlobalAvgPool2D(), nn.Dense(case.replaced)),
        }
    tail = [nn.Flatten(), nn.Dense(case.units, activation="relu")] if case.units else []
    found = {"ours": Behind(TCL(case.rank, case.in_shape), *tail)}
    if case.replaced:
        found["dense"] = Behind(nn.Flatten(), nn.Dense(case.replaced, activation="relu"))
    return found


def through_tensorly(case: Case) -> dict[str, Callable]:
    """The same formula as functions, through TensorLy's own on its MXNet backend.

    ``TensorLy`` projects the input; ``TensorLy, full weight`` rebuilds a TRL's weight first.
    """
    from trnet import TCL, TRL
    from trnet.tensor.backend import tensorly_scope

    if case.layer == "TCL":
        if case.units:
            return {}
        layer = TCL(case.rank, case.in_shape, implementation="tensorly")
        layer.initialize(mx.init.Xavier())
        return {"TensorLy": layer.forward}
    form = case.factorization
    rebuilding = TRL(case.units, case.rank, case.in_shape, form, implementation="tensorly")
    rebuilding.initialize(mx.init.Xavier())
    found = {"TensorLy, full weight": rebuilding.forward}
    if form == "tucker":
        core, *factors, bias = (p.data() for p in rebuilding.collect_params().values())

        def projecting(x):
            with tensorly_scope() as tl:
                arrays = [array.as_np_ndarray() for array in (core, *factors, bias)]
                core_, *factors_, bias_ = arrays
                modes = list(range(1, len(case.in_shape) + 1))
                latent = tl.tenalg.multi_mode_dot(
                    x.as_np_ndarray(), factors_[:-1], modes=modes, transpose=True
                )
                latent = tl.tenalg.inner(latent, core_, n_modes=len(modes))
                return (tl.dot(latent, factors_[-1].T) + bias_).as_nd_ndarray()

        found["TensorLy"] = projecting
    return found


class Behind(HybridBlock):
    """A head in a network: after a backbone that only writes its input.

    The backbone joins the first sample, which has a gradient, and the rest, which has none: so the
    head's backward computes the input's gradient, and the backbone's next to nothing.
    """

    def __init__(self, *layers) -> None:
        super().__init__()
        self.head = nn.HybridSequential()
        self.head.add(*layers)

    @property
    def alone(self) -> HybridBlock:
        """The head by itself; the layer, where it is one."""
        return self.head[0] if len(self.head) == 1 else self.head

    def hybrid_forward(self, F, first, *rest):
        """What the head makes of a batch."""
        return self.head(F.concat(first, *rest, dim=0))


class First(HybridBlock):
    """The first element of every sample's first mode: next to no work."""

    def hybrid_forward(self, F, x):
        """A slice."""
        return F.slice_axis(x, axis=1, begin=0, end=1)


def run(way: Callable, x, mode: str) -> Callable[[], None]:
    """A call that computes one way in a mode, and waits for all that it computes."""
    is_network = isinstance(way, HybridBlock)
    apart = isinstance(way, Behind) and len(x) > 1
    parts = [x[:1].copy(), x[1:].copy()] if apart else [x.copy()]
    if is_network:
        way.initialize(mx.init.Xavier())
    head = mx.nd.ones_like(way(*parts))

    def forward() -> None:
        way(*parts).wait_to_read()

    def both() -> None:
        with mx.autograd.record():
            out = way(*parts)
        out.backward(head)
        mx.nd.waitall()

    if mode != MODES[0]:
        parts[0].attach_grad()
    function = forward if mode == MODES[0] else both
    if is_network:
        function()  # so that libraries have allocated what they keep
        way.hybridize(static_alloc=True, static_shape=True)
    return function


def yardsticks() -> tuple[Callable[[], None], Callable[[], None]]:
    """What tells the machine's bandwidth, and overwrites its caches, and its matrix rate."""
    source, target = mx.nd.ones(COPIED), mx.nd.empty(COPIED)
    left, right = (mx.nd.random.normal(shape=(SIDE, SIDE)) for _ in range(2))

    def copy() -> None:
        mx.nd.elemwise_add(source, source, out=target)
        target.wait_to_read()

    def square() -> None:
        mx.nd.FullyConnected(left, right, num_hidden=SIDE, no_bias=True).wait_to_read()

    return copy, square


def roofline_of(case: Case, batch: int, mode: str, copy: list, square: list) -> float:
    """Seconds that reading, writing and multiplying take at the machine's best rates.

    A forward reads the input and writes the output; a backward reads both and the output's
    gradient, writes the input's, and multiplies twice as much.
    """
    bandwidth = 3 * 4 * COPIED / min(copy)
    rate = SIDE**3 / min(square)
    traffic, multiply_adds = batch * case.traffic, batch * counted(case)
    times = 1 if mode == "forward" else 3
    return times * (traffic / bandwidth + multiply_adds / rate)


def counted(case: Case) -> int:
    """Multiply-adds of a sample, as the layer's plan counts them."""
    from trnet import TCL, TRL

    if case.layer == "TRL":
        layer = TRL(case.units, case.rank, case.in_shape, case.factorization)
        return sum(step.multiply_adds for step in layer.plan().steps)
    steps = TCL(case.rank, case.in_shape).plan().steps
    return sum(s.multiply_adds for s in steps) + prod(case.rank) * (case.units or 0)


if __name__ == "__main__":
    main()
