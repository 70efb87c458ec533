"""Plots of a suite: accuracy by rank and savings, accuracy by epoch, patterns of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from trnet.errors import UserError
from trnet.report.summary import Row

# Marker and colour of a kind of head.
_STYLES = {
    "TRL": ("o", "tab:blue"),
    "TRL, tensor dropout": ("v", "tab:cyan"),
    "TRL, CP": ("D", "tab:purple"),
    "TRL, tensor train": ("s", "tab:green"),
    "TCL": ("^", "tab:orange"),
    "TCL, not normalised": (">", "tab:brown"),
    "TCL for a dense layer": ("<", "tab:red"),
    "TCL for a dense layer, not normalised": ("d", "tab:pink"),
    "pooling, dense": ("P", "tab:olive"),
    "flattened, dense": ("X", "tab:gray"),
    "dense": ("*", "dimgray"),
}

# For kinds of other heads, in turn. Four and five have no common factor: 20 styles.
_MORE_MARKERS = ("h", "p", "8", "H")
_MORE_COLORS = ("teal", "goldenrod", "magenta", "navy", "indigo")

_COLLAPSE = 20.0  # points between the best and the worst Top-1
_SMALLEST_ERROR = 0.5  # in percent; keeps the logarithm of an error finite
_TICKS = (0, 20, 40, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 97.5, 98, 98.5, 99, 99.5)
_MOST_COLUMNS = 3


def plot_rank_accuracy(
    rows: Sequence[Row], title: str, path: Path, beside: Sequence[Row] = ()
) -> None:
    """Draw Top-1 by rank, with the space savings under each rank: one panel per baseline.

    The baseline is a line. Bars show the 95 % intervals of what was measured; published curves are
    dashed.

    Parameters
    ----------
    rows : sequence of Row
        A suite.
    title : str
    path : Path
        The file to write, of any type that matplotlib supports.
    beside : sequence of Row
        Another suite, whose published curves are drawn in panels of their own.

    Raises
    ------
    UserError
        If no accuracy is known, published or measured, or matplotlib does not support the file's
        type.
    """
    panels = [panel for panel in map(_known, _panels(rows)) if panel]
    if not panels:
        raise UserError("nothing to plot: no experiment of the suite has a Top-1 yet")
    published = [replace(row, top1=None, top1_change=None) for row in beside]
    panels += [panel for panel in map(_known, _panels(published)) if panel]
    widths = [max(4.2, 0.95 * (len(panel) - 1) + 1.0) for panel in panels]
    figure, grid = _grid(path, widths, title)
    styles = _styles(row.kind for panel in panels for row in panel[1:])
    for axes, panel in zip(grid, panels):
        _draw_panel(axes, panel, styles, named=len(panels) > 1)
    _save(figure, path)


def plot_savings(rows: Sequence[Row], chosen: str, title: str, path: Path) -> None:
    """Draw Top-1 by space savings, with the rank beside each point and a ring around a chosen one.

    Parameters
    ----------
    rows : sequence of Row
        A suite, whose first row is the baseline.
    chosen : str
        A row's name.
    title, path
        As in :func:`plot_rank_accuracy`.
    """
    base, *heads = [row for row in rows if row.top1]
    figure, (axes,) = _grid(path, [7.6], title)
    _draw_baseline(axes, base)
    styles = _styles(row.kind for row in heads)
    for order, kind in enumerate(dict.fromkeys(row.kind for row in heads)):
        best = {}  # of the heads with one rank, which are one network before and after a training
        for row in sorted(heads, key=lambda row: (row.name == chosen, row.top1.mean)):
            if row.kind == kind:
                best[row.rank] = row.space_savings, row.top1.mean
        marker, color = styles[kind]
        axes.plot(*zip(*sorted(best.values())), marker=marker, color=color, label=kind)
        above = order % 2 == 0
        for rank, place in best.items():
            axes.annotate(
                rank.strip("()").replace(" ", ""),
                place,
                (0, 9 if above else -9),
                textcoords="offset points",
                color=color,
                fontsize=7.5,
                rotation=35,
                ha="left" if above else "right",
                va="bottom" if above else "top",
                rotation_mode="anchor",
            )
    for row in heads:
        if row.name == chosen:
            place = row.space_savings, row.top1.mean
            axes.plot(*place, "o", ms=12, mfc="none", mec="black", linestyle="", label="chosen")
    axes.margins(x=0.12, y=0.2)
    _spread_the_top(axes)
    axes.set_xlabel("weights of the head saved (%)")
    axes.set_ylabel("Top-1 (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    _save(figure, path)


def plot_learning_curves(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw Top-1 after every epoch, the mean over the seeds: one panel per baseline.

    Parameters
    ----------
    rows, title, path
        As in :func:`plot_rank_accuracy`; rows without a curve are left out.
    """
    panels = [[row for row in panel if row.curve] for panel in _panels(rows)]
    panels = [panel for panel in panels if panel]
    figure, grid = _grid(path, [6.0] * len(panels), title)
    for axes, panel in zip(grid, panels):
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(panel)))
        for row, color in zip(panel, colors):
            is_baseline = row.baseline is None
            axes.plot(
                range(1, len(row.curve) + 1),
                row.curve,
                color="black" if is_baseline else color,
                linewidth=2 if is_baseline else 1.2,
                label=f"{row.name}, {row.space_savings:.0f} %",
            )
        best = max(max(row.curve) for row in panel)
        worst_end = min(row.curve[-1] for row in panel)
        axes.set_ylim(min(worst_end, best - 4) - 2 * (best - worst_end) / 4, best + 0.5)
        axes.set_xlabel("epoch")
        axes.set_ylabel("Top-1 (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right", title="head, weights saved", title_fontsize=7)
    _save(figure, path)


