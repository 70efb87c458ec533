"""Plots of a suite: accuracy by rank and savings, accuracy by epoch, patterns of pixels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.scale import FuncScale
from matplotlib.ticker import MaxNLocator

from trnet.errors import UserError
from trnet.files import aside
from trnet.report.style import BASELINE, LINES, STYLE, WIDTH, Look, looks_of
from trnet.report.summary import Measurement, Row

_LINE = 0.19  # inches, of a line of text with the space around it
_LONGEST = 42  # characters, of a line that leaves more than half of the width to the data

_COLLAPSE = 20.0  # points between the best and the worst Top-1
_ALIKE = 0.1  # places of a pattern whose difference no colour would show
_SMALLEST_ERROR = 0.5  # in percent; keeps the logarithm of an error finite
# Of an axis of such logarithms, as long as they do not touch.
_TICKS = (0, 20, 40, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 97.5, 98, 98.5, 99, 99.5)
_MOST_TICKS = 14


@plt.rc_context(STYLE)
def plot_rank_accuracy(
    rows: Sequence[Row], title: str, path: Path, beside: Sequence[Row] = ()
) -> None:
    """Draw the Top-1 of every head, from few weights saved to many: one panel per baseline.

    A line of text per head says its kind, its rank and what it saves. The baseline comes first, and
    is a line through the others. Bars show the 95 % intervals of the change against it, paired by
    seed: those that it cuts show no difference, if all have the same seeds. Hollow markers are
    published.

    Parameters
    ----------
    rows : sequence of Row
        A suite.
    title : str
    path : Path
        The file to write, of any type that matplotlib supports.
    beside : sequence of Row
        Another suite, whose published numbers are drawn in panels of their own.

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
    labels = [[_label(row) for row in panel] for panel in panels]
    lines = max(label.count("\n") + 1 for of_panel in labels for label in of_panel)
    figure, grid = _stack(path, [(lines + 0.5) * _LINE * len(panel) for panel in panels], title)
    looks = looks_of(row.kind for panel in panels for row in panel[1:])
    for axes, panel, of_panel in zip(grid, panels, labels):
        _draw_baseline(axes, panel[0])
        _draw_heads(axes, {0: panel[0]}, (*BASELINE[:2], ""))
        for kind, look in looks.items():
            heads = {place: row for place, row in enumerate(panel) if place and row.kind == kind}
            _draw_heads(axes, heads, look)
        _spread_the_top(axes, "x")
        axes.set_yticks(range(len(panel)), of_panel)
        axes.set_ylim(len(panel) - 0.4, -0.6)  # the first on top
        axes.grid(alpha=0.3)
        if len(panels) > 1:
            origin = "" if any(row.top1 for row in panel) else "published: "
            axes.set_title(f"{origin}against {panel[0].name}")
    grid[-1].set_xlabel("Top-1 (%)")
    figure.supylabel("head, weights saved")
    _draw_legend(figure)
    _save(figure, path)


@plt.rc_context(STYLE)
def plot_savings(rows: Sequence[Row], chosen: str, title: str, path: Path) -> None:
    """Draw Top-1 by space savings, a line per kind of head, with a ring around a chosen one.

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
    figure, (axes,) = _stack(path, [3.8], title)
    axes.axhline(base.top1.mean, color="black", linewidth=1, label=base.name)
    looks = looks_of(row.kind for row in heads)
    for kind in dict.fromkeys(row.kind for row in heads):
        best = {}  # of the heads with one rank, which are one network before and after a training
        for row in sorted(heads, key=lambda row: (row.name == chosen, row.top1.mean)):
            if row.kind == kind:
                best[row.rank] = row.space_savings, row.top1.mean
        marker, color, line = looks[kind]
        places = zip(*sorted(best.values()))
        axes.plot(*places, marker=marker, color=color, linestyle=line, label=kind)
    for row in heads:
        if row.name == chosen:
            ring = {"mfc": "none", "mec": "black", "linestyle": "", "ms": 13}
            label = f"chosen: {row.head}"
            axes.plot(row.space_savings, row.top1.mean, "o", label=label, **ring)
    axes.margins(y=0.15)
    _spread_the_top(axes, "y")
    axes.set_xlabel("weights of the head saved (%)")
    axes.set_ylabel("Top-1 (%)")
    axes.grid(alpha=0.3)
    _draw_legend(figure)
    _save(figure, path)


@plt.rc_context(STYLE)
def plot_twins(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw what heads save and what that costs, as published and as measured on other images.

    One panel of TRLs and one of TCLs. Filled markers, with the 95 % intervals of the change against
    their baseline, are measured; hollow ones are published. Dots join the two of a head, and a line
    TRLs, which differ by their rank alone. Bars that would squeeze all else are cut.

    Parameters
    ----------
    rows : sequence of Row
        Heads that save weights, or cost next to none, with their twins.
    title, path
        As in :func:`plot_rank_accuracy`.
    """
    lines = {"TRL": "-", "TCL": ""}
    panels = [[row for row in rows if row.kind.startswith(kind)] for kind in lines]
    figure, grid = _stack(path, [2.6] * len(panels), title)
    for axes, panel, (kind, line) in zip(grid, panels, lines.items()):
        axes.axhline(0, color="black", linewidth=1)
        alike: dict[str, list[Row]] = {}
        for row in panel:
            label = row.twin.baseline + ("" if row.kind == kind else f",\n{row.kind}")
            alike.setdefault(label, []).append(row)
        for (label, heads), (marker, color, _) in zip(alike.items(), LINES):
            _draw_twins(axes, heads, label, (marker, color, line))
        cut = _cut_long_bars(axes, panel)
        axes.set_title(f"{kind}; intervals longer than the panel are cut" if cut else kind)
        axes.set_ylabel("change of Top-1 (points)")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    grid[-1].set_xlabel("weights of the head saved (%)")
    _save(figure, path)


