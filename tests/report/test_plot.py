"""Figures as a reader sees them: what is told apart, and what is legible at a README's width."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from legible import check_legible
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trnet.report import plot
from trnet.report.published import Published
from trnet.report.style import BASELINE, BLUE, KINDS, LINES, looks_of
from trnet.report.summary import Measurement, Row
from trnet.report.write import write_rank_accuracy
from trnet.suite import Suite

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SUITES = sorted(
    path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("rank_vs_accuracy.png")
)


@pytest.fixture
def rows() -> list[Row]:
    """A baseline, and a head for each of three kinds: one is listed, and two are not."""
    base = Row(
        name="base",
        baseline=None,
        kind="dense",
        rank="",
        hidden="",
        weights=100,
        space_savings=0.0,
        published=Published(),
        top1=Measurement(90.0, 1.0, 3),
        top5=None,
        top1_change=None,
    )
    heads = [
        replace(base, name=kind, baseline="base", kind=kind, space_savings=10.0 * place)
        for place, kind in enumerate(["foreign", "TRL", "strange"], start=1)
    ]
    return [base, *heads]


@pytest.fixture
def many(rows) -> list[Row]:
    """A baseline and twelve heads, of which one has collapsed, with curves of one epoch."""
    base, _, head, _ = (replace(row, curve=(90.0,)) for row in rows)
    heads = [
        replace(head, name=f"head {i}", rank=f"({i}, 4, 4, 10)", space_savings=8.0 * i)
        for i in range(11)
    ]
    top1 = Measurement(30.0, 1.0, 3)
    return [base, *heads, replace(head, name="collapsed", top1=top1, curve=(30.0,))]


def drawn_heads(axes) -> dict[tuple[str, int], Line2D]:
    """The line of every kind, by "measured" or "published" and its first head's place."""
    found = {}
    for handle, label in zip(*axes.get_legend_handles_labels()):
        line = handle[0] if isinstance(handle, ErrorbarContainer) else handle
        if label != "baseline":
            found[label, line.get_ydata()[0]] = line
    return found


def look(line: Line2D) -> tuple[str, str]:
    return line.get_marker(), to_hex(line.get_color())


def test_unlisted_kinds_have_looks_of_their_own(rows, figures, tmp_path):
    plot.plot_rank_accuracy(rows, "toy", tmp_path / "plot.png")
    (axes,) = figures[0].axes
    kinds = [look(drawn_heads(axes)["measured", place]) for place in (1, 2, 3)]
    assert kinds[1] == ("o", to_hex(BLUE))
    listed = {(marker, to_hex(color)) for marker, color, _ in KINDS.values()}
    assert len({kinds[0], kinds[2]} - listed) == 2


def test_a_kind_has_one_look_in_all_panels(rows, figures, tmp_path):
    published = [
        replace(
            row,
            name=f"other {row.name}",
            baseline=row.baseline and "other base",
            space_savings=-row.space_savings,
            published=Published(top1=80.0),
        )
        for row in rows
    ]
    plot.plot_rank_accuracy(rows, "toy", tmp_path / "plot.png", published)
    measured, others = map(drawn_heads, figures[0].axes)
    for place in (1, 2, 3):
        assert look(measured["measured", place]) == look(others["published", 4 - place])


def test_looks_are_in_order_of_appearance_and_many():
    kinds = [f"kind {i}" for i in range(20)]
    found = looks_of([*kinds, *kinds, "TRL"])
    assert len(set(found.values())) == len(found) == len(KINDS) + 20
    assert looks_of(kinds[:3]).items() <= found.items()
    assert looks_of(["kind 7"])["kind 7"] == found["kind 0"]


def test_lines_of_a_panel_differ_in_more_than_colour():
    markers, colors, _ = zip(BASELINE, *LINES)
    assert len(set(markers)) == len(set(colors)) == len(LINES) + 1


@pytest.mark.parametrize("name", SUITES)
def test_figures_in_results_are_legible(name, figures, results, tmp_path):
    suite = Suite.load(ROOT / "configs" / name, tmp_path, results)
    write_rank_accuracy(suite, tmp_path / "rank.png")
    if (RESULTS / name / "learning_curves.png").exists():
        plot.plot_learning_curves(suite.rows, name, tmp_path / "curves.png")
    for figure in figures:
        check_legible(figure)


def test_a_plot_that_cannot_be_written_leaves_the_earlier_one(rows, tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    plot.plot_rank_accuracy(rows, "toy", path)
    before = path.read_bytes()

    def full(figure, file, **_):
        Path(file).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError) as error:
        plot.plot_rank_accuracy(rows, "toy", path)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_heads_are_in_order_of_savings_from_the_top(many, figures, tmp_path):
    plot.plot_rank_accuracy(many[::-1], "toy", tmp_path / "plot.png")
    (axes,) = figures[0].axes
    check_legible(figures[0])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == ["baseline: dense", "TRL (0, 4, 4, 10), 0.0 %", "TRL (1, 4, 4, 10), 8.0 %"]
    assert axes.yaxis_inverted()


