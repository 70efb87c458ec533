"""Checkpoints: one folder per epoch, renamed into place, so that it is complete or does not exist.

A checkpoint holds the network's parameters, the trainer's states and ``state.json``: the metrics
of every epoch so far. The latest and the best by Top-1 are kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mxnet.gluon import HybridBlock, Trainer
from typing_extensions import TypedDict

from trnet.errors import UserError
from trnet.files import read_json

_PREFIX = "epoch-"
_NAME = re.compile(_PREFIX + r"\d{4,}")  # anything else in the folder is the user's


class Epoch(TypedDict):
    """What a training that resumes needs of an epoch's metrics; there are more."""

    epoch: int
    top1: float


def save(folder: Path, network: HybridBlock, trainer: Trainer, metrics: list[dict]) -> None:
    """Save the state after an epoch, then delete what is neither the latest nor the best."""
    epoch = metrics[-1]["epoch"]
    aside = folder / f".{_PREFIX}{epoch:04d}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    network.save_parameters(str(aside / "network.params"))
    trainer.save_states(str(aside / "optimizer.states"))
    (aside / "state.json").write_text(json.dumps(metrics))
    for path in aside.iterdir():  # a rename may reach the disk before the files do
        with path.open("rb") as file:
            os.fsync(file.fileno())
    target = _path(folder, epoch)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    for path in _all(folder):
        if path not in (target, best(folder)):
            shutil.rmtree(path)


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint, or None."""
    paths = _all(folder)
    return paths[-1] if paths else None


def best(folder: Path) -> Path | None:
    """The checkpoint of the first epoch with the highest Top-1, or None."""
    last = latest(folder)
    if last is None:
        return None
    row = max(load_metrics(last), key=lambda row: (row["top1"], -row["epoch"]))
    return _path(folder, row["epoch"])


def load_metrics(checkpoint: Path) -> list[dict]:
    """Load the metrics of every epoch up to a checkpoint's."""
    return read_json(checkpoint / "state.json", list[Epoch])


def load_network(checkpoint: Path, network: HybridBlock, devices: list) -> None:
    """Load a checkpoint's parameters onto devices, in the network's own dtypes."""
    path = checkpoint / "network.params"
    with _loading(path):
        network.load_parameters(str(path), ctx=devices, cast_dtype=True)


def load_trainer(checkpoint: Path, trainer: Trainer) -> None:
    """Load a checkpoint's optimiser states."""
    path = checkpoint / "optimizer.states"
    with _loading(path):
        trainer.load_states(str(path))


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # MXNet and pickle raise errors of many types for a damaged file
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be loaded: {reason}") from error


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"{_PREFIX}{epoch:04d}"


def _all(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob(f"{_PREFIX}*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.name[len(_PREFIX) :]))
