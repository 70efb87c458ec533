"""Alternating least squares for CP: T ≈ Σr u1r ∘ u2r ∘ … of a small tensor, in float64.

Each factor in turn is the least squares solution, given all others. A term on the way to the
solution that changes it little makes the normal equations singular and slow; hence a damping that
holds a factor back and vanishes with the error, extrapolated steps, and several starts. Kolda and
Bader, *Tensor Decompositions and Applications* (2009); Navasca et al., *Swamp reducing technique
for tensor decomposition* (2008); Bro, *Multi-way analysis in the food industry* (1998).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from math import prod

import numpy as np

_RANDOM_STARTS = 5
_TRIAL_SWEEPS = 30  # of every start
_SWEEPS = (300, 2000)  # of one that is followed, at most: of a large tensor, and of a small one
_WORK = 1e9  # sweeps times entries times the rank, between the two, and of all that are followed
_CONVERGED = 1e-6  # relative change of the squared error in a sweep: hundreds would gain 1e-4
_EXACT = 1e-9  # relative error at which nothing is left to find
_PROMISING = 0.1  # and below which the rank may be exact, but not found from every start
_DAMPING = 1e-2  # relative to the mean eigenvalue of the normal equations, times the error

Factors = list[np.ndarray]


def fit(tensor: np.ndarray, rank: int) -> Factors:
    """The best factors (Ik, R) found for a tensor (I1, …, In) that is not zero.

    Deterministic. Of unit columns, except the last, which carries the terms' lengths.
    """
    norm = np.linalg.norm(tensor)
    tensor = tensor / norm
    trials = []
    for start in _starts(tensor, rank):
        error, factors, _ = _descend(tensor, start, _TRIAL_SWEEPS)
        trials.append((error, factors))
        if error < _EXACT:
            break
    best: tuple[float, Factors] | None = None
    left = _WORK / (tensor.size * rank)
    for _, start in sorted(trials, key=lambda trial: trial[0]):
        error, factors, sweeps = _descend(tensor, start, int(np.clip(left, *_SWEEPS)))
        left -= sweeps
        if best is None or error < best[0]:
            best = error, factors
        if best[0] < _EXACT or best[0] > _PROMISING or left <= 0:
            break
    *others, last = normalised(best[1])
    return [*others, last * norm]


def normalised(factors: Factors) -> Factors:
    """The same terms, of unit columns, with their lengths in the last factor."""
    *others, last = factors
    for factor in others:
        last = last * np.linalg.norm(factor, axis=0)
    return [factor / _lengths(factor) for factor in others] + [last]


def khatri_rao(factors: Sequence[np.ndarray], rank: int) -> np.ndarray:
    """Column by column Kronecker product of (Ik, R): (I1·…·In, R)."""
    ones = np.ones((1, rank))
    return reduce(lambda a, b: (a[:, None] * b).reshape(-1, rank), factors, ones)


def mttkrp(tensor: np.ndarray, factors: Factors, mode: int) -> np.ndarray:
    """T(k) (⊙j≠k Uj): a mode's unfolding times the Khatri-Rao product of the others, (Ik, R)."""
    shape, rank = tensor.shape, factors[0].shape[1]
    before = khatri_rao(factors[:mode], rank)
    after = khatri_rao(factors[mode + 1 :], rank)
    if len(before) <= len(after):
        # (before·Ik, after) -> (before, Ik, R) -> (Ik, R)
        partial = (tensor.reshape(-1, len(after)) @ after).reshape(len(before), shape[mode], rank)
        return np.einsum("bir,br->ir", partial, before)
    # (before, Ik·after) -> (R, Ik, after) -> (Ik, R)
    partial = (before.T @ tensor.reshape(len(before), -1)).reshape(rank, shape[mode], len(after))
    return np.einsum("ria,ar->ir", partial, after)


def _starts(tensor: np.ndarray, rank: int) -> Iterator[Factors]:
    """Starts, of which the first are exact where the tensor is of the rank and that is simple."""
    rng = np.random.default_rng(0)
    if sum(size >= rank for size in tensor.shape) >= 2:
        yield _diagonalised(tensor, rank, rng)
    yield [_leading(tensor, mode, rank, rng) for mode in range(tensor.ndim)]
    for _ in range(_RANDOM_STARTS):
        yield [rng.standard_normal((size, rank)) for size in tensor.shape]


def _leading(tensor: np.ndarray, mode: int, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Left singular vectors of a mode's unfolding, and random columns where there are too few."""
    unfolded = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
    vectors = np.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]
    missing = rank - vectors.shape[1]
    return np.hstack([vectors, rng.standard_normal((len(vectors), missing))])


