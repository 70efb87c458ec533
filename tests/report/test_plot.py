"""The styles of kinds of heads in a plot."""

from dataclasses import replace

import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from trnet.report import plot
from trnet.report.published import Published
from trnet.report.summary import Measurement, Row


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
def drawn(monkeypatch, tmp_path):
    """Draw rows: marker and colour of each label in a legend, panel by panel."""

    def draw(rows, beside=()) -> list[dict[str, tuple[str, str]]]:
        panels = []

        def save(figure, path):
            for axes in figure.axes:
                styles = {}
                for handle, label in zip(*axes.get_legend_handles_labels()):
                    line = handle[0] if isinstance(handle, ErrorbarContainer) else handle
                    styles[label] = (line.get_marker(), to_hex(line.get_color()))
                panels.append(styles)
            plt.close(figure)

        monkeypatch.setattr(plot, "_save", save)
        plot.plot_rank_accuracy(rows, "toy", tmp_path / "plot.png", beside)
        return panels

    return draw


def test_unlisted_kinds_have_styles_of_their_own(rows, drawn):
    (styles,) = drawn(rows)
    kinds = [styles[f"{kind}, measured"] for kind in ("foreign", "TRL", "strange")]
    assert kinds[1] == ("o", to_hex("tab:blue"))
    listed = {(marker, to_hex(color)) for marker, color in plot._STYLES.values()}
    assert len({kinds[0], kinds[2]} - listed) == 2


def test_a_kind_has_one_style_in_all_panels(rows, drawn):
    published = [
        replace(row, name=f"other {row.name}", baseline=row.baseline and "other base")
        for row in reversed(rows)
    ]
    published = [replace(row, published=Published(top1=80.0)) for row in published]
    measured, others = drawn(rows, published)
    for kind in ("foreign", "TRL", "strange"):
        assert measured[f"{kind}, measured"] == others[f"{kind}, published"]


def test_styles_are_in_order_of_appearance_and_many():
    kinds = [f"kind {i}" for i in range(20)]
    styles = plot._styles([*kinds, *kinds, "TRL"])
    assert len(set(styles.values())) == len(styles) == len(plot._STYLES) + 20
    assert plot._styles(kinds[:3]).items() <= styles.items()
    assert plot._styles(["kind 7"])["kind 7"] == styles["kind 0"]
