"""Compress a trained network: decompose its head, and score that without any training.

The network is a run folder, or a config with its weights, as `--set model.pretrained=FILE`. Its
head is fitted to what the trained head gives for training images. The rank is given, or chosen: by
--budget for the weights saved, or by --tolerance for the Top-1 given up. Every head that is tried
is an experiment like any other, in a folder of configs and in run folders: it can be trained,
exported, evaluated and tabulated.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from trnet.cli import arguments
from trnet.errors import UserError

EXAMPLES = """
trnet compress runs/mnist/vgg/seed0 --rank "[8, 4, 4, 10]"
trnet compress runs/mnist/vgg/seed0 --factorization cp --rank 30 --finetune 2
trnet compress runs/mnist/vgg/seed0 --tolerance 0.005
trnet compress configs/imagenet/vgg19.yaml --set model.pretrained=vgg.params --head tcl --budget 0.7
"""


def _share(name: str) -> Callable[[str], float]:
    def share(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise UserError(f"{name}: expected a share, from 0 to below 1, got {text}")
        return value

    return share


def add_arguments(parser: ArgumentParser) -> None:
    """Add a trained network, the head that it gets, its rank, and where all is written."""
    parser.add_argument("source", type=Path, help="a run folder, or a config with trained weights")
    parser.add_argument(
        "--head", choices=("trl", "tcl"), default="trl", help="the new head (default: trl)"
    )
    parser.add_argument(
        "--factorization",
        default="tucker",
        help="of a TRL: tucker, cp or tensor_train (default: tucker)",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rank", help="an integer or a list, as in a config")
    how.add_argument(
        "--budget",
        type=_share("--budget"),
        metavar="SAVINGS",
        help="the share of the head's weights to save",
    )
    how.add_argument(
        "--tolerance",
        type=_share("--tolerance"),
        metavar="TOP1",
        help="the largest loss of Top-1, as a share: 0.005 is half a point",
    )
    parser.add_argument(
        "--images",
        type=arguments.positive("--images"),
        default=4096,
        help="training images to fit the head to (default: 4096)",
    )
    parser.add_argument(
        "--weigh-classes", action="store_true", help="fit class scores as the softmax sees them"
    )
    parser.add_argument(
        "--finetune",
        type=arguments.positive("--finetune"),
        metavar="EPOCHS",
        help="fine-tune the result for so many epochs",
    )
    parser.add_argument("--freeze", action="store_true", help="fine-tune the head only")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the network's config; may be repeated",
    )
    parser.add_argument(
        "--configs",
        type=Path,
        metavar="DIR",
        help="where the new configs go (default: configs/compressed/SUITE/NAME)",
    )
    arguments.add_runs(parser)
    arguments.add_results(parser)
    arguments.add_devices(parser)


def _checked_rank(options: Namespace) -> int | list[int] | None:
    """The rank that is asked for; refuses what cannot be one, and options that would do nothing."""
    if options.freeze and options.finetune is None:
        raise UserError("--freeze: expected --finetune EPOCHS with it, got none")
    if options.head == "tcl" and options.factorization != "tucker":
        raise UserError(
            "--factorization: expected --head trl, which has one, got tcl and "
            f"{options.factorization}"
        )
    if options.weigh_classes and options.head == "tcl":
        raise UserError("--weigh-classes: expected --head trl, which gives class scores, got tcl")
    if options.rank is None:
        return None
    from trnet.config import parse_yaml
    from trnet.tensor.factorizations.base import are_positive, is_positive

    rank = parse_yaml(options.rank, "--rank")
    if is_positive(rank) or are_positive(rank):
        return rank
    raise UserError(
        f"--rank: expected an integer ≥ 1, or a list of them as [8, 4, 4, 10], got {options.rank!r}"
    )


def run(options: Namespace) -> None:
    """Compress, and print the table and where everything is."""
    from trnet import compression, config
    from trnet.run_folder import run_folder
    from trnet.training.devices import parse_devices

    contexts = parse_devices(options.devices)
    donor = compression.open_donor(options.source, options.set)
    rank = _checked_rank(options)
    wanted = compression.Compression(
        donor,
        options.head,
        options.factorization,
        config.Fit(images=options.images, weigh_classes=options.weigh_classes),
        options.configs or Path("configs/compressed") / donor.suite / donor.name,
        options.runs,
        options.results,
    )
    compression.write_donor(wanted)
    if rank is not None:
        ranks = [rank]
    else:
        shares = compression.SAVINGS if options.budget is None else [options.budget]
        ranks = compression.ranks_for(wanted, shares, contexts)
    names = [compression.add(wanted, rank) for rank in ranks]
    for name in (wanted.baseline, *names):
        compression.measure(wanted, name, contexts)
    chosen = names[0]
    if options.tolerance is not None:
        rows = [row for row in wanted.suite.rows if row.name in (wanted.baseline, *names)]
        chosen = compression.choose(rows, options.tolerance).name
    if options.finetune is not None:
        chosen = compression.add_tuned(wanted, chosen, options.finetune, options.freeze)
        compression.measure(wanted, chosen, contexts)
    suite = wanted.suite
    compression.report(suite, chosen)
    print(compression.table(suite, chosen))
    print(f"Chosen   {run_folder(options.runs, suite.configs[chosen])}")
    print(f"Configs  {wanted.folder}")
    print(f"Tables   {suite.output}")
