"""The formulas in plain NumPy, and random cases to hold the package against them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from hypothesis import strategies as st

FORMS = ("tucker", "cp", "tensor_train")


def contract(x: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """X ×1 V1 … ×N VN of a batch x (batch, I1, …, IN), with Vk (Rk, Ik)."""
    old, new = "abcd"[: len(factors)], "ijkl"[: len(factors)]
    operands = ",".join(f"{r}{i}" for r, i in zip(new, old))
    return np.einsum(f"z{old},{operands}->z{new}", x, *factors, optimize=True)


def full_weight(form: str, parameters: Sequence[np.ndarray]) -> np.ndarray:
    """W (I1, …, IN, O) from the parameters of a form, in the order of its formula."""
    n = len(parameters) - (form == "tucker")
    modes, ranks = "abcdefg"[:n], "ijklmno"[:n]
    if form == "tucker":
        operands = ranks + "".join(f",{mode}{rank}" for mode, rank in zip(modes, ranks))
    elif form == "cp":
        operands = ",".join(f"{mode}r" for mode in modes)
    else:
        operands = ",".join(
            "stuvwxyz"[k] + mode + "stuvwxyz"[k + 1] for k, mode in enumerate(modes)
        )
    return np.einsum(f"{operands}->{modes}", *parameters, optimize=True)


def regress(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """⟨X, W⟩_N of a batch x (batch, I1, …, IN) and a weight (I1, …, IN, O1, …, OM)."""
    modes, outputs = "abcd"[: x.ndim - 1], "efg"[: weight.ndim - x.ndim + 1]
    return np.einsum(f"z{modes},{modes}{outputs}->z{outputs}", x, weight, optimize=True)


def parameter_shapes(form: str, shape: tuple[int, ...], rank) -> list[tuple[int, ...]]:
    """Shapes of a form's parameters for a weight (I1, …, IN, O), in the order of its formula."""
    if form == "tucker":
        return [rank, *zip(shape, rank)]
    if form == "cp":
        return [(size, rank) for size in shape]
    return list(zip((1, *rank), shape, (*rank, 1)))


def largest_rank(form: str, shape: tuple[int, ...]):
    """The rank at which a form can be any weight of a shape."""
    if form == "tucker":
        return shape
    if form == "cp":
        return prod(shape) // max(shape)
    return tuple(min(prod(shape[:cut]), prod(shape[cut:])) for cut in range(1, len(shape)))


sizes = st.integers(1, 7)
in_shapes = st.lists(sizes, min_size=1, max_size=4).map(tuple)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def ranks(draw, form: str, shape: tuple[int, ...]):
    """A rank of a form that fits a weight (I1, …, IN, O)."""
    if form == "cp":
        return draw(st.integers(1, 9))
    return tuple(draw(st.integers(1, min(bound, 9))) for bound in largest_rank(form, shape))
