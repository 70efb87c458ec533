#!/usr/bin/env python
"""Score a run's checkpoint on the validation images.

python scripts/evaluate.py runs/mnist/vgg_trl_8/seed0
"""

from pathlib import Path

from trnet import command


def main() -> None:
    """Parse the arguments and print the scores."""
    arguments = command.parser(__doc__)
    arguments.add_argument("run", type=Path, help="a run folder")
    arguments.add_argument("--checkpoint", choices=("latest", "best"), default="latest")
    arguments.add_argument("--root", help="where the data are now, if they have moved")
    command.add_devices(arguments)
    options = arguments.parse_args()

    from trnet import experiment
    from trnet.training.devices import parse_devices

    contexts = parse_devices(options.devices)
    config, epoch, scores = experiment.score(
        options.run, options.checkpoint, contexts, options.root
    )
    print(f"{config.suite}/{config.name}, seed {config.seed}, behind epoch {epoch}")
    print(f"Top-1  {100 * scores.top1:.2f} %")
    print(f"Top-5  {100 * scores.top5:.2f} %")
    print(f"Loss   {scores.loss:.4f}")


if __name__ == "__main__":
    command.run(main)
