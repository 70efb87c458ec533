"""The files in ``results/``: tables and plots of a suite, and what was found of every claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trnet.errors import UserError
from trnet.files import write_aside
from trnet.report import claims, summary
from trnet.report.claims import Finding
from trnet.report.published import read_published
from trnet.report.table import table
from trnet.result import Result, write_results
from trnet.savings import space_savings
from trnet.suite import Suite

_PATTERNS = 5  # drawn per head


def write_report(suite: Suite) -> None:
    """Write a suite's tables, the results of its runs, and its plots into ``results/<suite>/``.

    A plot is written if something is known of what it shows, and an earlier one removed if not; of
    trainings of one epoch there is no curve. The patterns that heads have learnt are read from the
    run folders, without which an earlier plot stays; none is drawn where all heads only pool.
    """
    from trnet.report import plot  # matplotlib takes a second to import

    folder, rows = suite.output, suite.rows
    folder.mkdir(parents=True, exist_ok=True)
    if suite.noted:
        write_results(folder / "runs.json", suite.noted)
    heading = f"# {suite.name}: rank, space savings and accuracy"
    parts = [heading, table(rows, "md"), f"{_origin(suite.measured)}\n"]
    write_aside(folder / "table.md", "\n\n".join(parts))
    write_aside(folder / "table.csv", table(rows, "csv"))
    ranks, curves, pixels = (
        folder / f"{name}.png"
        for name in ("rank_vs_accuracy", "learning_curves", "spatial_patterns")
    )
    if any(row.baseline and (row.top1 or row.published.top1) for row in rows):
        write_rank_accuracy(suite, ranks)
    else:
        ranks.unlink(missing_ok=True)
    if any(row.curve and len(row.curve) > 1 for row in rows):
        plot.plot_learning_curves(rows, f"{suite.name}: Top-1 by epoch, mean over seeds", curves)
    else:
        curves.unlink(missing_ok=True)
    patterns = suite.spatial_patterns(_PATTERNS)
    if not all(plot.is_alike(pattern) for maps, _ in patterns.values() for pattern in maps):
        title = f"{suite.name}: patterns of pixels in the heads' weights"
        title += "\nred +, blue −, share of square"
        plot.plot_spatial_patterns(patterns, title, pixels)
    elif patterns or not suite.measured:
        pixels.unlink(missing_ok=True)


def write_rank_accuracy(suite: Suite, path: Path) -> None:
    """Plot a suite's accuracy against its ranks, with the published curves of its neighbour."""
    from trnet.report.plot import plot_rank_accuracy

    seeds = summary.seeds_text(suite.rows)
    title = f"{suite.name}: Top-1 by the head's rank"
    if seeds not in (None, "one seed"):
        title += f", mean over {seeds}, with the 95 % interval of its change against the baseline"
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_rank_accuracy(suite.rows, title, path, suite.beside)


def findings(root: Path, runs: Path, results: Path) -> list[Finding]:
    """Compare the claims in ``published.yaml`` with what was measured; judge them together.

    Parameters
    ----------
    root : Path
        The folder of the suites' folders.
    runs, results : Path
        As in :class:`trnet.suite.Suite`.

    Raises
    ------
    UserError
        If a claim names an experiment that does not exist, or compares a baseline with nothing.
    """
    path = results / "published.yaml"
    wanted = read_published(path).cited_claims()
    suites = {
        name: Suite.load(root / name, runs, results)
        for name in dict.fromkeys(c.suite for claim in wanted for c in claim.tested_by)
    }
    found = []
    for claim in wanted:
        for comparison in claim.tested_by:
            suite, name = suites[comparison.suite], comparison.name
            for named in (name, comparison.against):
                if named not in (None, *suite.configs):
                    raise UserError(
                        f"{path}: claims: expected an experiment of {suite.name}, got {named!r}"
                    )
            against = comparison.against or suite.configs[name].baseline
            if against is None:
                raise UserError(
                    f"{path}: claims: {name!r} is a baseline; name in `against` what it is "
                    "compared with"
                )
            savings = 100 * space_savings(suite.weights[name], suite.weights[against])
            change = summary.change(suite.measured, suite.configs[name], suite.configs[against])
            settled = comparison.model_copy(update={"against": against})
            found.append(Finding(claim, settled, savings, change))
    return claims.judge(found)


def write_claims(root: Path, runs: Path, results: Path) -> None:
    """Write ``claims.md``: every published claim with what was measured, and a verdict.

    The parameters are those of :func:`findings`.
    """
    found = findings(root, runs, results)
    sources = dict.fromkeys(finding.claim.source for finding in found)
    parts = [
        "# Published claims, and what we measured",
        claims.overview(found),
        claims.details(found),
        "\n".join(f"Published: {source}." for source in sources),
    ]
    results.mkdir(parents=True, exist_ok=True)
    write_aside(results / "claims.md", "\n\n".join(parts) + "\n")


def write_savings(root: Path, runs: Path, results: Path) -> bool:
    """Plot savings against the change of Top-1, published and measured, into ``savings.png``.

    The parameters are those of :func:`findings`. Drawn are the experiments with twins, but for
    heads that are larger than their baseline by more than a hundredth; False if there are none.
    """
    from trnet.report.plot import plot_twins

    names = read_published(results / "published.yaml").twins
    rows = [row for name in names for row in Suite.load(root / name, runs, results).rows]
    rows = [row for row in rows if row.twin and row.baseline and row.space_savings > -1]
    if rows:
        data = " or ".join(dict.fromkeys(row.twin.dataset for row in rows))
        title = (
            f"Weights saved and Top-1. Hollow: published for ImageNet. Filled: measured on {data}, "
            "with 95 % intervals"
        )
        plot_twins(rows, title, results / "savings.png")
    return bool(rows)


def _origin(measured: Sequence[Result]) -> str:
    """Where the measurements come from: command, data, processor and versions."""
    if not measured:
        return ""
    run = measured[-1]
    seeds = ",".join(map(str, sorted({run["seed"] for run in measured})))
    processors = " or ".join(dict.fromkeys(run["processor"] for run in measured))
    versions = " or ".join(
        dict.fromkeys(
            ", ".join(f"{name} {version}" for name, version in run["versions"].items())
            for run in measured
        )
    )
    train, scored = (
        " or ".join(map(str, sorted({run["dataset"][part] for run in measured})))
        for part in ("train", "validation")
    )
    return (
        f"Measured by `python scripts/reproduce.py configs/{run['suite']} --seeds {seeds}` on "
        f"{run['dataset']['name']} ({train} images to train on, {scored} to score), "
        f"{processors}; {versions}."
    )
