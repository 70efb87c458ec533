"""Train a suite, and write its tables and plots.

Every experiment is trained from every seed, unless its result is there. A training that was stopped
resumes where its last checkpoint is. Tables and plots are written into RESULTS/<suite>/. A run that
diverges or is killed stops no other one; in the end all without a result are named, and the exit
code is 1.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from trnet.cli import arguments
from trnet.errors import UserError

EXAMPLES = """
trnet reproduce configs/mnist
trnet reproduce configs/mnist --seeds 0,1,2,3,4 --jobs 1
trnet reproduce configs/imagenet --seeds 0 --devices gpu:0,1,2,3
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a suite, the seeds, and how it trains."""
    arguments.add_suite(parser)
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas (default: 0,1,2)")
    arguments.add_jobs(parser)
    arguments.add_devices(parser)


def run(options: Namespace) -> None:
    """Train what is missing, report, and show the table."""
    seeds = options.seeds.split(",")
    if not all(seed.isdecimal() for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
        raise UserError(
            f"--seeds: expected distinct integers ≥ 0 separated by commas, got {options.seeds!r}"
        )

    from trnet.report.table import table
    from trnet.reproduce import reproduce

    suite = arguments.load_suite(options)
    seeds = [int(seed) for seed in seeds]
    suite, failures = reproduce(suite, seeds, options.devices, options.jobs)
    print(f"\n{table(suite.rows)}\n")
    print(f"Written to {suite.output}/")
    if failures:
        count = len(seeds) * len(suite.configs)
        heading = f"{len(failures)} of {count} runs have no result:"
        print(heading, *failures, sep="\n", file=sys.stderr)
        sys.exit(1)
