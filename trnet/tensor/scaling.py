"""Gram matrices that scale gradients, on arrays and symbols alike.

A gradient of W reaches a factor through all other parameters, and the factor's step reaches W
through them again. Their Gram matrices undo both. Tong, Ma and Chi, *Accelerating Ill-Conditioned
Low-Rank Matrix Estimation via Scaled Gradient Descent* (JMLR 2021); for Tucker, Tong et al. (arXiv
2104.14526). Matrices are (R, R), with ranks R; no product here is as large as W.

Many W's have the same step. Of these, factors take the one that is orthogonal to what they span, so
they grow a little with each step, most where W is small, and the Gram matrices lose their condition
in the end. So now and then the factors are made orthonormal again: see :func:`roots`.

They are so small that launching an operator takes longer than computing it, and that starting a
thread takes longer still: ten times, while the other cores run Python. Hence few operators, and
only those that compute small arrays on one thread: ``dot``, ``linalg.gemm`` with its sum, and
``broadcast_mul`` and its like for arrays of one shape. Sums, diagonals, transposes and repeated
rows are products with constants. ``+``, ``batch_dot``, and a reshape of a graph's input, which
copies it, always start threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import numpy as np

# Added to Gram matrices before they are inverted, in proportion to the mean eigenvalue of those
# that carry W's scale. It bounds how far a step is stretched, by 1 / (2 √DAMPING), where W is
# almost of a lower rank.
DAMPING = 1e-3
TINY = 1e-12  # the same for a weight of zero, whose gradients are zero, too

# How far a step turns a factor, in radians and with all the momentum that it leaves. The step is
# W's to first order only: a factor that turns further grows, and with it what momentum moves.
LARGEST_TURN = 0.3


def gram(F, factor, identity, weight: float = 1.0):
    """UᵀU + εI, with ε for a factor whose columns have about unit norm: (I, R) -> (R, R)."""
    return F.linalg.gemm(factor, factor, identity, transpose_a=True, alpha=weight, beta=DAMPING)


def multiply_modes(F, tensor, matrices):
    """G ×1 M1 … ×n Mn with symmetric matrices, for all modes: (R1, …, Rn) -> (R1, …, Rn)."""
    # Each product sums over the first mode and puts its result last; after n the order is G's.
    return reduce(lambda rotated, m: F.dot(rotated, m, transpose_a=True), matrices, tensor)


def without(F, step, factor, inverse):
    """(I − U (UᵀU)⁻¹ Uᵀ) S: the part of a step (I, R) that leaves the span of U (I, R)."""
    inside = F.dot(inverse, F.dot(factor, step, transpose_a=True))
    return F.linalg.gemm(factor, inside, step, alpha=-1.0)


def ready(F, tensor, identity):
    """The tensor itself (…, R), as a product: a reshape of it then copies nothing."""
    return F.dot(tensor, identity)


def rotated(F, tensor, identity):
    """The tensor with its first mode put last: (R1, R2, …, Rn) -> (R2, …, Rn, R1)."""
    return F.dot(tensor, identity, transpose_a=True)


def squared_norm(F, left, right):
    """⟨A, B⟩ + a tiny number, of two tensors of one shape: (1, 1)."""
    left, right = F.reshape(left, shape=(1, -1)), F.reshape(right, shape=(1, -1))
    return F.dot(left, right, transpose_b=True) + TINY


def add_scaled(F, matrix, other, number, rank: int):
    """A + c B, for matrices (R, R) and a number (1, 1)."""
    matrix, other = (F.reshape(each, shape=(-1, 1)) for each in (matrix, other))
    return F.reshape(F.linalg.gemm(other, number, matrix), shape=(rank, rank))


def roots(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(UᵀU)^½ and its inverse, which makes U orthonormal; what U does not span stays as it is."""
    squares, directions = np.linalg.eigh(gram)
    lengths = np.sqrt(np.where(squares > TINY * squares[-1], squares, 1.0))
    return (directions * lengths) @ directions.T, (directions / lengths) @ directions.T


def singular_values(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
    """The singular values of a product A Bᵀ, by Gram matrices AᵀA and BᵀB (R, R).

    Returns
    -------
    values : array (R,)
    directions : array (R, R)
        Q, with the left singular vectors A (AᵀA)^-½ Q.
    root, inverse : array (R, R)
        (AᵀA)^½, and its inverse within what A spans.
    """
    squares, axes = np.linalg.eigh(left)
    lengths = np.sqrt(np.where(squares > TINY * squares[-1], squares, 0.0))
    inverses = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    root, inverse = (axes * lengths) @ axes.T, (axes * inverses) @ axes.T
    squares, directions = np.linalg.eigh(root @ right @ root)
    return np.sqrt(np.maximum(squares, 0.0)), directions, root, inverse


def mapped(array: np.ndarray, maps: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """A tensor whose axes are multiplied by matrices: G ×k Mᵀ, for every (k, M)."""
    for axis, matrix in maps:
        array = np.moveaxis(np.tensordot(array, matrix, axes=(axis, 0)), -1, axis)
    return array


def limited(F, steps: dict, factors: dict, rate, constant: Callable, dtype: str) -> dict:
    """Steps that turn no factor Uk by more than τ: ΔUk min(1, τ ‖Uk‖ / (η ‖ΔUk‖)).

    As LARS limits a layer's (You, Gitman and Ginsburg, arXiv 1708.03888). Norms below that of one
    unit column count as one, so that a factor of zero can grow.

    Parameters
    ----------
    F : module
        ``mxnet.nd`` or ``mxnet.sym``.
    steps, factors : dict of str to array
        By names; a factor for every step.
    rate : array (1, 1)
        (η / τ)², for a learning rate η.
    constant : callable
        Makes an array or symbol of a NumPy array.
    dtype : str
        That of all of them.
    """
    count = len(steps)
    arrays = [*(factors[name] for name in steps), *steps.values()]
    # In float32. MXNet prepares a compiled graph's gradient, too, which these sums do not have.
    squares = F.BlockGrad(F.multi_sum_sq(*arrays, num_arrays=2 * count))
    if dtype != "float32":
        squares = F.cast(squares, dtype=dtype)
    squares = F.reshape(squares, shape=(1, -1))
    which = np.eye(2 * count)
    norms = F.dot(squares, constant(which[:, :count]))  # (1, K)
    lengths = F.dot(squares, constant(which[:, count:]))
    turns = F.dot(rate, F.broadcast_div(lengths, F.maximum(norms, 1.0)))
    shares = F.rsqrt(F.maximum(turns, 1.0))
    shorter = {}
    for (name, step), column in zip(steps.items(), np.eye(count)):
        share = F.dot(shares, constant(column[:, None]))  # (1, 1)
        flat = F.dot(F.reshape(step, shape=(-1, 1)), share)
        shorter[name] = F.reshape_like(flat, step)
    return shorter
