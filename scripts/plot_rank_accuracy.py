#!/usr/bin/env python
"""Plot a suite's rank and space savings against its accuracy, measured and published.

python scripts/plot_rank_accuracy.py configs/mnist --output rank_vs_accuracy.svg
"""

from pathlib import Path

from trnet import command, config, suite


def main() -> None:
    """Parse the arguments and draw the plot."""
    arguments = command.parser(__doc__)
    command.add_suite(arguments)
    arguments.add_argument(
        "--output", type=Path, help="default: RESULTS/<suite>/rank_vs_accuracy.png"
    )
    options = arguments.parse_args()
    configs = config.load_suite(options.suite)
    rows = suite.rows(configs, options.runs, options.results)
    name = configs[0].suite
    output = options.output or options.results / name / "rank_vs_accuracy.png"

    from trnet.report.plot import plot_rank_accuracy

    output.parent.mkdir(parents=True, exist_ok=True)
    beside = suite.beside(options.suite, options.runs, options.results)
    plot_rank_accuracy(rows, suite.plot_title(name, rows), output, beside)
    print(f"Written to {output}")


if __name__ == "__main__":
    command.run(main)
