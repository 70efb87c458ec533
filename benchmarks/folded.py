#!/usr/bin/env python
"""Measure folded heads at small batches against the dense heads that they replace.

python benchmarks/folded.py

As they ship: folded for the batch, hybridized in MXNet, and as ONNX in ONNX Runtime. A head and the
dense one take turns. Writes results/benchmark/folded.csv and folded.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tabulate
from cases import CASES, Case
from deployed import onnx_call
from layers import heads, machine
from mxnet.gluon import HybridBlock, nn
from timing import in_own_process, parser_of, ratio, take_turns, write_csv

from trnet.threads import use_cores

SMALL = [
    Case("TRL 8, ten classes", "TRL", (64, 7, 7), (8, 3, 3, 8), 10, 10),
    Case("TRL 8, pooled, ten classes", "TRL", (64, 7, 7), (8, 1, 1, 8), 10, 10),
    Case("TRL 32, ten classes", "TRL", (512, 7, 7), (32, 3, 3, 10), 10, 10),
    Case("TRL 32, pooled, ten classes", "TRL", (512, 7, 7), (32, 1, 1, 10), 10, 10),
]
ENGINES = ("MXNet", "ONNX Runtime")
BATCHES = (1, 8)
ROUNDS, BUDGET = 300, 5.0


def main() -> None:
    """Parse the arguments, measure, and write folded.csv and folded.md."""
    arguments = parser_of(__doc__)
    options = arguments.parse_args()
    use_cores()
    published = [case for case in CASES if case.units]
    rows = []
    for case in (*published, *SMALL):
        rows += in_own_process(measure, case)
        told = (f"{row['ours/dense']} ({row['engine']}, {row['batch']})" for row in rows[-4:])
        print(f"{case.name}: {', '.join(told)}", flush=True)
    write_csv(options.results / "folded.csv", rows)
    (options.results / "folded.md").write_text(table(rows), encoding="utf-8")


def measure(case: Case) -> list[dict]:
    """Rows of a case: its time and the dense head's, by engine and batch."""
    from trnet import export_onnx, fold
    from trnet.tensor.backend import mx

    rows = []
    for batch in BATCHES:
        x = mx.nd.random.normal(shape=(batch, *case.in_shape))
        calls: dict[str, dict[str, Callable[[], None]]] = {engine: {} for engine in ENGINES}
        for name, head in both(case).items():
            head.initialize(mx.init.Xavier())
            expected = head(x)
            folded = fold(head, batch)
            folded.hybridize(static_alloc=True, static_shape=True)
            calls["MXNet"][name] = mxnet_call(folded, x)
            with tempfile.TemporaryDirectory() as folder:
                file = export_onnx(fold(head, batch), Path(folder) / "net.onnx", case.in_shape)
                calls["ONNX Runtime"][name] = onnx_call(file, x.asnumpy())(batch)
            np.testing.assert_allclose(folded(x).asnumpy(), expected.asnumpy(), 1e-3, 1e-4)
        for engine in ENGINES:
            seconds = take_turns(calls[engine], ROUNDS, BUDGET)
            times, low, high = ratio(seconds["ours"], seconds["dense"])
            rows.append(
                {
                    "case": case.name,
                    "batch": batch,
                    "engine": engine,
                    "ours ms": round(1e3 * float(np.median(seconds["ours"])), 4),
                    "dense ms": round(1e3 * float(np.median(seconds["dense"])), 4),
                    "ours/dense": round(times, 3),
                    "quartile 1": round(low, 3),
                    "quartile 3": round(high, 3),
                    "machine": machine(),
                }
            )
    return rows


def both(case: Case) -> dict[str, HybridBlock]:
    """Our head, and the dense one: after pooling, unless our rank keeps pixels apart."""
    found = {name: behind.head for name, behind in heads(case).items()}
    if case in SMALL and case.rank[1:3] != (1, 1):
        found["dense"] = nn.HybridSequential()
        found["dense"].add(nn.Flatten(), nn.Dense(case.replaced))
    return found


def mxnet_call(network, x) -> Callable[[], None]:
    """A call that computes a network, and waits."""
    return lambda: network(x).wait_to_read()


def table(rows: Sequence[dict]) -> str:
    """A row per head, with the ratios of both engines and batches."""
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = [
            f"{row['ours/dense']:.2f} ({row['quartile 1']:.2f} to {row['quartile 3']:.2f})"
            for engine in ENGINES
            for row in rows
            if (row["case"], row["engine"]) == (case, engine)
        ]
        lines.append([case, *cells])
    heading = ["Head", *(f"{engine}, batch {batch}" for engine in ENGINES for batch in BATCHES)]
    laid_out = tabulate.tabulate(lines, heading, "pipe", disable_numparse=True)
    return (
        "# Folded heads at small batches\n\n"
        "Our time over that of the dense head that it replaces, with quartiles of neighbouring "
        f"turns.\nBy `python benchmarks/folded.py`, which says how. {rows[0]['machine']}.\n\n"
        f"{laid_out}\n"
    )


if __name__ == "__main__":
    main()
