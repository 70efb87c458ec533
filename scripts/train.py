#!/usr/bin/env python
"""Train an experiment, or go on where an earlier session stopped.

python scripts/train.py configs/mnist/vgg_trl_8.yaml --seed 1
"""

from trnet import command, config


def main() -> None:
    """Parse the arguments, train, and say where the result is."""
    arguments = command.parser(__doc__)
    arguments.add_argument("config", help="a YAML file in configs/")
    arguments.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key"
    )
    arguments.add_argument("--seed", help="the same as --set seed=SEED")
    command.add_runs(arguments)
    command.add_devices(arguments)
    options = arguments.parse_args()
    overrides = [*options.set, *([f"seed={options.seed}"] if options.seed is not None else [])]
    chosen = config.load(options.config, overrides)
    baseline = config.load_baseline(options.config, chosen)

    from trnet import experiment
    from trnet.training.devices import parse_devices

    result = experiment.train(chosen, baseline, options.runs, parse_devices(options.devices))
    print(f"Top-1          {100 * result['top1']:.2f} %")
    print(f"Top-5          {100 * result['top5']:.2f} %")
    print(f"Space savings  {100 * result['space_savings']:.2f} %")
    print(f"Result         {experiment.run_folder(options.runs, chosen) / 'result.json'}")


if __name__ == "__main__":
    command.run(main)
