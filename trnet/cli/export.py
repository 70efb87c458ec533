"""Export a run's network for inference without trnet.

An ONNX file is checked after it is written: ONNX Runtime computes the same as MXNet on validation
images, to 1e-4. Both formats carry the run's config, by which `trnet evaluate` scores them, and
take batches of any size.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trnet.cli import arguments
from trnet.errors import UserError

EXAMPLES = """
trnet export runs/mnist/vgg_trl_8/seed0
trnet export runs/mnist/vgg_trl_8/seed0 --format symbol --output digits
trnet export runs/mnist/vgg_trl_8/seed0 --no-fold --output small.onnx --card
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a run, which checkpoint of it, the format, and where the file goes."""
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument(
        "--format",
        choices=("onnx", "symbol"),
        default="onnx",
        help="onnx, or MXNet's symbol and parameters (default: onnx)",
    )
    parser.add_argument(
        "--no-fold",
        action="store_true",
        help="keep the layers' factors, which makes the file smaller and inference slower",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="for a symbol, without -symbol.json (default: RUN/<name>.onnx, RUN/<name>)",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="also write a card, FILE.md: data, recipe, Top-1 with its interval, the config",
    )
    arguments.add_checkpoint(parser)


def run(options: Namespace) -> None:
    """Write the file."""
    from trnet import inference
    from trnet.result import read_result

    if options.format == "onnx" and options.output and options.output.suffix != ".onnx":
        raise UserError(f"--output: expected a name that ends in .onnx, got {options.output}")
    if options.card and read_result(options.run) is None:
        raise UserError(f"{options.run}: expected a finished run for a card, found no result.json")
    file = inference.export(
        options.run,
        options.checkpoint,
        options.format,
        not options.no_fold,
        options.output,
        options.root,
    )
    print(f"Written to {file}")
    if options.card:
        print(f"Card in {inference.write_card(options.run, options.checkpoint, file)}")
