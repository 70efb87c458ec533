#!/usr/bin/env python
"""Show a suite's table: what is published, computed, and measured as far as there are runs.

python scripts/tabulate.py configs/mnist --format latex
"""

from trnet import command, config, suite
from trnet.report.table import FORMATS, table


def main() -> None:
    """Parse the arguments and print the table."""
    arguments = command.parser(__doc__)
    command.add_suite(arguments)
    arguments.add_argument("--format", choices=FORMATS, default="terminal")
    options = arguments.parse_args()
    configs = config.load_suite(options.suite)
    print(table(suite.rows(configs, options.runs, options.results), options.format).rstrip())


if __name__ == "__main__":
    command.run(main)
