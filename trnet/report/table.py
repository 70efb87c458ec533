"""The table of a suite: for a terminal with 80 columns, and as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence

import tabulate

from trnet.report.summary import Measurement, Row, seeds_text

NOT_MEASURED = "not measured"
FORMATS = ("terminal", "md", "csv", "latex")
tabulate.MIN_PADDING = 0  # a terminal has 80 columns
_LATEX = str.maketrans({character: f"\\{character}" for character in "_%&#$"})
_TABULATE = {"terminal": "simple", "md": "pipe", "latex": "latex_booktabs"}


def table(rows: Sequence[Row], form: str = "terminal") -> str:
    """Format the rows of a suite.

    Parameters
    ----------
    rows : sequence of Row
    form : {"terminal", "md", "csv", "latex"}
        CSV has plain numbers, with mean, deviation and interval in columns of their own. A
        terminal has no room for what was measured on other images.
    """
    if form == "csv":
        return _csv(rows)
    has_published = any(row.published.source for row in rows)
    columns = _columns(rows, has_published, form)
    laid_out = tabulate.tabulate(
        columns,
        headers="keys",
        tablefmt=_TABULATE[form],
        stralign="right",
        colalign=["left"] * sum(key in ("Experiment", "Head", "Rank") for key in columns),
        disable_numparse=True,
    )
    notes = _notes(rows, has_published)
    if form == "terminal":
        notes = [textwrap.fill(note, 80) for note in notes]
    if form == "latex":
        notes = [note.translate(_LATEX) + r" \\" for note in notes]
    return "\n".join([laid_out, "", *notes])


def _columns(rows: Sequence[Row], has_published: bool, form: str) -> dict[str, list[str]]:
    """Cells by heading. In a terminal, headings are short and take two lines."""
    terminal = form == "terminal"
    gap = "\n" if terminal else ", "
    publ, comp = ("publ.", "comp.") if terminal and has_published else ("published", "computed")
    published = [row.published for row in rows]
    columns = {"Experiment": [row.name for row in rows]}
    if not terminal:
        columns["Head"] = [row.head for row in rows]
        columns["Weights in the head"] = [f"{row.weights:,}".replace(",", " ") for row in rows]
    elif not has_published:
        columns["Rank"] = [_bare(row.rank) for row in rows]
    if has_published:
        columns[f"Savings{gap}{publ}"] = [_printed(p.space_savings) for p in published]
    columns[f"Savings{gap}{comp}"] = [f"{row.space_savings:.2f}" for row in rows]
    if has_published:
        columns[f"Top-1{gap}{publ}"] = [_published_top1(row) for row in rows]
    twins = [row.twin for row in rows]
    if any(twins) and not terminal:
        data = " or ".join(dict.fromkeys(twin.dataset for twin in twins if twin))
        columns[f"Top-1 on {data}"] = [measured(twin.top1) if twin else "" for twin in twins]
        columns[f"Change on {data}"] = [
            measured(twin.top1_change, signed=True) if twin and twin.baseline else ""
            for twin in twins
        ]
    columns[f"Top-1{gap}measured"] = [measured(row.top1) for row in rows]
    if not has_published:
        columns[f"against{gap}baseline" if terminal else "Top-1, against baseline"] = [
            measured(row.top1_change, signed=True) if row.baseline else "" for row in rows
        ]
    if has_published:
        columns[f"Top-5{gap}{publ}"] = [_printed(p.top5) for p in published]
    columns[f"Top-5{gap}measured"] = [measured(row.top5) for row in rows]
    return columns


def _notes(rows: Sequence[Row], has_published: bool) -> list[str]:
    notes = ["All in percent; savings count the weights of the head, biases aside."]
    twins = [row.twin for row in rows if row.twin]
    on_others = "On " + " or ".join(dict.fromkeys(twin.dataset for twin in twins))
    for what, of in {"Measured": rows, on_others: twins}.items():
        seeds = seeds_text(of)
        if seeds == "one seed":
            notes.append(f"{what}: one seed.")
        elif seeds:
            notes.append(f"{what}: mean ± half of its 95 % interval (Student's t) over {seeds}.")
    if has_published and any(row.published.top1_change is not None for row in rows):
        notes.append("In brackets: the change of Top-1 in points, where no more is published.")
    notes += [
        f"{row.name}: seed {seed} collapsed, to a Top-1 of {top1:.1f}; it counts in the mean."
        for row in rows
        for seed, top1 in row.collapsed
    ]
    notes += [
        f"{row.name}: seed {seed} has no result, and counts in no mean: {why}."
        for row in rows
        for seed, why in row.failed
    ]
    notes += [f"{row.name}: {row.published.note}." for row in rows if row.published.note]
    sources = dict.fromkeys(row.published.source for row in rows if row.published.source)
    return notes + [f"Published: {source}." for source in sources]


def _csv(rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    measured = ("top1", "top5", "top1_change")
    fields = ["experiment", "baseline", "head", "rank", "head_weights", "space_savings"]
    fields += [f"published_{key}" for key in ("space_savings", "top1", "top5", "top1_change")]
    parts = ("mean", "deviation", "interval", "seeds")
    fields += [f"{key}_{part}" for key in measured for part in parts]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        p = row.published
        cells = [row.name, row.baseline, row.kind, row.rank, row.weights]
        cells += [round(row.space_savings, 4), p.space_savings, p.top1, p.top5, p.top1_change]
        for key in measured:
            of = getattr(row, key)
            cells += [_rounded(getattr(of, part, None)) for part in parts]
        writer.writerow(cells)
    return stream.getvalue()


def _bare(rank: str) -> str:
    """A rank as short as it can be: without spaces, and without brackets if there is one rank."""
    is_one = rank.startswith("(") and rank.find(")") == len(rank) - 1
    return rank[1:-1].replace(" ", "") if is_one else rank.replace(", ", ",")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _printed(value: float | None) -> str:
    """A published number, with as many digits as it was printed with."""
    return "" if value is None else str(value)


def _published_top1(row: Row) -> str:
    top1, change = row.published.top1, row.published.top1_change
    return f"({change:+.1f})" if top1 is None and change is not None else _printed(top1)


def measured(of: Measurement | None, signed: bool = False) -> str:
    """A measurement with half of its 95 % interval, if it has one."""
    if of is None:
        return NOT_MEASURED
    value = f"{of.mean:+.2f}" if signed else f"{of.mean:.2f}"
    return value if of.interval is None else f"{value} ± {of.interval:.2f}"
