"""Optimisers by name, each a function of the recipe.

Register another one here or in your own program::

    OPTIMIZERS["lamb"] = lambda recipe: mx.optimizer.LAMB(learning_rate=recipe.learning_rate)

The learning rate is set again before every step, from the recipe's schedule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
from mxnet.gluon import Parameter

from trnet.config import Train
from trnet.tensor.backend import mx

# MXNet's operator has room for so many arrays, all of one type, and checks neither.
_AT_ONCE = 200
_WIDTH = 2**14  # elements whose squares BLAS adds at once


def sgd(recipe: Train) -> mx.optimizer.Optimizer:
    """Stochastic gradient descent with momentum."""
    return mx.optimizer.SGD(momentum=recipe.momentum, **_arguments(recipe))


class NAG(mx.optimizer.NAG):
    """Nesterov's accelerated gradient, the same from run to run.

    MXNet's kernel writes the new weight, then reads the weight once more, for the decay in the
    momentum. That is the new one in place, and the old one where oneDNN has a convolution's weight
    in a layout of its own, which depends on timing. Here it is the old one, as in the formula.
    """

    def _update_impl(self, index, weight, grad, state, multi_precision: bool = False) -> None:
        if multi_precision or state is None:
            super()._update_impl(index, weight, grad, state, multi_precision)
            return
        self._update_count(index)
        updated = mx.nd.nag_mom_update(
            weight,
            grad,
            state,
            lr=self._get_lr(index),
            wd=self._get_wd(index),
            momentum=self.momentum,
            rescale_grad=self.rescale_grad,
        )
        updated.copyto(weight)


def nag(recipe: Train) -> mx.optimizer.Optimizer:
    """Nesterov's accelerated gradient, as GluonCV's ImageNet recipes use it."""
    return NAG(momentum=recipe.momentum, **_arguments(recipe))


def adam(recipe: Train) -> mx.optimizer.Optimizer:
    """Adam; the recipe's momentum is its β1."""
    return mx.optimizer.Adam(beta1=recipe.momentum, **_arguments(recipe))


def _arguments(recipe: Train) -> dict:
    return {
        "learning_rate": recipe.learning_rate,
        "wd": recipe.weight_decay,
        "multi_precision": recipe.dtype == "float16",  # float32 copies of the weights
    }


OPTIMIZERS: dict[str, Callable[[Train], mx.optimizer.Optimizer]] = {
    "sgd": sgd,
    "nag": nag,
    "adam": adam,
}


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


def clip_gradients(parameters: Iterable[Parameter], limit: float) -> None:
    """Scale gradients down to a norm of all of them together, on every device, in place.

    A limit that is already kept changes nothing. The processor does not wait for the norm.

    Parameters
    ----------
    parameters : iterable of Parameter
        With their gradients summed over devices and workers, so that all scale alike.
    limit : float
    """
    gradients = [p.list_grad() for p in parameters if p.grad_req != "null"]
    for arrays in zip(*gradients):
        squares = mx.nd.add_n(*map(_squared_norm, arrays))
        scale = mx.nd.minimum(limit / mx.nd.sqrt(squares), 1.0)
        for array in arrays:
            mx.nd.broadcast_mul(array, _like(scale, array), out=array)


def all_finite(arrays: Iterable[mx.nd.NDArray]) -> bool:
    """Whether all numbers are finite; waits for them."""
    by_type = defaultdict(list)
    for array in arrays:
        by_type[array.context, np.dtype(array.dtype)].append(array)
    flags = [
        mx.nd.multi_all_finite(
            *own[begin : begin + _AT_ONCE], num_arrays=len(own[begin:][:_AT_ONCE])
        )
        for own in by_type.values()
        for begin in range(0, len(own), _AT_ONCE)
    ]
    return all(flag.asscalar() for flag in flags)


def _squared_norm(array: mx.nd.NDArray) -> mx.nd.NDArray:
    # MXNet's multi_sum_sq and norm add the squares one by one on a CPU: of 4e7 elements they lose
    # a tenth. BLAS adds several sums, on some processors too few for that many elements.
    vector = array.astype("float32", copy=False).reshape((-1,))
    n_rows = vector.size // _WIDTH
    parts = []
    if n_rows > 0:
        rows = vector[: n_rows * _WIDTH].reshape((n_rows, 1, _WIDTH))
        parts.append(mx.nd.batch_dot(rows, rows, transpose_b=True).sum().reshape((1,)))
    if vector.size % _WIDTH:
        rest = vector[n_rows * _WIDTH :]
        parts.append(mx.nd.dot(rest, rest).reshape((1,)))
    return mx.nd.add_n(*parts)  # (1,)


def _like(scale: mx.nd.NDArray, array: mx.nd.NDArray) -> mx.nd.NDArray:
    return scale.astype(array.dtype).reshape((1,) * array.ndim)
