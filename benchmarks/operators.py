#!/usr/bin/env python
"""Profile the layers: what each operator of a forward takes, beside the layer's roofline.

python benchmarks/operators.py

MXNet's own profiler times every operator, each launched by itself, in the place that layers.py
measures them in: after a backbone, with the caches overwritten before every forward; and with the
same instructions.
"""

from __future__ import annotations

import os
import tempfile
from itertools import product

from cases import CASES, Case
from layers import machine, run, tell, ways, yardsticks
from timing import in_own_process, instruction_sets, limited, parser_of, write_csv

from trnet.tensor.backend import mx
from trnet.threads import use_cores

TURNS = 40
# What is the backbone's, or no operator: calls of MXNet's library, and the freeing of arrays.
OTHERS = ("Concat", "elemwise_add", "DeleteVariable", "SetValueOp", "WaitForVar", "MX")


def main() -> None:
    """Parse the arguments, profile, and write operators.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--batches", type=int, nargs="+", default=(1, 32))
    options = arguments.parse_args()
    use_cores()
    os.environ["MXNET_EXEC_BULK_EXEC_INFERENCE"] = "0"  # or many operators would be one
    rows = []
    for case, batch, instructions in product(CASES, options.batches, instruction_sets()):
        with limited(instructions):
            rows += in_own_process(profile, case, batch, instructions)
        write_csv(options.results / "operators.csv", rows)


def profile(case: Case, batch: int, instructions: str) -> list[dict]:
    """Rows of a case: what each kind of operator takes in a forward of ours."""
    x = mx.nd.random.normal(shape=(batch, *case.in_shape))
    way, (copy, _) = ways(case)["ours"], yardsticks()
    forward = run(way, x, "forward")
    way.hybridize(static_alloc=True)
    forward()
    with tempfile.NamedTemporaryFile() as file:
        mx.profiler.set_config(profile_symbolic=True, aggregate_stats=True, filename=file.name)
        for _ in range(TURNS):
            copy()
            mx.nd.waitall()
            mx.profiler.set_state("run")
            forward()
            mx.profiler.set_state("stop")
        operators = aggregates(mx.profiler.dumps(reset=True))
    key = {"case": case.name, "batch": batch, "instructions": instructions}
    rows = [
        {**key, "operator": name, "calls": calls // TURNS, "ms": round(ms / TURNS, 3)}
        for name, calls, ms in operators
        if not name.startswith(OTHERS)
    ]
    told = ", ".join(f"{row['calls']} {row['operator']} {row['ms']}" for row in rows)
    tell(key, told)
    return [{**row, "machine": machine()} for row in rows]


def aggregates(text: str) -> list[tuple[str, int, float]]:
    """Name, calls and milliseconds of every operator in a dump of MXNet's profiler."""
    cells = [line.split() for line in text.splitlines()]
    found = [(c[0], int(c[1]), float(c[2])) for c in cells if len(c) > 5 and c[1].isdigit()]
    return sorted(found, key=lambda operator: -operator[2])


if __name__ == "__main__":
    main()