@plt.rc_context(STYLE)
def plot_learning_curves(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw Top-1 after every epoch, the mean over the seeds.

    A panel shows a baseline and five of its heads at most; a baseline with more has more panels.

    Parameters
    ----------
    rows, title, path
        As in :func:`plot_rank_accuracy`; rows without a curve are left out.
    """
    panels = []
    for base, *heads in _panels(rows):
        heads = [row for row in heads if row.curve]
        count = ceil(len(heads) / len(LINES)) or 1
        size = ceil(len(heads) / count)
        parts = [heads[part * size : (part + 1) * size] for part in range(count)]
        panels += [[base, *part] if base.curve else part for part in parts]
    panels = [panel for panel in panels if panel]
    figure, grid = _stack(path, [2.3] * len(panels), title)
    for axes, panel in zip(grid, panels):
        looks = iter(LINES)
        for row in panel:
            marker, color, line = BASELINE if row.baseline is None else next(looks)
            axes.plot(
                range(1, len(row.curve) + 1),
                row.curve,
                marker=marker,
                markevery=ceil(len(row.curve) / 10),
                color=color,
                linestyle=line,
                label=f"{row.name}, {row.space_savings:.0f} %",
            )
        best = max(max(row.curve) for row in panel)
        worst_end = min(row.curve[-1] for row in panel)
        axes.set_ylim(min(worst_end, best - 4) - 2 * (best - worst_end) / 4, best + 0.5)
        _spread_the_top(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        axes.set_ylabel("Top-1 (%)")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="head, weights saved")
    grid[-1].set_xlabel("epoch")
    _save(figure, path)


@plt.rc_context(STYLE)
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
    figure, grid = plt.subplots(
        len(patterns),
        max(len(maps) for maps, _ in patterns.values()),
        figsize=(WIDTH, 1.35 * len(patterns) + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for line, (name, (maps, shares)) in zip(grid, patterns.items()):
        for axes in line:
            axes.set_axis_off()
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
        for axes, pattern, share in zip(line, maps, shares):
            is_flat = is_alike(pattern)
            # The colours' ends are a pattern's own extremes. A flat one is pale: it has none.
            bound = np.abs(pattern).max() * (10 if is_flat else 1)
            axes.imshow(pattern, cmap="RdBu_r", vmin=-bound, vmax=bound)
            axes.set_title(f"{100 * share:.1f} %")
            if is_flat:
                middle = {"transform": axes.transAxes, "ha": "center", "va": "center"}
                axes.text(0.5, 0.5, "all places\nalike", **middle)
    figure.suptitle(title)
    _save(figure, path)


def is_alike(pattern: np.ndarray) -> bool:
    """Whether all places of a pattern are alike, up to a tenth, as those of a head that pools."""
    return np.allclose(pattern, pattern.mean(), rtol=_ALIKE)


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


def _stack(path: Path, heights: Sequence[float], title: str) -> tuple[Figure, list[Axes]]:
    """A figure with panels below each other, of about these heights in inches."""
    _check_form(path)
    around = 3 * _LINE  # ticks and a title
    figure, grid = plt.subplots(
        len(heights),
        figsize=(WIDTH, sum(heights) + around * (len(heights) + 1)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(textwrap.fill(title, 90))
    return figure, list(grid.flat)


def _save(figure: Figure, path: Path) -> None:
    with aside(path) as beside:
        figure.savefig(beside, format=path.suffix[1:])
    plt.close(figure)


def _draw_legend(figure: Figure) -> None:
    """Below the panels, every label once."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)


def _draw_baseline(axes: Axes, row: Row) -> None:
    """A line through all heads at the baseline's Top-1."""
    style = {"color": "black", "linewidth": 1, "label": "baseline"}
    if row.top1:
        axes.axvline(row.top1.mean, **style)
    if row.published.top1 is not None:
        axes.axvline(row.published.top1, linestyle="--", **style)


def _draw_heads(axes: Axes, heads: Mapping[int, Row], look: Look) -> None:
    """Heads of one kind, by their places: filled where measured, hollow where published."""
    marker, color, line = look
    style = {"marker": marker, "color": color, "linestyle": line, "linewidth": 1}
    measured = {place: row for place, row in heads.items() if row.top1}
    if measured:
        axes.errorbar(
            [row.top1.mean for row in measured.values()],
            [*measured],
            xerr=[_spread(row.top1_change) for row in measured.values()],
            capsize=3,
            elinewidth=1.5,
            label="measured",
            **style,
        )
    top1s = {place: row.published.top1 for place, row in heads.items()}
    published = {place: top1 for place, top1 in top1s.items() if top1 is not None}
    if published:
        axes.plot([*published.values()], [*published], mfc="white", label="published", **style)


def _draw_twins(axes: Axes, heads: Sequence[Row], label: str, look: Look) -> None:
    """Changes of Top-1 by savings, of heads that are alike: filled if measured, hollow if not."""
    marker, color, line = look
    style = {"marker": marker, "color": color, "linestyle": line, "linewidth": 1}
    published = [(row.space_savings, row.published_change) for row in heads]
    changes = [(row.space_savings, row.twin.top1_change) for row in heads]
    measured = [(savings, c.mean, _spread(c)) for savings, c in changes if c]
    for (savings, change), (_, found) in zip(published, changes):
        if change is not None and found:
            axes.plot([savings] * 2, [change, found.mean], color=color, linestyle=":")
    published = [pair for pair in published if pair[1] is not None]
    hollow = {**style, "mfc": "white", "label": None if measured else label}
    axes.plot(*zip(*published), **hollow)
    if measured:
        axes.errorbar(*zip(*measured), label=label, capsize=3, elinewidth=1.5, **style)


def _cut_long_bars(axes: Axes, panel: Sequence[Row]) -> bool:
    """Leave bars half as much room, above and below all markers, as these take.

    True if one of them is longer than that.
    """
    changes = [row.twin.top1_change for row in panel if row.twin.top1_change]
    places = [row.published_change for row in panel if row.published_change is not None]
    places += [change.mean for change in changes]
    if not places:
        return False
    low, high = min(0, *places), max(0, *places)
    room = (high - low) / 2
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))
    bottom, top = axes.get_ylim()
    ends = [change.mean + sign * _spread(change) for change in changes for sign in (-1, 1)]
    return any(not bottom <= end <= top for end in ends)


