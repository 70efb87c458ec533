#!/usr/bin/env python
"""Lay out what the benchmarks measured: results/benchmark/table.md and growth.png.

python benchmarks/report.py
python benchmarks/report.py --results results/benchmark/amd_epyc

Where growth was not measured, there is no plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import tabulate
from cases import BATCHES, MODES, PLACES
from timing import parser_of, read_csv

from trnet.report import style

matplotlib.use("Agg")

from matplotlib import pyplot as plt

tabulate.MIN_PADDING = 0  # as in trnet.report

AT = "32"  # the batch of the table
COMMANDS = "`benchmarks/layers.py` and `benchmarks/peers.py`, as in `make benchmark`,"
FEWEST = 10  # turns of which quartiles are shown
OTHERS = {
    "dense": "dense head, MXNet",
    "TensorLy": "TensorLy, MXNet",
    "TensorLy, full weight": "TensorLy, rebuilt",
    "torch, dense": "dense head, PyTorch",
    "torch, TRL": "TRL by hand, PyTorch",
    "TensorLy-Torch": "TensorLy-Torch",
    "TensorLy-Torch, default": "TensorLy-Torch, default",
}
LOOKS = dict(zip(("TRL 50", "TRL 200", "TCL VGG", "TCL VGG, dense"), style.LINES))
RANKS = (6, 12, 25, 50, 100, 200, 400, 800)  # of ticks; that of 150 would touch that of 200


def main() -> None:
    """Read the CSV files, write the table and the plot."""
    arguments = parser_of(__doc__)
    folder = arguments.parse_args().results
    names = ("layers", "growth", "peers", "memory")
    layers, growth, peers, memory = (read_csv(folder / f"{name}.csv") for name in names)
    (folder / "table.md").write_text(table(layers, peers, memory), encoding="utf-8")
    print(f"Written to {folder / 'table.md'}")
    if growth:
        plot(layers, growth, folder / "growth.png")
        print(f"Written to {folder / 'growth.png'}")


def table(layers: Sequence[dict], peers: Sequence[dict], memory: Sequence[dict]) -> str:
    """Our time and memory, and their ratios to every other way's, at one batch, in Markdown."""
    notes = (
        f"Batches of {AT}, float32. Ratios are our median time over theirs, with the quartiles of "
        "the ratios turn by turn in brackets (without them where one turn takes long): below 1, "
        "ours is faster. The roofline is the time to read the input and write the output once and "
        "to do the multiply-adds, at the rates measured in the same turns: what finds its input in "
        "a cache may be below it. Peak memory is in MiB, without parameters, gradients and input."
    )
    machines = {row["machine"] for row in [layers[0], *peers[:1]]}
    # With peers, their versions come after the same machine.
    named = [m for m in machines if not any(o != m and o.startswith(m) for o in machines)]
    parts = []
    for place, instructions in dict.fromkeys((r["place"], r["instructions"]) for r in layers):
        setting = {"place": place, "instructions": instructions}
        own, others = (select(rows, **setting) for rows in (layers, peers))
        parts.append(f"## {instructions}, {place}")
        parts.append(_table(own, others, memory if place == PLACES[0] else []))
    return "\n\n".join([*parts, notes, f"Measured by {COMMANDS} on {', '.join(sorted(named))}.\n"])


def _table(layers: Sequence[dict], peers: Sequence[dict], memory: Sequence[dict]) -> str:
    """One setting's: a row per layer and mode; what was not measured there has no column."""
    rows = []
    for ours in select(layers, what="ours", batch=AT):
        key = {name: ours[name] for name in ("case", "mode", "batch")}
        others = {row["what"]: row for row in select([*layers, *peers], **key)}
        cells = {
            "Layer": ours["case"],
            "": ours["mode"],
            "ms": f"{float(ours['ms']):.2f}",
            "× roofline": ours["times roofline"],
            "peak memory, ours / dense": mebibytes(memory, ours),
        }
        for what, heading in OTHERS.items():
            cells[heading] = spread(others[what]) if what in others else ""
        rows.append(cells)
    kept = [name for name in rows[0] if any(cells[name] for cells in rows)]
    columns = {name: [cells[name] for cells in rows] for name in kept}
    return tabulate.tabulate(columns, headers="keys", tablefmt="pipe", disable_numparse=True)