def _diagonalised(tensor: np.ndarray, rank: int, rng: np.random.Generator) -> Factors:
    """Factors from two slices that the same two matrices make diagonal.

    Exact for a tensor of the rank with two modes at least as long. Leurgans, Ross and Abel, *A
    decomposition for three-way arrays* (1993).
    """
    first, second = np.argsort(tensor.shape, kind="stable")[::-1][:2]
    # (Ia, Ib, others), with Ia and Ib projected onto R leading vectors
    slices = np.moveaxis(tensor, (first, second), (0, 1))
    left = _leading(tensor, first, rank, rng)
    right = _leading(tensor, second, rank, rng)
    slices = slices.reshape(*slices.shape[:2], -1)
    pair = [left.T @ (slices @ rng.standard_normal(slices.shape[2])) @ right for _ in range(2)]
    # (Aᵀ D1 B) (Aᵀ D2 B)⁻¹ = Aᵀ D1 D2⁻¹ A⁻ᵀ, whose eigenvectors are the columns of A
    vectors = np.linalg.eig(pair[0] @ np.linalg.pinv(pair[1]))[1]
    factor = left @ np.real(vectors)
    factors = [np.ones((size, rank)) for size in tensor.shape]
    factors[first] = factor
    unfolded = np.moveaxis(tensor, first, 0).reshape(len(factor), -1)
    terms = np.linalg.pinv(factor) @ unfolded  # (R, others): one term of rank 1 per row
    others = [size for mode, size in enumerate(tensor.shape) if mode != first]
    modes = [mode for mode in range(tensor.ndim) if mode != first]
    for r, term in enumerate(terms.reshape(rank, *others)):
        for place, mode in enumerate(modes):
            column = np.moveaxis(term, place, 0).reshape(others[place], -1)
            u, s, _ = np.linalg.svd(column, full_matrices=False)
            factors[mode][:, r] = u[:, 0] * (s[0] if place == 0 else 1)
        value = reduce(np.multiply.outer, (factors[mode][:, r] for mode in modes))
        factors[modes[0]][:, r] *= 1 if np.sum(value * term) >= 0 else -1
    return factors


def _descend(tensor: np.ndarray, factors: Factors, sweeps: int) -> tuple[float, Factors, int]:
    """Sweeps until nothing changes; the relative error, the factors, and how many sweeps."""
    error = _error(tensor, factors)
    for sweep in range(1, sweeps + 1):
        swept = _sweep(tensor, factors, damping=_DAMPING * min(error, 1.0))
        # Steps of ALS become short and alike; a longer one of the same direction is often better.
        stretch = sweep ** (1 / tensor.ndim)
        further = [old + stretch * (new - old) for old, new in zip(factors, swept)]
        swept_error, further_error = _error(tensor, swept), _error(tensor, further)
        last = error
        if further_error < swept_error:
            swept, swept_error = further, further_error
        factors, error = _balanced(swept), swept_error
        if error < _EXACT or abs(last**2 - error**2) < _CONVERGED * last**2:
            break
    return error, factors, sweep


def _sweep(tensor: np.ndarray, factors: Factors, damping: float) -> Factors:
    """Every factor in turn: Uk = (T(k) (⊙j≠k Uj) + λ Uk) (⊛j≠k UjᵀUj + λI)⁻¹."""
    factors, rank = list(factors), factors[0].shape[1]
    for mode, old in enumerate(factors):
        others = [factor for other, factor in enumerate(factors) if other != mode]
        normal = reduce(np.multiply, (factor.T @ factor for factor in others))
        weight = max(damping, 1e-14) * np.trace(normal) / rank
        right = mttkrp(tensor, factors, mode) + weight * old
        factors[mode] = np.linalg.solve(normal + weight * np.eye(rank), right.T).T
    return factors


def _error(tensor: np.ndarray, factors: Factors) -> float:
    """‖T − Σr u1r ∘ …‖, of a tensor of unit norm."""
    rank = factors[0].shape[1]
    half = tensor.ndim // 2
    rows, columns = khatri_rao(factors[:half], rank), khatri_rao(factors[half:], rank)
    return float(np.linalg.norm(tensor.reshape(len(rows), -1) - rows @ columns.T))


def _balanced(factors: Factors) -> Factors:
    """The same terms, with the same length in every factor."""
    lengths = [_lengths(factor) for factor in factors]
    share = np.prod(lengths, axis=0) ** (1 / len(factors))
    return [factor * (share / length) for factor, length in zip(factors, lengths)]


def _lengths(factor: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(factor, axis=0)
    return np.where(lengths > 0, lengths, 1.0)


def largest_core(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """The Tucker rank that a tensor (I1, …, In) of CP rank R has at most."""
    return tuple(min(size, rank, prod(shape) // size) for size in shape)
