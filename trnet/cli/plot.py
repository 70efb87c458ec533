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
    from trnet.report.write import write_rank_accuracy

    suite = arguments.load_suite(options)
    output = options.output or suite.output / "rank_vs_accuracy.png"
    write_rank_accuracy(suite, output)
    print(f"Written to {output}")
