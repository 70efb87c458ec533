"""The learning rate of every step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from trnet.config import CosineSchedule, StepSchedule, Train
from trnet.tensor.backend import mx


def learning_rate(train: Train, steps_per_epoch: int) -> Callable[[int], float]:
    """Make the function from a step of training, counted from 0, to its learning rate.

    Parameters
    ----------
    train : Train
        The recipe.
    steps_per_epoch : int

    Returns
    -------
    callable
        It depends on the step only, so a run that resumes gets the same rates.
    """
    schedule = train.schedule
    warmup_steps = round(_warmup_epochs(train) * steps_per_epoch)
    if isinstance(schedule, CosineSchedule):
        return mx.lr_scheduler.CosineScheduler(
            max_update=train.epochs * steps_per_epoch,
            base_lr=train.learning_rate,
            final_lr=schedule.final,
            warmup_steps=warmup_steps,
        )

    def stepped(step: int) -> float:
        if step < warmup_steps:
            return train.learning_rate * step / warmup_steps
        passed = bisect_right(schedule.milestones, step // steps_per_epoch)
        return train.learning_rate * schedule.factor**passed

    return stepped


def cuts(train: Train) -> list[str]:
    """What of a schedule does not fit into the epochs, and what is done about it; a line each."""
    schedule, lines = train.schedule, []
    last = f"{train.epochs} epoch{'s' if train.epochs > 1 else ''}"
    warmup = _warmup_epochs(train)
    if warmup != schedule.warmup_epochs:
        lines.append(
            f"train.schedule.warmup_epochs: {schedule.warmup_epochs:g} is cut to {warmup:g}, half "
            f"of the {last}"
        )
    if isinstance(schedule, StepSchedule) and schedule.milestones[-1] >= train.epochs:
        late = [epoch for epoch in schedule.milestones if epoch >= train.epochs]
        lines.append(f"train.schedule.milestones: {late} are not reached in {last}")
    return lines


def _warmup_epochs(train: Train) -> float:
    """Epochs of the warm-up; half of the training if it is longer than that training."""
    warmup = train.schedule.warmup_epochs
    return warmup if warmup < train.epochs else train.epochs / 2
