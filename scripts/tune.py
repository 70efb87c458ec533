#!/usr/bin/env python
"""Choose every experiment's learning rate and weight decay on held-out training images.

python scripts/tune.py configs/fashion_mnist/rank

Tries the pairs of the suite's `tune`, notes all of them in results/<suite>/tuning.csv, and writes
the best of each experiment into its file.
"""

from trnet import command, config, tuning


def main() -> None:
    """Parse the arguments, try the pairs and show what was chosen."""
    arguments = command.parser(__doc__)
    command.add_suite(arguments)
    command.add_jobs(arguments)
    command.add_devices(arguments)
    options = arguments.parse_args()
    configs = config.load_suite(options.suite)
    trials = tuning.tune(
        configs, options.suite, options.runs, options.results, options.devices, options.jobs
    )
    for trial in trials:
        if trial.chosen:
            print(
                f"{trial.experiment:<24} learning rate {trial.learning_rate:<6g} weight decay "
                f"{trial.weight_decay:<7g} Top-1 held out {100 * trial.top1:.2f} %"
            )


if __name__ == "__main__":
    command.run(main)
