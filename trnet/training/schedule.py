"""The learning rate of every step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from trnet.config import CosineSchedule, Train
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
    schedule = train.cut_schedule
    warmup_steps = round(schedule.warmup_epochs * steps_per_epoch)
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
