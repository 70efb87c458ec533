"""Write tables, plots and claims again, without training.

They are made from run folders and from what RESULTS notes of earlier runs: for each suite its
tables and plots, and in RESULTS/claims.md every published claim with a verdict.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trnet.cli import arguments
from trnet.errors import UserError

EXAMPLES = """
trnet report
trnet report configs/mnist configs/fashion_mnist/rank
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add suites, and where the claims' suites, the runs and the results are."""
    parser.add_argument(
        "suites", nargs="*", type=Path, metavar="suite", help="a folder of configs (default: none)"
    )
    parser.add_argument(
        "--configs",
        type=Path,
        default=Path("configs"),
        metavar="DIR",
        help="the folder of the suites that the claims name (default: configs)",
    )
    arguments.add_runs(parser)
    arguments.add_results(parser)


def run(options: Namespace) -> None:
    """Write each suite's report, and the claims."""
    from trnet.report.write import write_claims, write_report, write_savings
    from trnet.suite import Suite

    for folder in options.suites:
        suite = Suite.load(folder, options.runs, options.results)
        write_report(suite)
        print(f"Written to {suite.output}/")
    if not (options.results / "published.yaml").is_file():
        if options.suites:
            return
        raise UserError(
            f"{options.results}: expected published.yaml, which has the claims, got none"
        )
    places = options.configs, options.runs, options.results
    write_claims(*places)
    print(f"Written to {options.results / 'claims.md'}")
    if write_savings(*places):
        print(f"Written to {options.results / 'savings.png'}")
