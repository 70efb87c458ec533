"""Score a run on the validation images.

It scores a checkpoint of a run folder, or a file that `trnet export` wrote: an ONNX file by ONNX
Runtime, and a symbol, which has its parameters beside it, by MXNet.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trnet.cli import arguments
from trnet.errors import UserError

EXAMPLES = """
trnet evaluate runs/mnist/vgg_trl_8/seed0
trnet evaluate runs/mnist/vgg_trl_8/seed0 --checkpoint best
trnet evaluate runs/mnist/vgg_trl_8/seed0/vgg_trl_8.onnx
trnet evaluate runs/imagenet/resnet101/seed0 --root /data/imagenet --devices gpu:0
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a run, which checkpoint of it, and where the data are."""
    parser.add_argument("run", type=Path, help="a run folder, an .onnx or a -symbol.json file")
    arguments.add_checkpoint(parser)
    arguments.add_devices(parser)


def run(options: Namespace) -> None:
    """Print the scores."""
    from trnet import inference
    from trnet.training.devices import parse_devices

    is_exported = options.run.suffix in (".onnx", ".json")
    if is_exported and (options.checkpoint != "latest" or options.devices not in ("auto", "cpu")):
        raise UserError(
            f"{options.run}: expected no --checkpoint, and no --devices but cpu: the file has one "
            "network, which the CPU scores"
        )
    contexts = parse_devices(options.devices)
    config, epoch, scores = inference.score(options.run, options.checkpoint, contexts, options.root)
    which = options.run.name if epoch is None else f"after epoch {epoch}"
    print(f"{config.suite}/{config.name}, seed {config.seed}, {which}")
    print(f"Top-1  {100 * scores.top1:.2f} %")
    print(f"Top-5  {100 * scores.top5:.2f} %")
    print(f"Loss   {scores.loss:.4f}")
