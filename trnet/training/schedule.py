"""Learning rate by step of training, from MXNet's schedules."""

from __future__ import annotations

from collections.abc import Callable

from trnet.config import CosineSchedule, Train
from trnet.tensor.backend import mx


def learning_rate(train: Train, steps_per_epoch: int) -> Callable[[int], float]:
    """Learning rate of a recipe by its step, counted from 0.

    Parameters
    ----------
    train : Train
        The recipe.
    steps_per_epoch : int
    """
    schedule = train.schedule
    warmup_steps = round(schedule.warmup_epochs * steps_per_epoch)
    if isinstance(schedule, CosineSchedule):
        return mx.lr_scheduler.CosineScheduler(
            max_update=train.epochs * steps_per_epoch,
            base_lr=train.learning_rate,
            final_lr=schedule.final,
            warmup_steps=warmup_steps,
        )
    return mx.lr_scheduler.MultiFactorScheduler(
        # MXNet lowers the rate one step behind the step that it is given.
        step=[epoch * steps_per_epoch - 1 for epoch in schedule.milestones],
        factor=schedule.factor,
        base_lr=train.learning_rate,
        warmup_steps=warmup_steps,
    )
