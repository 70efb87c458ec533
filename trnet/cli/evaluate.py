"""Score a run's checkpoint on the validation images."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trnet.cli import arguments

EXAMPLES = """
trnet evaluate runs/mnist/vgg_trl_8/seed0
trnet evaluate runs/mnist/vgg_trl_8/seed0 --checkpoint best
trnet evaluate runs/imagenet/resnet101/seed0 --root /data/imagenet --devices gpu:0
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a run, which checkpoint of it, and where the data are."""
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument(
        "--checkpoint",
        choices=("latest", "best"),
        default="latest",
        help="after the last epoch, or after the epoch of the best Top-1 (default: latest)",
    )
    parser.add_argument("--root", help="the data's folder, if it has moved since the training")
    arguments.add_devices(parser)


def run(options: Namespace) -> None:
    """Print the scores."""
    from trnet import experiment
    from trnet.training.devices import parse_devices

    contexts = parse_devices(options.devices)
    config, epoch, scores = experiment.score(
        options.run, options.checkpoint, contexts, options.root
    )
    print(f"{config.suite}/{config.name}, seed {config.seed}, after epoch {epoch}")
    print(f"Top-1  {100 * scores.top1:.2f} %")
    print(f"Top-5  {100 * scores.top5:.2f} %")
    print(f"Loss   {scores.loss:.4f}")