def _spread(change: Measurement | None) -> float:
    return (change and change.interval) or 0.0


def _spread_the_top(axes: Axes, which: str) -> None:
    """Space accuracies by the logarithm of their errors, if a collapse would squeeze the others."""
    low, high = getattr(axes, f"get_{which}lim")()
    if high - low < _COLLAPSE:
        return

    def spaced(accuracy: float | np.ndarray) -> np.ndarray:
        return -np.log(np.maximum(100 - accuracy, _SMALLEST_ERROR))

    gap = (spaced(high) - spaced(low)) / _MOST_TICKS
    ticks = []
    for tick in _TICKS:
        if low <= tick <= high and (not ticks or spaced(tick) - spaced(ticks[-1]) > gap):
            ticks.append(tick)
    settings = {
        "scale": FuncScale(None, (spaced, lambda placed: 100 - np.exp(-placed))),
        "ticks": ticks,
        "ticklabels": [f"{tick:g}" for tick in ticks],
        "lim": (low, min(high, 100 - _SMALLEST_ERROR)),
    }
    axes.set(**{f"{which}{name}": value for name, value in settings.items()})


def _label(row: Row) -> str:
    """A head and what it saves, in two lines if it takes one that is too long."""
    if row.baseline is None:
        return f"baseline: {row.head}"
    label = f"{row.head}, {row.space_savings:.1f} %"
    if len(label) <= _LONGEST:
        return label
    return f"{row.kind}\n{label[len(row.kind) :].strip(' ,')}"
