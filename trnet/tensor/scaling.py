"""Gram matrices that scale gradients, on arrays and symbols alike.

A gradient of W reaches a factor through all other parameters, and the factor's step reaches W
through them again. Their Gram matrices undo both. Tong, Ma and Chi, *Accelerating Ill-Conditioned
Low-Rank Matrix Estimation via Scaled Gradient Descent* (JMLR 2021); for Tucker, Tong et al. (arXiv
2104.14526). Matrices are (R, R), with ranks R; no product here is as large as W.

They are so small that launching an operator takes longer than computing it, most of all one that
starts threads. Hence few operators; products with constants in place of sums, diagonals and unit
matrices; ``linalg.gemm`` with its sum; and ``broadcast_add`` in place of ``+``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod

import numpy as np

# Added to Gram matrices before they are inverted, in proportion to the mean eigenvalue of those
# that carry W's scale. It bounds how far a step is stretched, by 1 / (2 √DAMPING), where W is
# almost of a lower rank.
DAMPING = 1e-3
TINY = 1e-12  # the same for a weight of zero, whose gradients are zero, too


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


def inner(F, left, right, shape: tuple[int, ...], mode: int, constant: Callable):
    """A(k) B(k)ᵀ of two tensors (R1, …, Rn), summed over all modes but k: (Rk, Rk)."""
    if mode == 0:
        rows = (shape[0], -1)
        return F.dot(F.reshape(left, shape=rows), F.reshape(right, shape=rows), transpose_b=True)
    if mode == len(shape) - 1:
        columns = (-1, shape[mode])
        return F.dot(
            F.reshape(left, shape=columns), F.reshape(right, shape=columns), transpose_a=True
        )
    # (before, Rk, after) -> (before, Rk·Rk) -> (1, Rk·Rk), the sum over what is before
    before, rank = prod(shape[:mode]), shape[mode]
    left, right = (F.reshape(tensor, shape=(before, rank, -1)) for tensor in (left, right))
    products = F.reshape(F.batch_dot(left, right, transpose_b=True), shape=(before, -1))
    return F.reshape(F.dot(constant(np.ones((1, before))), products), shape=(rank, rank))


def squared_norm(F, left, right):
    """⟨A, B⟩ + a tiny number, of two tensors of one shape: (1,)."""
    left, right = F.reshape(left, shape=(-1,)), F.reshape(right, shape=(-1,))
    return F.reshape(F.dot(left, right), shape=(1,)) + TINY