def mebibytes(memory: Sequence[dict], ours: dict) -> str:
    """Our memory and the dense head's, for forward and backward only."""
    if ours["mode"] != MODES[1]:
        return ""
    rows = select(memory, case=ours["case"], batch=ours["batch"])
    return " / ".join(row["MiB"] for row in rows if row["what"] in ("ours", "dense"))


def select(rows: Sequence[dict], **wanted: str) -> list[dict]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def spread(row: dict) -> str:
    """A ratio, with its quartiles where there were enough turns."""
    if int(row["turns"]) < FEWEST:
        return f"{float(row['ours/this']):.2g}"
    ratio, low, high = (float(row[name]) for name in ("ours/this", "quartile 1", "quartile 3"))
    return f"{ratio:.2g} ({low:.2g} to {high:.2g})"


@plt.rc_context(style.STYLE)
def plot(layers: Sequence[dict], growth: Sequence[dict], path: Path) -> None:
    """Time against batch, and against rank, on log axes."""
    layers = select(layers, place=PLACES[0], instructions=layers[0]["instructions"])
    figure, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 8), layout="constrained")
    trls = [row for row in [*layers, *growth] if is_published_form(row["case"])]
    trls = [row | {"rank": row["case"].split()[1]} for row in trls if row["batch"] == AT]
    for (by_batch, by_rank), mode in zip(axes.T, MODES):
        for name, look in LOOKS.items():
            draw(by_batch, select(layers, case=name, mode=mode), "batch", look, name)
        replaced = select(layers, case="TRL 50", mode=mode, what="dense")
        by_batch.plot(*points(replaced, "batch"), "k:", label="pooling and dense, ResNet")
        lay_out(by_batch, f"{mode}, by batch", "batch", BATCHES)
        draw(by_rank, select(trls, mode=mode), "rank", LOOKS["TRL 50"], "TRL (r, 1, 1, r)")
        dense = points(select(trls, mode=mode, what="dense"), "rank")
        by_rank.plot(*dense, "k:", label="pooling and dense")
        lay_out(by_rank, f"{mode}, by rank, at batch {AT}", "rank r", RANKS)
    figure.suptitle("Filled markers: ours. Hollow, in the same colour: its roofline.")
    figure.savefig(path)
    plt.close(figure)


def lay_out(axis, title: str, by: str, ticks: Sequence[int]) -> None:
    """Log axes with plain numbers, and the legend below the plot."""
    axis.set(xscale="log", yscale="log", title=title, xlabel=by, ylabel="ms")
    axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axis.minorticks_off()
    low, high = axis.get_ylim()
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low / 2 < t < high * 2]
    axis.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.grid(alpha=0.3)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def is_published_form(name: str) -> bool:
    """Whether a case is a TRL (r, 1, 1, r) with nothing else to it."""
    kind, _, rank = name.partition(" ")
    return kind == "TRL" and rank.isdigit()


def draw(axis, rows: Sequence[dict], by: str, look: style.Look, label: str) -> None:
    """Our time as a line, and its roofline."""
    marker, color, _ = look
    ours = select(rows, what="ours")
    axis.plot(*points(ours, by), marker=marker, color=color, label=label)
    roofline = points(ours, by, "roofline ms")
    axis.plot(*roofline, "--", marker=marker, color=color, mfc="none", alpha=0.6)


def points(rows: Sequence[dict], by: str, of: str = "ms") -> tuple[list[float], list[float]]:
    """Values against another column, in its order."""
    pairs = sorted((float(row[by]), float(row[of])) for row in rows)
    return [x for x, _ in pairs], [y for _, y in pairs]


if __name__ == "__main__":
    main()
