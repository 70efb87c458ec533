#!/usr/bin/env python
"""Write again what results/ says of suites, from their runs and from what was measured before.

python scripts/report.py configs/mnist configs/fashion_mnist/rank

Tables and plots of each suite, and results/claims.md: every published claim with a verdict.
"""

from pathlib import Path

from trnet import command, config, suite


def main() -> None:
    """Parse the arguments, and write each suite's report and the claims."""
    arguments = command.parser(__doc__)
    arguments.add_argument("suites", nargs="*", type=Path, help="folders of configs")
    arguments.add_argument(
        "--configs",
        type=Path,
        default=Path("configs"),
        help="the claims' suites (default: configs)",
    )
    command.add_places(arguments)
    options = arguments.parse_args()
    for folder in options.suites:
        configs = config.load_suite(folder)
        beside = suite.beside(folder, options.runs, options.results)
        suite.write_report(configs, options.runs, options.results, beside)
        print(f"Written to {options.results / configs[0].suite}/")
    suite.write_claims(options.configs, options.runs, options.results)
    print(f"Written to {options.results / 'claims.md'}")


if __name__ == "__main__":
    command.run(main)
