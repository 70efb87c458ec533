"""Optimisers by name, each a function of the recipe.

Another one is a function and a line, here or in a program of your own::

    OPTIMIZERS["adam"] = lambda recipe: mx.optimizer.Adam(learning_rate=recipe.learning_rate)

The training loop sets the learning rate before every step, and sums gradients itself.
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
