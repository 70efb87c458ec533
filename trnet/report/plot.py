"""The plot of a suite: rank and space savings against accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.backend_bases import FigureCanvasBase

from trnet.errors import UserError
from trnet.report.summary import Row

_STYLES = {
    "TRL": ("o", "tab:blue"),
    "TRL, CP": ("D", "tab:purple"),
    "TRL, tensor train": ("s", "tab:green"),
    "TCL": ("^", "tab:orange"),
}

_COLLAPSE = 20.0  # points between the best and the worst Top-1
_SMALLEST_ERROR = 0.5
_TICKS = (0, 20, 40, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 97.5, 98, 98.5, 99, 99.5)


def plot_rank_accuracy(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw Top-1 against rank, with the space savings under each rank, baselines as lines.

    Measured points have their standard deviation over seeds as bars; the published curve is
    dashed, where there is one.

    Parameters
    ----------
    rows : sequence of Row
        A suite.
    title : str
    path : Path
        A file to write, of any type that matplotlib knows.

    Raises
    ------
    UserError
        Where no accuracy is known, published or measured, or matplotlib knows no such file.
    """
    baselines = [row for row in rows if row.baseline is None]
    heads = sorted((row for row in rows if row.baseline), key=lambda row: row.space_savings)
    heads = [row for row in heads if row.top1 or row.published.top1 is not None]
    if not heads:
        raise UserError("nothing to plot: no experiment of the suite has a Top-1 yet")
    places = {row.name: place for place, row in enumerate(heads)}
    forms = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in forms:
        raise UserError(f"{path}: got {path.suffix!r}; one of .{', .'.join(forms)} would fit")
    figure, axes = plt.subplots(figsize=(max(7.0, 0.95 * len(heads) + 2.0), 5.2))
    for row in baselines:
        _draw_baseline(axes, row, several=len(baselines) > 1)
    for kind, (marker, color) in _STYLES.items():
        _draw_kind(axes, [row for row in heads if row.kind == kind], places, kind, marker, color)
    axes.set_xticks(range(len(heads)))
    axes.set_xticklabels([_label(row) for row in heads], fontsize=8)
    _spread_the_top(axes)
    axes.set_xlim(-0.6, len(heads) - 0.4)
    axes.set_xlabel("head: rank, and weights saved against the baseline's")
    axes.set_ylabel("Top-1 (%)")
    axes.set_title(title, fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _spread_the_top(axes) -> None:
    """Space the accuracies by the logarithm of their errors, where a collapse squeezes the rest."""
    low, high = axes.get_ylim()
    if high - low < _COLLAPSE:
        return
    floor = _SMALLEST_ERROR
    axes.set_yscale(
        "function",
        functions=(
            lambda accuracy: -np.log(np.maximum(100 - accuracy, floor)),
            lambda spaced: 100 - np.exp(-spaced),
        ),
    )
    axes.set_yticks([tick for tick in _TICKS if low <= tick <= high])
    axes.set_ylim(low, min(high, 100 - floor))


def _draw_baseline(axes, row: Row, several: bool) -> None:
    name = f"baseline {row.name}" if several else "baseline"
    if row.top1:
        axes.axhline(row.top1.mean, color="black", linewidth=1.2, label=f"{name}, measured")
        spread = row.top1.deviation or 0
        band = (row.top1.mean - spread, row.top1.mean + spread)
        axes.axhspan(*band, color="black", alpha=0.08, linewidth=0)
    if row.published.top1 is not None:
        label = f"{name}, published"
        axes.axhline(row.published.top1, color="gray", linestyle="--", linewidth=1, label=label)


def _draw_kind(axes, rows: Sequence[Row], places: dict, kind: str, marker: str, color: str) -> None:
    measured = [row for row in rows if row.top1]
    if measured:
        axes.errorbar(
            [places[row.name] for row in measured],
            [row.top1.mean for row in measured],
            yerr=[row.top1.deviation or 0 for row in measured],
            marker=marker,
            color=color,
            capsize=3,
            linewidth=1.2,
            label=f"{kind}, measured",
        )
    published = [row for row in rows if row.published.top1 is not None]
    if published:
        axes.plot(
            [places[row.name] for row in published],
            [row.published.top1 for row in published],
            marker=marker,
            color=color,
            markerfacecolor="none",
            linestyle="--",
            linewidth=1,
            label=f"{kind}, published",
        )


def _label(row: Row) -> str:
    return f"{row.kind.replace(', ', ' ')}\n{row.rank}\n{row.space_savings:.1f} %"
