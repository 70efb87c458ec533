"""Optimisers by name, each a function of the recipe.

Register another one here or in your own program::

    OPTIMIZERS["adam"] = lambda recipe: mx.optimizer.Adam(learning_rate=recipe.learning_rate)

The learning rate is set again before every step, from the recipe's schedule.
"""

from __future__ import annotations

from collections.abc import Callable

from trnet.config import Train
from trnet.tensor.backend import mx


def sgd(recipe: Train) -> mx.optimizer.Optimizer:
    """Stochastic gradient descent with momentum."""
    return mx.optimizer.SGD(**_arguments(recipe))


def nag(recipe: Train) -> mx.optimizer.Optimizer:
    """Nesterov's accelerated gradient, as GluonCV's ImageNet recipes use it."""
    return mx.optimizer.NAG(**_arguments(recipe))


def _arguments(recipe: Train) -> dict:
    return {
        "learning_rate": recipe.learning_rate,
        "momentum": recipe.momentum,
        "wd": recipe.weight_decay,
        "multi_precision": recipe.dtype == "float16",  # float32 copies of the weights
    }


OPTIMIZERS: dict[str, Callable[[Train], mx.optimizer.Optimizer]] = {"sgd": sgd, "nag": nag}


def make_optimizer(recipe: Train) -> mx.optimizer.Optimizer:
    """Make the optimiser that a recipe names.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(f"expected one of {', '.join(OPTIMIZERS)}, got {recipe.optimizer!r}")
    return OPTIMIZERS[recipe.optimizer](recipe)
