"""Choose learning rates and weight decays on held-out images.

The images are held out of the training images. Each experiment tries the pairs of the suite's
`tune`; its best pair is written into its config, and all trials into RESULTS/<suite>/tuning.csv.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trnet.cli import arguments

EXAMPLES = """
trnet tune configs/fashion_mnist/rank
trnet tune configs/fashion_mnist/rank --jobs 1 --devices gpu:0
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a suite and how it trains."""
    arguments.add_suite(parser)
    arguments.add_jobs(parser)
    arguments.add_devices(parser)


def run(options: Namespace) -> None:
    """Try the pairs and show what was chosen."""
    from trnet.tuning import tune

    suite = arguments.load_suite(options)
    for trial in tune(suite, options.devices, options.jobs):
        if trial.chosen:
            print(
                f"{trial.experiment:<24} learning rate {trial.learning_rate:<6g} weight decay "
                f"{trial.weight_decay:<7g} Top-1 held out {100 * trial.top1:.2f} %"
            )
