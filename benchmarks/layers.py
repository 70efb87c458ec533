#!/usr/bin/env python
"""Measure the layers against what they replace, against TensorLy, and against a floor.

python benchmarks/layers.py

Every case takes turns, in one process on the same tensors, with the dense head that it replaces,
with the same formula through TensorLy's MXNet backend, and with the floor: the time to read the
input and write the output once at the memory bandwidth, and to do the counted multiply-adds at the
matrix rate, both measured in the same turns.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from math import prod
from pathlib import Path

from cases import BATCHES, CASES, MODES, Case
from timing import rows_of, take_turns, timed, write_csv

SIDE = 1024  # of the square matrices whose product tells the matrix rate
COPIED = 2**24  # elements whose copy tells the bandwidth


def main() -> None:
    """Parse the arguments, measure, and write layers.csv."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments.add_argument("--budget", type=float, default=4.0, help="seconds a measurement")
    arguments.add_argument("--results", type=Path, default=Path("results/benchmark"))
    options = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    rows = []
    for case in CASES:
        for batch in options.batches:
            for mode in MODES:
                rows += measure(case, batch, mode, options.rounds, options.budget)
    write_csv(options.results / "layers.csv", rows)


def measure(case: Case, batch: int, mode: str, rounds: int, budget: float) -> list[dict]:
    """Rows of a case: a way to compute it each, ours first."""
    import mxnet as mx

    x = mx.nd.random.normal(shape=(batch, *case.in_shape))
    functions = {name: run(block, x, mode) for name, block in blocks(case).items()}
    functions |= yardsticks()
    timers = {name: timed(function) for name, function in functions.items()}
    seconds = take_turns(timers, rounds, budget)
    floor = 1e3 * floor_of(case, batch, mode, seconds.pop("copy"), seconds.pop("product"))
    key = {"case": case.name, "batch": batch, "mode": mode}
    rows = [{**key, **row, "floor ms": round(floor, 3)} for row in rows_of(seconds)]
    ours, *others = rows
    told = ", ".join(f"{row['ours/this']:.2f} of {row['what']}" for row in others)
    print(
        f"{case.name}, batch {batch}, {mode}: {ours['ms']:.2f} ms, "
        f"{ours['ms'] / floor:.1f} of the floor, {told}",
        flush=True,
    )
    return rows


def blocks(case: Case) -> dict[str, Callable]:
    """The ways to compute a case: from a batch to its outputs, by name."""
    import mxnet as mx
    from mxnet.gluon import nn

    from trnet import TCL, TRL

    def compiled(*layers):
        network = nn.HybridSequential()
        network.add(*layers)
        network.initialize(mx.init.Xavier())
        network.hybridize(static_alloc=True, static_shape=True)
        return network

    def tail():
        return [nn.Flatten(), nn.Dense(case.units, activation="relu")] if case.units else []

    if case.layer == "TRL":
        layer = TRL(case.units, case.rank, case.in_shape, case.factorization)
        ways = {
            "ours": compiled(layer),
            "dense": compiled(nn.GlobalAvgPool2D(), nn.Dense(case.replaced)),
        }
    else:
        ways = {"ours": compiled(TCL(case.rank, case.in_shape), *tail())}
        if case.replaced:
            ways["dense"] = compiled(nn.Flatten(), nn.Dense(case.replaced, activation="relu"))
    return ways | through_tensorly(case)


def through_tensorly(case: Case) -> dict[str, Callable]:
    """The same formula through TensorLy's own functions on its MXNet backend, eagerly.

    ``TensorLy`` projects the input; ``TensorLy, full weight`` rebuilds a TRL's weight first.
    """
    import mxnet as mx

    from trnet import TCL, TRL
    from trnet.tensor.backend import tensorly_scope

    if case.layer == "TCL":
        if case.units:
            return {}
        layer = TCL(case.rank, case.in_shape, implementation="tensorly")
        layer.initialize(mx.init.Xavier())
        return {"TensorLy": layer}
    form = case.factorization
    rebuilding = TRL(case.units, case.rank, case.in_shape, form, implementation="tensorly")
    rebuilding.initialize(mx.init.Xavier())
    ways = {"TensorLy, full weight": rebuilding}
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

        ways["TensorLy"] = projecting
    return ways


def run(way: Callable, x, mode: str) -> Callable[[], None]:
    """A call that computes one way in a mode, and waits for all that it computes."""
    import mxnet as mx

    if mode == "forward":
        return lambda: way(x).wait_to_read()
    x = x.copy()
    x.attach_grad()

    def both() -> None:
        with mx.autograd.record():
            out = way(x)
        out.backward()
        mx.nd.waitall()

    return both


def yardsticks() -> dict[str, Callable[[], None]]:
    """What tells the machine's bandwidth and its matrix rate."""
    import mxnet as mx

    source, target = mx.nd.ones(COPIED), mx.nd.empty(COPIED)
    left, right = (mx.nd.random.normal(shape=(SIDE, SIDE)) for _ in range(2))

    def copy() -> None:
        mx.nd.elemwise_add(source, source, out=target)
        target.wait_to_read()

    def product() -> None:
        mx.nd.FullyConnected(left, right, num_hidden=SIDE, no_bias=True).wait_to_read()

    return {"copy": copy, "product": product}


def floor_of(case: Case, batch: int, mode: str, copy: list, product: list) -> float:
    """Seconds that reading, writing and multiplying take at the machine's best rates.

    A forward reads the input and writes the output; a backward reads both and the output's
    gradient, writes the input's, and multiplies twice as much.
    """
    bandwidth = 3 * 4 * COPIED / min(copy)
    rate = SIDE**3 / min(product)
    traffic, multiply_adds = batch * case.traffic, batch * counted(case)
    times = 1 if mode == "forward" else 3
    return times * (traffic / bandwidth + multiply_adds / rate)


def counted(case: Case) -> int:
    """Multiply-adds of a sample, as the layer's plan counts them."""
    from trnet import TCL, TRL

    if case.layer == "TRL":
        layer = TRL(case.units, case.rank, case.in_shape, case.factorization)
        return sum(step.multiply_adds for step in layer.steps)
    steps = TCL(case.rank, case.in_shape).steps
    return sum(s.multiply_adds for s in steps) + prod(case.rank) * (case.units or 0)


if __name__ == "__main__":
    main()
