"""How far a training is, and the checkpoints that it resumes from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mxnet import gluon
from mxnet.gluon import HybridBlock

from trnet import threads
from trnet.errors import Stopped
from trnet.training import checkpoint
from trnet.training.distributed import Workers
from trnet.training.metrics import Metrics
from trnet.training.optimizers import all_finite
from trnet.training.stopping import Stop


class Saving:
    """Where a training is, and the checkpoints that bring it back there.

    Parameters
    ----------
    folder : Path
        The run folder.
    network : HybridBlock
    trainer : Trainer
    seed : int
    hash_until : callable
        As :meth:`trnet.config.Config.hash_until`: what decides the run up to an epoch.
    workers : Workers
        One of them writes.
    stop : Stop
        Asks for a checkpoint, after which the training ends.
    minutes : float
        Between checkpoints within an epoch.

    Attributes
    ----------
    metrics : Metrics
        Of every whole epoch.
    done : Within
        What was done of the next one.
    """

    def __init__(
        self,
        folder: Path,
        network: HybridBlock,
        trainer: gluon.Trainer,
        seed: int,
        hash_until: Callable[[int], str],
        workers: Workers,
        stop: Stop,
        minutes: float,
    ) -> None:
        self._folder, self._checkpoints = folder, folder / "checkpoints"
        self._network, self._trainer = network, trainer
        self._seed, self._hash_until = seed, hash_until
        self._workers, self._stop, self._minutes = workers, stop, minutes
        self._saved = time.monotonic()
        self._saved_at: tuple[int, int] | None = None  # an epoch and a step of it
        self.metrics = Metrics()
        self.done = nothing()

    @property
    def epoch(self) -> int:
        """The number of the epoch that is under way, from 1."""
        return len(self.metrics.rows) + 1

    def resume(self, devices: list, say: Callable[[str], None]) -> None:
        """Load the latest undamaged checkpoint, if there is one; damaged ones are set aside.

        Raises
        ------
        UserError
            If all are damaged, or the workers find different ones.
        """
        if self._workers.writes:
            checkpoint.clear(self._checkpoints)
            checkpoint.set_damaged_aside(self._checkpoints, say)
        self._workers.wait()
        last = checkpoint.newest(self._checkpoints)
        if last is not None:
            self.metrics = checkpoint.load_metrics(last)
            state = checkpoint.load_state(last)
            self.done = {**nothing(), **(state["within"] or {})}
            checkpoint.load_network(last, self._network, devices)
            begun = state["epoch"] + (self.done["step"] > 0)
            decided = self._hash_until(begun)
            checkpoint.load_trainer(last, self._network, self._trainer, self._seed, decided)
            before, now = state.get("threads", "an unknown number"), threads.in_use()
            if before != now:
                say(f"threads: {before} until now, {now} from here; the last digits may differ")
        self._workers.agree("the epoch of the last checkpoint", len(self.metrics.rows))
        self._workers.agree("the step of the last checkpoint", self.done["step"])
        if self._workers.writes:
            checkpoint.prune(self._checkpoints, self.metrics)
            self.metrics.write(self._folder)
            if self.metrics.rows:
                self.metrics.save(self._checkpoints)
        else:  # the first worker counts what one worker alone has done of an epoch
            self.done = {**self.done, "images": 0, "loss": 0.0}

    def is_due(self) -> bool:
        """Whether a checkpoint should be saved after this step, or the training should end."""
        is_late = self._workers.count == 1 and self.seconds_since > 60 * self._minutes
        return bool(self._stop) or is_late

    @property
    def last_checkpoint(self) -> str:
        """The latest checkpoint, for a message."""
        last = checkpoint.newest(self._checkpoints)
        if last is None:
            return "there is no checkpoint yet"
        return f"the last checkpoint is {last.name}"

    @property
    def seconds_since(self) -> float:
        """Since the last checkpoint."""
        return time.monotonic() - self._saved

    def save_within(self, steps: int) -> None:
        """Save a part of an epoch of so many steps, and end if that was asked for.

        Of several workers each would have to save its own part, so they save whole epochs only.

        Raises
        ------
        FloatingPointError
            If not all weights are finite: nothing is saved.
        Stopped
        """
        self._check_finite()
        at = self.epoch, self.done["step"]
        if self.done["step"] > 0 and self._workers.count == 1 and at != self._saved_at:
            self._save(self.done)
            self._saved_at = at
        if self._stop:
            where = f"after step {self.done['step']} of {steps} of epoch {self.epoch}"
            raise Stopped(f"{self._folder}: stopped {where}", self._stop.signal)

    def save_epoch(self, row: dict) -> None:
        """Save a whole epoch, with its metrics.

        Raises
        ------
        FloatingPointError
            If not all weights are finite: nothing is saved.
        """
        self._check_finite()
        self.metrics.append(row)
        self.done = nothing()
        self._save(None)
        if self._workers.writes:
            self.metrics.write_last(self._folder)

    def _check_finite(self) -> None:
        """Refuse weights that are not finite; a ReLU may hide them from the loss."""
        parameters = self._network.collect_params().values()
        if not all_finite(array for parameter in parameters for array in parameter.list_data()):
            raise FloatingPointError("the weights are no longer finite in")

    def _save(self, within: checkpoint.Within | None) -> None:
        if self._workers.writes:
            with self._stop.saving:
                checkpoint.save(
                    self._checkpoints,
                    self._network,
                    self._trainer,
                    self.metrics,
                    self._seed,
                    self._hash_until(len(self.metrics.rows) + (within is not None)),
                    within,
                )
        self._saved = time.monotonic()


def nothing() -> checkpoint.Within:
    """Before the first step of an epoch."""
    return {"step": 0, "images": 0, "loss": 0.0, "skipped": 0, "seconds": 0.0}
