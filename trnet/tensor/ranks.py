"""Choosing ranks: the ones that lose least of a weight, for a number of parameters.

A form's ranks bound the ranks of unfoldings of W. A bound r loses at least the squared singular
values of its unfolding from the r-th on. Ranks are lowered one at a time, from full ones: always
the one that loses least of W per parameter saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

Ranks = tuple[int, ...]

_TINY = 1e-9  # so that a share of a rank is not rounded below it
_LARGEST_STEP = 0.02  # by which a rank is lowered at a time, of itself: long spectra are smooth


def mode_spectra(weight: np.ndarray, modes: int | None = None) -> list[np.ndarray]:
    """Squared singular values of the unfoldings of all or the first modes, descending."""
    return [
        _squared_singular_values(np.moveaxis(weight, mode, 0).reshape(size, -1))
        for mode, size in enumerate(weight.shape[:modes])
    ]


def cut_spectra(weight: np.ndarray) -> list[np.ndarray]:
    """Squared singular values of the unfolding at every cut between modes, descending."""
    return [
        _squared_singular_values(weight.reshape(prod(weight.shape[:cut]), -1))
        for cut in range(1, weight.ndim)
    ]


def _squared_singular_values(matrix: np.ndarray) -> np.ndarray:
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)


def truncated(
    spectra: Sequence[np.ndarray],
    size: Callable[[Ranks], int],
    most: int,
    useful: Callable[[Ranks], Ranks] = tuple,
) -> Ranks:
    """The ranks of at most ``most`` parameters that lose least of a weight, one after another.

    Parameters
    ----------
    spectra : sequence of array
        Of the unfoldings that the ranks bound.
    size : callable
        The number of parameters at some ranks.
    most : int
    useful : callable
        Ranks without what adds parameters and no functions, beside the others; by default all.

    Raises
    ------
    ValueError
        If ranks of one have more parameters.
    """
    ranks = useful(tuple(map(len, spectra)))
    check_most(most, size((1,) * len(ranks)))
    while size(ranks) > most:
        losses = {
            lower: _loss(lower, ranks, spectra) / (size(ranks) - size(lower))
            for lower in _lower(ranks)
        }
        ranks = useful(min(losses, key=losses.get))
    return ranks


def balanced(largest: Ranks, size: Callable[[Ranks], int], most: int) -> Ranks:
    """The same share of each of the ``largest`` ranks: as high as ``most`` parameters allow.

    Other parameters and errors are those of :func:`truncated`.
    """

    def ranks(share: float) -> Ranks:
        return tuple(max(1, int(share * r)) for r in largest)

    check_most(most, size(ranks(0)))
    shares = {step / r + _TINY for r in largest for step in range(r + 1)}
    return ranks(max(share for share in shares if size(ranks(share)) <= most))


def check_most(most: int, lowest: int) -> None:
    """Refuse fewer parameters than the lowest rank has."""
    if most < lowest:
        raise ValueError(f"expected at least {lowest} parameters, of the lowest rank, got {most}")


def _lower(ranks: Ranks) -> list[Ranks]:
    """Ranks of which one is lower."""
    steps = [max(1, int(r * _LARGEST_STEP)) for r in ranks]
    return [
        (*ranks[:place], r - steps[place], *ranks[place + 1 :])
        for place, r in enumerate(ranks)
        if r > 1
    ]


def _loss(lower: Ranks, ranks: Ranks, spectra: Sequence[np.ndarray]) -> float:
    return sum(values[low:r].sum() for low, r, values in zip(lower, ranks, spectra))
