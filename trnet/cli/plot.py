"""Plot a suite's accuracy against rank and space savings.

What was measured is drawn beside what was published.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trnet.cli import arguments

EXAMPLES = """
trnet plot configs/mnist
trnet plot configs/mnist --output rank_vs_accuracy.svg
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a suite and the plot's file."""
    arguments.add_suite(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="png, svg or pdf (default: RESULTS/<suite>/rank_vs_accuracy.png)",
    )


def run(options: Namespace) -> None:
    """Draw the plot."""
    from trnet import config, suite

    configs = config.load_suite(options.suite)
    rows = suite.rows(configs, options.runs, options.results)
    name = configs[0].suite
    output = options.output or options.results / name / "rank_vs_accuracy.png"

    from trnet.report.plot import plot_rank_accuracy

    output.parent.mkdir(parents=True, exist_ok=True)
    beside = suite.beside(options.suite, options.runs, options.results)
    plot_rank_accuracy(rows, suite.plot_title(name, rows), output, beside)
    print(f"Written to {output}")
