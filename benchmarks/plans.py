#!/usr/bin/env python
"""Measure what the planner chooses against every other plan, on both kinds of processor.

python benchmarks/plans.py

For each layer all ways to merge neighbouring modes are computed in every order, in the place where
layers.py measures them, and take turns. Writes results/benchmark/plans.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import numpy as np
import tabulate
from cases import CASES, MODES, Case
from layers import ONE_BATCH, Behind, First, heads, machine, run, yardsticks
from timing import in_own_process, instruction_sets, limited, parser_of, ratio, take_turns

from trnet.tensor.backend import mx
from trnet.tensor.plan import Step
from trnet.threads import use_cores

ROUNDS, BUDGET = 15, 3.0
PLANNED = [case for case in CASES if case.factorization == "tucker" and "dense" not in case.name]
SMALL = [
    Case("TCL, small", "TCL", (64, 7, 7), (16, 5, 5)),
    Case("TRL, flat", "TRL", (192, 7, 7), (67, 5, 5, 10), 10, 10),
]


def main() -> None:
    """Parse the arguments, measure, and write plans.md."""
    arguments = parser_of(__doc__)
    options = arguments.parse_args()
    use_cores()
    rows = []
    for case in (*PLANNED, *SMALL):
        for instructions in instruction_sets():
            with limited(instructions):
                measured = in_own_process(measure, case)
            for mode, row in measured.items():
                rows.append({"Layer": case.name, "Instructions": instructions, "": mode, **row})
                print(", ".join(rows[-1].values()), flush=True)
    text = "\n\n".join(
        [
            "# The plan that is chosen, beside the fastest one",
            tabulate.tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True),
            f"Batches of {ONE_BATCH}, float32. A plan is the modes that its products contract, in "
            "their order. The ratio is the chosen plan's time over the fastest one's, with its "
            "quartiles over the turns.",
            f"Measured by `python benchmarks/plans.py` on {machine()}.\n",
        ]
    )
    (options.results / "plans.md").write_text(text, encoding="utf-8")


def measure(case: Case) -> dict[str, dict]:
    """By mode: the chosen plan, the fastest one, and the ratio of their times."""
    from trnet.tensor import contraction, plan
    from trnet.tensor.factorizations import tucker

    x = mx.nd.random.normal(shape=(ONE_BATCH, *case.in_shape))
    rank = case.rank[: len(case.in_shape)]
    chosen = described(plan.plan(case.in_shape, rank))
    copy, _ = yardsticks()
    found = {}
    for mode in MODES:
        functions = {"backbone": run(Behind(First()), x, MODES[0])}
        for steps in plan.candidates(case.in_shape, rank):
            planned = mock.Mock(return_value=steps)
            patches = [mock.patch.object(held, "plan", planned) for held in (contraction, tucker)]
            with patches[0], patches[1]:
                tucker._plan.cache_clear()
                function = run(heads(case)["ours"], x, mode)
                function()  # so that its graph is made of this plan
            functions[described(steps)] = function
        tucker._plan.cache_clear()
        seconds = take_turns(functions, ROUNDS, BUDGET, copy)
        backbone = float(np.median(seconds.pop("backbone")))
        times = {name: [spent - backbone for spent in taken] for name, taken in seconds.items()}
        fastest = min(times, key=lambda name: np.median(times[name]))
        middle, low, high = ratio(times[chosen], times[fastest])
        found[mode] = {
            "Chosen": chosen,
            "ms": f"{1e3 * np.median(times[chosen]):.2f}",
            "Fastest": fastest,
            "ms of it": f"{1e3 * np.median(times[fastest]):.2f}",
            "Ratio": f"{middle:.2f} ({low:.2f} to {high:.2f})",
        }
    return found


def described(steps: Sequence[Step]) -> str:
    """The modes of a plan's products, in their order: '2–3, 1'."""
    return ", ".join(
        str(step.first) if step.first == step.last else f"{step.first}–{step.last}"
        for step in steps
    )


if __name__ == "__main__":
    main()
