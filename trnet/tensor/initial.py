"""How factors start: orthonormal; those of a TCL with an even share of the scale each."""

from __future__ import annotations

import numpy as np


def orthonormal(rows: int, columns: int) -> np.ndarray:
    """Random unit columns, orthogonal to one another in blocks of ``rows``."""
    blocks = [
        np.linalg.qr(normal((rows, min(rows, columns - begin))))[0]
        for begin in range(0, columns, rows)
    ]
    return np.concatenate(blocks, axis=1)


def averaging(rows: int, columns: int) -> np.ndarray:
    """A first column that averages, and random unit columns that are orthogonal to it."""
    ones = np.ones((rows, 1))
    vectors = np.linalg.qr(np.hstack([ones, normal((rows, columns))[:, 1:]]))[0]
    return np.hstack([ones / rows, vectors[:, 1:]])


def share_of_scale(scale: float, n_parameters: int, is_last: bool) -> float:
    """An even share of a product's scale; a scale of 0 goes to the last one."""
    if scale == 0:
        return 0.0 if is_last else 1.0
    return scale ** (1 / n_parameters)


def leading_vectors(matrix: np.ndarray, count: int) -> np.ndarray:
    """Left singular vectors by their singular values, and random ones where there are too few."""
    vectors = np.linalg.svd(matrix, full_matrices=False)[0][:, :count]
    missing = count - vectors.shape[1]
    return np.hstack([vectors, normal((len(matrix), missing))]) if missing else vectors


def normal(shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values from MXNet's generator, which ``mx.random.seed`` seeds."""
    from trnet.tensor.backend import mx  # here, since configs and tables need no MXNet

    return mx.nd.random.normal(shape=shape, ctx=mx.cpu(), dtype="float64").asnumpy()


def dense_std(initializer, shape: tuple[int, int]) -> float:
    """Root mean square of a dense layer's weight (units, inputs) that an initializer draws.

    Parameters
    ----------
    initializer : mxnet.init.Initializer
    shape : tuple of int
    """
    from trnet.tensor.backend import mx

    if isinstance(initializer, mx.init.Uniform):
        return initializer.scale / np.sqrt(3)
    if isinstance(initializer, mx.init.Normal):
        return initializer.sigma
    if isinstance(initializer, mx.init.Xavier):
        units, inputs = shape
        fan = {"avg": (units + inputs) / 2, "in": inputs, "out": units}[initializer.factor_type]
        scale = np.sqrt(initializer.magnitude / fan)
        return scale / np.sqrt(3) if initializer.rnd_type == "uniform" else scale
    weight = mx.nd.zeros(shape)
    initializer._init_weight(mx.init.InitDesc("weight"), weight)
    return float(weight.square().mean().sqrt().asscalar())
