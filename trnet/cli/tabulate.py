"""Show a suite's table: published, computed and measured.

It needs no runs: what has not been trained is shown as not measured.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from trnet.cli import arguments

EXAMPLES = """
trnet tabulate configs/imagenet
trnet tabulate configs/mnist --format latex > table.tex
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a suite and the format."""
    arguments.add_suite(parser)
    # trnet.report.table.FORMATS, which takes a second to import.
    parser.add_argument(
        "--format",
        choices=("terminal", "md", "csv", "latex"),
        default="terminal",
        help="of the table (default: terminal)",
    )


def run(options: Namespace) -> None:
    """Print the table."""
    from trnet.report.table import table

    suite = arguments.load_suite(options)
    print(table(suite.rows, options.format).rstrip())
    for folder, result in suite.others.items():
        print(
            f"also there: {folder}, Top-1 {100 * result['top1']:.2f} %, of another config than "
            f"{result['name']} now has",
            file=sys.stderr,
        )
