"""Show a suite's table: published, computed and measured.

It needs no runs: what has not been trained is shown as not measured.
"""

from __future__ import annotations

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
