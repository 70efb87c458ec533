"""CP: W = Σr u1r ∘ … ∘ uNr ∘ u(N+1)r, with rank R, the number of terms.

    W (I1, …, IN, O)   Uk = (uk1, …, ukR) (Ik, R)   U(N+1) (O, R)

⟨X, W⟩_N = U(N+1) · z, with zr = X ×1 u1rᵀ … ×N uNrᵀ. Cao and Rabusseau, *Tensor Regression
Networks with various Low-Rank Tensor Approximations* (arXiv 1712.09520).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import numpy as np

from trnet.tensor import als
from trnet.tensor.contraction import Product, componentwise_product, khatri_rao, make_product
from trnet.tensor.factorizations.base import (
    Arrays,
    Factorization,
    Rank,
    factor_names,
    is_kept,
    is_positive,
)
from trnet.tensor.factorizations.tucker import hooi
from trnet.tensor.initial import orthonormal
from trnet.tensor.plan import TRAINING, Step
from trnet.tensor.ranks import check_most
from trnet.tensor.scaling import DAMPING, TINY, roots


class CP(Factorization):
    """W = Σr u1r ∘ … ∘ uNr ∘ u(N+1)r, with rank R: the number of terms.

    Parameters of the layer: ``factor1`` … Uk (Ik, R), the last of shape (O, R). Arguments and
    attributes as in :class:`Factorization`.
    """

    title = "CP"
    rank_form = "an integer"
    supports_lasso = True

    @staticmethod
    def parameter_names(n_modes: int) -> list[str]:
        return factor_names(n_modes)

    @classmethod
    def of_shapes(cls, shapes: Sequence[tuple[int, ...]]) -> CP:
        return cls(tuple(size for size, _ in shapes), shapes[0][1])

    @staticmethod
    def is_rank(rank: Rank) -> bool:
        return is_positive(rank)

    @staticmethod
    def input_modes(rank: Rank) -> int | None:
        return None

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        names = factor_names(len(self.shape) - 1)
        return {name: (size, self.rank) for name, size in zip(names, self.shape)}

    def _exact_rank(self, rank: Rank) -> int:
        if not is_positive(rank) or rank >= 2**31:  # which is no size for MXNet
            raise ValueError(
                "rank: expected an integer ≥ 1 and below 2³¹, the number of terms, for CP, got "
                f"{rank!r}"
            )
        return int(rank)

    def _rank_of(self, fraction: float) -> int:
        from tensorly.cp_tensor import validate_cp_rank

        return max(1, validate_cp_rank(self.shape, fraction))

    @property
    def _joined_rank(self) -> Rank:
        return self.rank

    def _join(self, F, inputs: list, outputs: list) -> list:
        shapes = [(self.rank, size) for size in self.shape[-self.n_outputs :]]
        # u(N+1)r ⊗ … ⊗ u(N+M)r, term by term: (R, O1·…·OM)
        rows = khatri_rao(F, [F.transpose(factor) for factor in outputs], shapes)
        return [*inputs, F.transpose(rows)]

    def steps(self, reuse: float = TRAINING) -> tuple[Step, ...]:
        """Mode 1; all other modes component by component; the output."""
        first, *others = self.shape[:-1]
        # (I1, I2, …, IN) -> (R, I2, …, IN) -> (R,) -> (O,)
        steps = [Step(1, 1, (first, *others), (self.rank, *others))]
        if others:
            steps.append(Step(2, len(others) + 1, (self.rank, *others), (self.rank,)))
        return (*steps, Step(1, 1, (self.rank,), (self.shape[-1],)))

    def products(self, F, parameters: Arrays, reuse: float = TRAINING) -> list[Product]:
        first, *others, output = parameters.values()
        project, *componentwise, classify = self.steps(reuse)
        products = [make_product(F, project, first, transposed=True)]
        for step in componentwise:
            rows = [F.transpose(factor) for factor in others]  # (R, Ik) each
            shapes = [(self.rank, size) for size in self.shape[1:-1]]
            products.append(componentwise_product(F, step, khatri_rao(F, rows, shapes)))
        return [*products, make_product(F, classify, output)]

    @property
    def latent_modes(self) -> list[tuple[str, int, int]]:
        return [(list(self.parameter_shapes)[-1], 1, self.rank)]

    def shrunk(self, parameters: Arrays, amount: float) -> Arrays:
        *_, last = parameters
        shares = np.maximum(1 - amount / np.maximum(_term_norms(parameters), TINY), 0.0)
        return {**parameters, last: parameters[last] * shares}

    def rounded(self, parameters: Arrays, tolerance: float) -> tuple[Rank, Arrays]:
        kept = is_kept(_term_norms(parameters), tolerance)
        return int(kept.sum()), {name: U[:, kept] for name, U in parameters.items()}

    def scaled_gradients(
        self, F, parameters: Arrays, gradients: Arrays, constant: Callable[[np.ndarray], Any]
    ) -> Arrays:
        *_, last = parameters

        sizes = dict(zip(parameters, self.shape))
        ones = {size: constant(np.ones((size, 1))) for size in {*self.shape, self.rank}}

        def column_sums(array, rows: int):  # (I, R) -> (1, R)
            return F.dot(ones[rows], array, transpose_a=True)

        def repeated(row, rows: int):  # (1, R) -> (I, R)
            return F.dot(ones[rows], row)

        grams = {name: F.dot(U, U, transpose_a=True) for name, U in parameters.items()}
        lengths = {  # ‖ukr‖²
            name: column_sums(F.broadcast_mul(U, U), sizes[name]) + TINY
            for name, U in parameters.items()
        }
        terms = reduce(F.broadcast_mul, lengths.values())  # ‖u1r ∘ u2r ∘ …‖²
        damping = F.dot(terms, constant(np.full((self.rank, 1), DAMPING / self.rank)))  # (1, 1)
        identity = constant(np.eye(self.rank))
        scaled = {}
        for name, gradient in gradients.items():
            # ΔUk = ∂Uk (Ck + εI)⁻¹ with Ck = ⊛j≠k UjᵀUj
            C = reduce(F.broadcast_mul, (UU for other, UU in grams.items() if other != name))
            epsilon = F.dot(damping, F.reciprocal(lengths[name])) + TINY  # (1, R)
            epsilon = F.broadcast_mul(identity, repeated(epsilon, self.rank))
            step = F.dot(gradient, F.linalg.inverse(F.broadcast_add(C, epsilon)))
            if name != last and last in gradients:
                # The length of a term is the last factor's to change.
                U = parameters[name]
                along = column_sums(F.broadcast_mul(U, step), sizes[name])
                along = F.broadcast_div(along, lengths[name])
                step = F.broadcast_sub(step, F.broadcast_mul(U, repeated(along, sizes[name])))
            scaled[name] = step
        return scaled

    def gauge(self, parameters: Arrays) -> dict[str, list[tuple[int, np.ndarray]]]:
        # A term's length is the last factor's: ukr / ‖ukr‖, and u(N+1)r ‖u1r‖ ⋯ ‖uNr‖
        *units, last = parameters
        pairs = [roots(np.diag(np.square(parameters[name]).sum(axis=0))) for name in units]
        maps = {name: [(1, inverse)] for name, (_, inverse) in zip(units, pairs)}
        return {**maps, last: [(1, root) for root, _ in pairs]}

    def reconstruct(self, tl, parameters: Arrays):
        return tl.cp_to_tensor((None, list(parameters.values())))

    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        terms = self._exact_terms(weight) or self._fit(weight)
        return dict(zip(self.parameter_shapes, als.normalised(terms)))

    def _balanced_rank(self, most: int) -> Rank:
        return _most_terms(lambda rank: type(self)(self.shape, rank).size, most)

    @classmethod
    def truncation(cls, weight: np.ndarray, size: Callable[[Rank], int]) -> Callable[[int], Rank]:
        return partial(_most_terms, size)

    def mode_parameter(self, mode: int) -> tuple[str, int]:
        return f"factor{mode}", 0

    def latent(self, parameters: Arrays, x: np.ndarray) -> np.ndarray:
        first, *others, _ = parameters.values()
        x = np.tensordot(x, first, axes=(1, 0))  # (batch, I2, …, IN, R)
        for factor in others:
            x = np.einsum("bi...r,ir->b...r", x, factor)
        return x

    def output_map(self, parameters: Arrays) -> np.ndarray:
        return list(parameters.values())[-1]

    def corrected(self, parameters: Arrays, change: np.ndarray, metric: np.ndarray | None):
        last = list(parameters)[-1]
        return {**parameters, last: parameters[last] + change}

    def _exact_terms(self, weight: np.ndarray) -> list[np.ndarray] | None:
        """One term per fibre along the longest mode, where the rank allows that many."""
        longest = int(np.argmax(self.shape))
        others = [size for mode, size in enumerate(self.shape) if mode != longest]
        n_fibres = prod(others)
        if self.rank < n_fibres:
            return None
        factors = [np.zeros((size, self.rank), weight.dtype) for size in self.shape]
        factors[longest][:, :n_fibres] = np.moveaxis(weight, longest, 0).reshape(-1, n_fibres)
        positions = iter(np.indices(others).reshape(len(others), -1))
        for mode in range(len(self.shape)):
            if mode != longest:
                factors[mode][next(positions), np.arange(n_fibres)] = 1
        return factors

    def _fit(self, weight: np.ndarray) -> list[np.ndarray]:
        """Alternating least squares on the core of a Tucker form, which may be far smaller."""
        if not weight.any():
            units = [self._unit(name) for name in self.parameter_shapes]
            return [*units[:-1], 0 * units[-1]]
        # R terms span at most R dimensions of each mode: (I1, …, IN, O) -> (min(Ik, R), …)
        core, *bases = hooi(weight, als.largest_core(self.shape, self.rank))
        factors = als.fit(core.astype("float64"), self.rank)
        return [basis @ factor for basis, factor in zip(bases, factors)]

    @property
    def _components(self) -> int:
        return self.rank

    def _unit(self, name: str) -> np.ndarray:
        return orthonormal(*self.parameter_shapes[name])


def _most_terms(size: Callable[[Rank], int], most: int) -> int:
    """The largest rank of at most ``most`` parameters: every term has as many."""
    check_most(most, size(1))
    return most // size(1)


def _term_norms(factors: Arrays) -> np.ndarray:
    """‖u1r ∘ u2r ∘ …‖ of each term r."""
    return prod(np.linalg.norm(U, axis=0) for U in factors.values())
