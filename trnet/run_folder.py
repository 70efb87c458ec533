"""Run folders, ``runs/<suite>/<name>/seed<k>``: whose they are, and who trains into them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trnet import config as configs
from trnet.config import Config, CosineSchedule, StepSchedule
from trnet.config.schema import UNDECIDING
from trnet.errors import UserError
from trnet.files import naming
from trnet.result import Result, read_result
from trnet.training import checkpoint
from trnet.training.distributed import ALONE, Workers


def run_folder(runs: Path, config: Config) -> Path:
    """The folder of a config's run: ``runs/<suite>/<name>/seed<k>``."""
    return runs / config.suite / config.name / f"seed{config.seed}"


def earlier_result(config: Config, runs: Path) -> Result | None:
    """The result of a config's run, or None if it is not finished.

    A finished run of fewer epochs is not: it is continued, where its learning rates do not depend
    on the number of epochs.

    Raises
    ------
    UserError
        If another config was trained into the run folder.
    """
    folder = run_folder(runs, config)
    if checkpoint.newest(folder / "checkpoints") or (folder / "result.json").is_file():
        earlier = configs.load(folder / "config.yaml")
        if earlier.hash != config.hash and not _continues(config, earlier):
            raise UserError(
                f"{folder}: belongs to another config ({_difference(earlier, config)}); "
                "delete it or use another --runs"
            )
    result = read_result(folder)
    return result if result is not None and result["config_hash"] == config.hash else None


def _continues(config: Config, earlier: Config) -> bool:
    """Whether a config is an earlier one with more epochs, whose first ones are the same."""
    train = earlier.train
    if not isinstance(train.schedule, StepSchedule):
        return False
    longer = train.model_copy(update={"epochs": config.train.epochs})
    is_longer = config.train.epochs > train.epochs > train.schedule.warmup_epochs
    return is_longer and earlier.model_copy(update={"train": longer}).hash == config.hash


def _difference(earlier: Config, config: Config) -> str:
    """The first key in which two configs differ."""
    then, now = (
        _leaves(c.model_dump(include={"dataset", "model", "train"})) for c in (earlier, config)
    )
    keys = [key for key in {**then, **now} if tuple(key.split(".")) not in UNDECIDING]
    key = next(key for key in keys if repr(then.get(key)) != repr(now.get(key)))
    why = f"{key}: {then.get(key)!r} there, {now.get(key)!r} here"
    if key == "train.epochs":
        if earlier.train.epochs == 0:
            why += "; that run scored a network, and trained none"
        elif isinstance(config.train.schedule, CosineSchedule):
            why += "; a cosine schedule's rates depend on the number of epochs"
        elif earlier.train.schedule.warmup_epochs >= earlier.train.epochs:
            why += f"; the warm-up was cut to {earlier.train.cut_schedule.warmup_epochs:g} epochs"
    return why


def _leaves(values: dict, prefix: str = "") -> dict:
    leaves = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        leaves.update(_leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return leaves


def standing(config: Config, runs: Path, processes: Container[int]) -> str | None:
    """Where a run is that one of these processes trains, or None if none does."""
    folder = run_folder(runs, config)
    metrics = folder / "metrics.jsonl"
    with suppress(OSError, ValueError):  # not begun, or not to be read: for a line of progress
        if int((folder / ".lock").read_text()) in processes:
            epoch = 1 + (metrics.read_bytes().count(b"\n") if metrics.is_file() else 0)
            return f"{config.name} seed {config.seed}, epoch {min(epoch, config.train.epochs)}"
    return None


@contextmanager
def held(folder: Path, workers: Workers = ALONE) -> Iterator[None]:
    """Lock a run folder while these workers train; the one that writes holds the lock."""
    if not workers.writes:
        workers.wait()
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is training it; wait until it ends"
            ) from None
        lock.truncate(0)
        with naming(Path(lock.name)):
            os.write(lock.fileno(), str(os.getpid()).encode())  # to know what a process trains
        try:
            workers.wait()
            yield
        finally:
            lock.truncate(0)
