"""The learning rate of every step."""

import numpy as np
from training.helpers import COSINE, recipe

from trnet.config import CosineSchedule, StepSchedule
from trnet.training.schedule import learning_rate


def test_cosine_schedule():
    rate = learning_rate(recipe(schedule=CosineSchedule(type="cosine", warmup_epochs=1)), 10)
    rates = [rate(step) for step in range(30)]
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(10) / 10)
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-6)


def test_step_schedule_falls_with_its_epochs():
    schedule = StepSchedule(type="step", milestones=[1, 2], factor=0.5)
    rate = learning_rate(recipe(schedule=schedule), 10)
    rates = [rate(step) for step in range(30)]
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.05, 0.025], 10))


def test_what_is_longer_than_the_training_is_cut():
    """A warm-up to half of it, and the milestones that it does not reach."""
    schedule = StepSchedule(type="step", milestones=[9], warmup_epochs=5)
    rate = learning_rate(recipe(epochs=2, schedule=schedule), 10)
    expected = [*0.1 * np.arange(10) / 10, *[0.1] * 10]
    np.testing.assert_allclose([rate(step) for step in range(20)], expected)


def test_a_schedule_continues_when_a_run_resumes():
    for schedule in (COSINE, StepSchedule(type="step", milestones=[1, 2])):
        whole, late = (learning_rate(recipe(schedule=schedule), 10) for _ in range(2))
        assert [whole(step) for step in range(30)][25] == late(25)
