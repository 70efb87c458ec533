#!/usr/bin/env python
"""Train every experiment of a suite that has no result yet, then write its table and its plot.

python scripts/reproduce.py configs/mnist --seeds 0,1,2
"""

from trnet import command, config, suite
from trnet.errors import UserError
from trnet.report.table import table


def main() -> None:
    """Parse the arguments, train what is missing, report and show the table."""
    arguments = command.parser(__doc__)
    command.add_suite(arguments)
    arguments.add_argument("--seeds", default="0,1,2", help="seeds, by commas (default: 0,1,2)")
    command.add_jobs(arguments)
    command.add_devices(arguments)
    options = arguments.parse_args()
    seeds = options.seeds.split(",")
    if not all(seed.isdecimal() for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
        raise UserError(f"--seeds: got {options.seeds!r}; whole numbers by commas, as 0,1,2")
    configs = config.load_suite(options.suite)
    suite.reproduce(
        configs,
        [int(seed) for seed in seeds],
        options.runs,
        options.results,
        options.devices,
        options.jobs,
        suite.beside(options.suite, options.runs, options.results),
    )
    print(f"\n{table(suite.rows(configs, options.runs, options.results))}\n")
    print(f"Written to {options.results / configs[0].suite}/")


if __name__ == "__main__":
    command.run(main)
