"""What a reader needs of a figure that is shown 800 px wide, as in a README."""

from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

INCHES = 800 / 96
SMALLEST = 9  # points
MOST_LINES = 6


def check_legible(figure: Figure) -> None:
    """No text is small, cut off or covered, no legend covers data, and no panel is crowded."""
    figure.draw_without_rendering()
    texts = shown_texts(figure)
    assert min(text.get_fontsize() for text in texts) * INCHES / figure.get_figwidth() >= SMALLEST
    boxes = {text: text.get_window_extent() for text in texts}
    page = figure.bbox.padded(1)
    for text, box in boxes.items():
        assert page.fully_containsx(box.x0) and page.fully_containsx(box.x1), text
        assert page.fully_containsy(box.y0) and page.fully_containsy(box.y1), text
    touching = [
        (one.get_text(), other.get_text())
        for one, other in combinations(texts, 2)
        if boxes[one].overlaps(boxes[other])
    ]
    assert not touching
    for legend in figure.findobj(Legend):
        covered = legend.get_window_extent().padded(-2)
        assert not any(axes.bbox.overlaps(covered) for axes in figure.axes)
    for axes in figure.axes:
        assert len(set(axes.get_legend_handles_labels()[1])) <= MOST_LINES


def shown_texts(figure: Figure) -> list[Text]:
    """All texts but the labels of ticks out of view."""
    hidden = {
        label
        for axes in figure.findobj(Axes)
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not axes.axison or not in_view(tick.get_loc(), axis.get_view_interval())
    }
    texts = (text for text in figure.findobj(Text) if text not in hidden)
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def in_view(place: float, interval: tuple[float, float]) -> bool:
    return min(interval) <= place <= max(interval)