def plot_spatial_patterns(
    patterns: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, path: Path
) -> None:
    """Draw the patterns of pixels in the weights of heads: one row per network.

    Parameters
    ----------
    patterns : mapping of str to (np.ndarray, np.ndarray)
        By the network's name, as :func:`trnet.models.spatial_patterns` finds them: patterns
        (n, H, W) and their shares.
    title, path
        As in :func:`plot_rank_accuracy`.
    """
    _check_form(path)
    columns = max(len(maps) for maps, _ in patterns.values())
    figure, grid = plt.subplots(
        len(patterns),
        columns,
        figsize=(1.2 * columns + 1.5, 1.3 * len(patterns) + 0.8),
        squeeze=False,
        layout="constrained",
    )
    for line, (name, (maps, shares)) in zip(grid, patterns.items()):
        for axes in line:
            axes.set_axis_off()
        line[0].text(
            -0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
        for axes, pattern, share in zip(line, maps, shares):
            bound = np.abs(pattern).max()
            axes.imshow(pattern, cmap="RdBu_r", vmin=-bound, vmax=bound)
            axes.set_title(f"{100 * share:.1f} %", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _styles(kinds: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Marker and colour of every kind, each its own; those that have none get one as they come."""
    more = zip(cycle(_MORE_MARKERS), cycle(_MORE_COLORS))
    unlisted = dict.fromkeys(kind for kind in kinds if kind not in _STYLES)
    return {**_STYLES, **dict(zip(unlisted, more))}


def _panels(rows: Sequence[Row]) -> list[list[Row]]:
    """Every baseline, followed by its heads in order of savings."""
    return [
        [base, *sorted((r for r in rows if r.baseline == base.name), key=lambda r: r.space_savings)]
        for base in rows
        if base.baseline is None
    ]


def _known(panel: Sequence[Row]) -> list[Row]:
    """A panel's baseline and the heads that have a Top-1, published or measured; none without."""
    base, *heads = panel
    heads = [row for row in heads if row.top1 or row.published.top1 is not None]
    return [base, *heads] if heads else []


def _check_form(path: Path) -> None:
    forms = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in forms:
        raise UserError(f"{path}: expected one of .{', .'.join(forms)}, got {path.suffix!r}")


def _grid(path: Path, widths: Sequence[float], title: str) -> tuple[Figure, list[Axes]]:
    """A figure with panels of at least the given widths, in inches; columns are of one width."""
    _check_form(path)
    lines = ceil(len(widths) / _MOST_COLUMNS)
    columns = ceil(len(widths) / lines)
    of_columns = [max(widths[column::columns]) for column in range(columns)]
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(max(7.6, sum(of_columns)), 4.6 * lines + 0.3),
        width_ratios=of_columns,
        squeeze=False,
    )
    for axes in grid.flat[len(widths) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure, list(grid.flat)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(
    axes: Axes, panel: Sequence[Row], styles: Mapping[str, tuple[str, str]], named: bool
) -> None:
    base, *heads = panel
    places = {row.name: place for place, row in enumerate(heads)}
    _draw_baseline(axes, base)
    for kind, style in styles.items():
        _draw_kind(axes, [row for row in heads if row.kind == kind], places, kind, *style)
    axes.set_xticks(range(len(heads)))
    axes.set_xticklabels([_label(row) for row in heads], fontsize=7.5)
    _spread_the_top(axes)
    axes.set_xlim(-0.6, len(heads) - 0.4)
    axes.set_xlabel("rank of the head, weights saved", fontsize=9)
    axes.set_ylabel("Top-1 (%)")
    if named:
        published = "" if any(row.top1 for row in panel) else "published: "
        axes.set_title(f"{published}against {base.name}", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="best")


def _spread_the_top(axes: Axes) -> None:
    """Space accuracies by the logarithm of their errors, if a collapse would squeeze the others."""
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


def _draw_baseline(axes: Axes, row: Row) -> None:
    if row.top1:
        axes.axhline(row.top1.mean, color="black", linewidth=1.2, label=f"{row.name}, measured")
        spread = row.top1.interval or 0
        band = (row.top1.mean - spread, row.top1.mean + spread)
        axes.axhspan(*band, color="black", alpha=0.08, linewidth=0)
    if row.published.top1 is not None:
        label = f"{row.name}, published"
        axes.axhline(row.published.top1, color="gray", linestyle="--", linewidth=1, label=label)


def _draw_kind(
    axes: Axes,
    rows: Sequence[Row],
    places: Mapping[str, int],
    kind: str,
    marker: str,
    color: str,
) -> None:
    measured = [row for row in rows if row.top1]
    if measured:
        axes.errorbar(
            [places[row.name] for row in measured],
            [row.top1.mean for row in measured],
            yerr=[row.top1.interval or 0 for row in measured],
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
    kind = row.kind.replace(", ", "\n").replace(" for ", "\nfor ").replace("2 dense", "2\ndense")
    rank = row.rank.replace("), (", ")\n(")
    hidden = f"dense\n{row.hidden}" if row.hidden else ""
    return "\n".join(part for part in (kind, rank, hidden, f"{row.space_savings:.1f} %") if part)