def test_measured_and_published_are_told_apart(rows, figures, tmp_path):
    rows = [replace(row, published=Published(top1=89.0)) for row in rows]
    plot.plot_rank_accuracy(rows, "toy", tmp_path / "plot.png")
    check_legible(figures[0])
    (axes,) = figures[0].axes
    for (label, _), line in drawn_heads(axes).items():
        assert (line.get_markerfacecolor() == "white") is (label == "published")
    (legend,) = figures[0].legends
    assert {text.get_text() for text in legend.get_texts()} == {"baseline", "measured", "published"}


def test_curves_of_one_epoch_are_seen_in_every_panel(many, figures, tmp_path):
    plot.plot_learning_curves(many, "toy", tmp_path / "curves.png")
    check_legible(figures[0])
    lines = [axes.get_lines() for axes in figures[0].axes]
    assert list(map(len, lines)) == [5, 5, 5]  # twelve heads, and the baseline in each panel
    assert all(of_panel[0].get_label() == "base, 0 %" for of_panel in lines)
    assert all(line.get_marker() not in ("", "None") for of_panel in lines for line in of_panel)
    assert [tick for tick in figures[0].axes[0].get_xticks() if tick != int(tick)] == []


def test_heads_are_drawn_by_their_savings(many, figures, tmp_path):
    plot.plot_savings(many, "head 3", "toy", tmp_path / "savings.png")
    check_legible(figures[0])
    drawn = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert drawn == ["base", "TRL", "chosen: TRL (3, 4, 4, 10)"]


def test_a_flat_pattern_is_pale_and_says_so(figures, tmp_path):
    patterns = {
        "a long name of a network": (np.random.standard_normal((5, 7, 7)), np.full(5, 0.2)),
        "pooled": (np.full((1, 7, 7), 1 / 7), np.ones(1)),
    }
    plot.plot_spatial_patterns(patterns, "toy", tmp_path / "patterns.png")
    check_legible(figures[0])
    one, flat = figures[0].axes[0], figures[0].axes[5]
    assert [text.get_text() for text in flat.texts] == ["pooled", "all places\nalike"]
    darkest = [axes.images[0].to_rgba(axes.images[0].get_array()).min() for axes in (one, flat)]
    assert darkest[0] < 0.4 and darkest[1] > 0.8


def test_bars_are_of_the_change_against_the_baseline(rows, figures, tmp_path):
    """Which are narrower than those of the Top-1, where seeds differ more than heads."""
    change = Measurement(-1.0, 0.1, 3)
    base, _, head, _ = rows
    head = replace(head, top1=Measurement(89.0, 2.0, 3), top1_change=change)
    plot.plot_rank_accuracy([base, head], "a title", tmp_path / "plot.png")
    (axes,) = figures[0].axes
    ends = [bars.get_segments()[0][:, 0] for _, _, (bars,) in axes.containers]
    assert ends[0] == pytest.approx([90.0, 90.0])
    assert ends[1] == pytest.approx([89.0 - change.interval, 89.0 + change.interval])


def test_a_bar_of_two_seeds_squeezes_no_other_twin(rows, figures, tmp_path):
    head = replace(rows[2], kind="TCL", published_change=-1.0)
    changes = (Measurement(2.0, 2.0, 2), Measurement(1.0, 0.2, 5))
    pairs = [
        replace(head, space_savings=50.0 * place, twin=replace(head, top1_change=change))
        for place, change in enumerate(changes)
    ]
    pairs.append(replace(pairs[0], kind="TRL"))
    plot.plot_twins(pairs, "a title", tmp_path / "plot.png")
    trls, tcls = figures[0].axes
    assert tcls.get_ylim() == (-2.5, 3.5)
    for axes, kind in ((trls, "TRL"), (tcls, "TCL")):
        assert axes.get_title() == f"{kind}; intervals longer than the panel are cut"


def test_twins_are_drawn_where_they_save_and_lose(rows, figures, tmp_path):
    """Published and measured heads of two networks, and a TCL that was not measured."""
    base, head = replace(rows[0], space_savings=70.0), rows[2]
    change = Measurement(-0.5, 0.2, 5)
    small = replace(
        head, baseline="resnet101", kind="TRL", space_savings=92.0, published_change=-3.5
    )
    pairs = [
        replace(small, twin=replace(small, baseline="resnet", top1_change=change)),
        replace(
            small, space_savings=68.0, twin=replace(small, baseline="resnet", top1_change=None)
        ),
        replace(small, kind="TCL", twin=replace(base, baseline="vgg", top1_change=None)),
        replace(
            small,
            kind="TCL for a dense layer",
            twin=replace(base, baseline="vgg", top1_change=change),
        ),
    ]
    plot.plot_twins(pairs, "a title", tmp_path / "plot.png")
    (figure,) = figures
    check_legible(figure)
    trls, tcls = figure.axes
    assert [trls.get_title(), tcls.get_title()] == ["TRL", "TCL"]
    ((line, _, (bars,)),), labels = trls.get_legend_handles_labels()
    assert labels == ["resnet"] and line.get_xydata().tolist() == [[92, -0.5]]
    assert bars.get_segments()[0][:, 1] == pytest.approx(
        [-0.5 - change.interval, -0.5 + change.interval]
    )
    drawn = [line.get_xydata().tolist() for line in trls.get_lines()]
    assert [[92, -3.5], [68, -3.5]] in drawn and [[92, -3.5], [92, -0.5]] in drawn
    assert tcls.get_legend_handles_labels()[1] == ["vgg", "vgg,\nTCL for a dense layer"]
