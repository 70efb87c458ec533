"""Arguments that several subcommands share."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trnet.errors import UserError

if TYPE_CHECKING:
    from trnet.suite import Suite


def positive(name: str) -> Callable[[str], int]:
    """The type of an option that is an integer ≥ 1."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{name}: expected an integer ≥ 1, got {text}")
        return int(text)

    return parse


def add_runs(parser: ArgumentParser) -> None:
    """Add ``--runs``."""
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="run folders (default: runs)"
    )


def add_results(parser: ArgumentParser) -> None:
    """Add ``--results``."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="published.yaml, what was measured before, tables and plots (default: results)",
    )


def add_suite(parser: ArgumentParser) -> None:
    """Add a suite, ``--runs`` and ``--results``."""
    parser.add_argument("suite", type=Path, help="a folder of configs, such as configs/mnist")
    add_runs(parser)
    add_results(parser)


def load_suite(options: Namespace) -> Suite:
    """Load the suite that :func:`add_suite` declares; says where published numbers are left out."""
    from trnet.suite import Suite

    suite = Suite.load(options.suite, options.runs, options.results)
    elsewhere = suite.root.parent / "results" / "published.yaml"
    if elsewhere.is_file() and not (options.results / elsewhere.name).is_file():
        print(
            f"note: {options.results} has no published.yaml, so nothing is shown as published; "
            f"--results {elsewhere.parent} has one",
            file=sys.stderr,
        )
    return suite


def add_jobs(parser: ArgumentParser) -> None:
    """Add ``--jobs``."""
    parser.add_argument(
        "--jobs",
        type=positive("--jobs"),
        metavar="N",
        help="runs at a time (default: one per core; one on GPUs)",
    )


def add_checkpoint(parser: ArgumentParser) -> None:
    """Add ``--checkpoint`` and ``--root``."""
    parser.add_argument(
        "--checkpoint",
        choices=("latest", "best"),
        default="latest",
        help="after the last epoch, or after the epoch of the best Top-1 (default: latest)",
    )
    parser.add_argument("--root", help="the data's folder, if it has moved since the training")


def add_devices(parser: ArgumentParser) -> None:
    """Add ``--devices``."""
    parser.add_argument(
        "--devices", default="auto", help="auto, cpu, cpu:0,1 or gpu:0,1,2,3 (default: auto)"
    )
