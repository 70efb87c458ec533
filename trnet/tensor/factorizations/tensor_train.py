"""Tensor train: W(i1, …, iN, o) = G1(i1) G2(i2) ⋯ GN(iN) G(N+1)(o), with ranks (r1, …, rN).

    W (I1, …, IN, O)   Gk (r(k-1), Ik, rk), with r0 = r(N+1) = 1 and I(N+1) = O

⟨X, W⟩_N contracts one mode of X with one core after the other, from the first to the last. Cao and
Rabusseau, *Tensor Regression Networks with various Low-Rank Tensor Approximations* (arXiv
1712.09520).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import numpy as np

from trnet.tensor.contraction import Product, make_product
from trnet.tensor.factorizations.base import (
    Arrays,
    Factorization,
    Rank,
    are_positive,
    check_rank,
    check_ranks,
)
from trnet.tensor.initial import orthonormal
from trnet.tensor.plan import TRAINING, Chain, Step
from trnet.tensor.ranks import balanced, cut_spectra, truncated
from trnet.tensor.scaling import DAMPING, add_scaled, ready, roots, squared_norm


class TensorTrain(Factorization):
    """W(i1, …, iN, o) = G1(i1) G2(i2) ⋯ GN(iN) G(N+1)(o), with the inner ranks (r1, …, rN).

    Parameters of the layer: ``core1`` … Gk (r(k-1), Ik, rk), with r0 = r(N+1) = 1. Arguments and
    attributes as in :class:`Factorization`.
    """

    title = "tensor train"
    rank_form = "a list [r1, …, rN] of integers"
    supports_lasso = True

    @staticmethod
    def parameter_names(n_modes: int) -> list[str]:
        return [f"core{mode}" for mode in range(1, n_modes + 2)]

    @classmethod
    def of_shapes(cls, shapes: Sequence[tuple[int, ...]]) -> TensorTrain:
        return cls(tuple(size for _, size, _ in shapes), tuple(r for *_, r in shapes[:-1]))

    @staticmethod
    def is_rank(rank: Rank) -> bool:
        return are_positive(rank)

    @staticmethod
    def input_modes(rank: Rank) -> int | None:
        return len(rank) if isinstance(rank, (tuple, list)) else None

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        edges = (1, *self.rank, 1)
        names = self.parameter_names(len(self.shape) - 1)
        return dict(zip(names, zip(edges, self.shape, edges[1:])))

    @property
    def _largest_ranks(self) -> list[int]:
        """No cut of a tensor has a rank above the smaller side of its unfolding."""
        cuts = range(1, len(self.shape))
        return [min(prod(self.shape[:cut]), prod(self.shape[cut:])) for cut in cuts]

    def _exact_rank(self, rank: Rank) -> tuple[int, ...]:
        form = "(r1, …, rN), a tensor train's inner ranks without TensorLy's 1 at both ends"
        ranks = check_ranks(rank, len(self.shape) - 1, form)
        for mode, (r, bound) in enumerate(zip(ranks, self._largest_ranks), start=1):
            check_rank(r, bound, f"the cut after mode {mode}")
        return tuple(map(int, ranks))

    def _rank_of(self, fraction: float) -> tuple[int, ...]:
        from tensorly.cp_tensor import validate_cp_rank
        from tensorly.tt_tensor import validate_tt_rank

        if len(self.shape) == 2:  # a train of two cores is a product of two matrices, as CP is
            ranks = (validate_cp_rank(self.shape, fraction),)
        else:
            ranks = validate_tt_rank(self.shape, fraction)[1:-1]
        return tuple(max(1, min(int(r), bound)) for r, bound in zip(ranks, self._largest_ranks))

    @property
    def _joined_rank(self) -> Rank:
        return self.rank[: len(self.shape) - self.n_outputs]

    def _join(self, F, inputs: list, outputs: list) -> list:
        # (rN, O1, …, Ok, r) · (r, O(k+1), r') -> (rN, O1, …, O(k+1), r')
        core = reduce(F.dot, outputs)
        joined_core = list(self.joined.parameter_shapes.values())[-1]
        return [*inputs, F.reshape(core, shape=joined_core)]

    @property
    def _chain(self) -> Chain:
        """Links G1, …, G(N+1); all but the last contract a mode of the input."""
        modes = (*((size,) for size in self.shape[:-1]), ())
        return Chain(modes, (1, *self.rank, self.shape[-1]))

    def steps(self, reuse: float = TRAINING) -> tuple[Step, ...]:
        return self._chain.steps(reuse)

    def products(self, F, parameters: Arrays, reuse: float = TRAINING) -> list[Product]:
        cores, chain, products = list(parameters.values()), self._chain, []
        # (B, r(k-1)·Ik, I(k+1), …, IN) -> (B, rk, I(k+1), …, IN), or several cores at once
        for first, last in chain.runs(reuse):
            step, matrix = chain.step(first, last), reduce(F.dot, cores[first - 1 : last])
            if first == len(cores):  # (rN, O, 1) needs no copy
                produced = (self.shape[-1], 1)
            else:
                matrix = F.reshape(matrix, shape=(step.contracted, step.produced))
                produced = ()
            products.append(make_product(F, step, matrix, transposed=True, produced=produced))
        return products

    @property
    def latent_modes(self) -> list[tuple[str, int, int]]:
        return [(name, 2, r) for name, r in zip(self.parameter_shapes, self.rank)]

    @property
    def bonds(self) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        cores = list(self.parameter_shapes)
        return [((before, 2), (after, 0)) for before, after in zip(cores, cores[1:])]

    def bond_grams(self, parameters: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        # Lk and Rk, of the cores up to the k-th, and of those after it
        cores, rights = list(parameters.values()), [np.ones((1, 1))]
        for core in cores[:0:-1]:
            rights.append(np.einsum("ria,ab,sib->rs", core, rights[-1], core, optimize=True))
        return list(zip(_left_grams(cores[:-1]), rights[:0:-1]))

    def scaled_gradients(
        self, F, parameters: Arrays, gradients: Arrays, constant: Callable[[np.ndarray], Any]
    ) -> Arrays:
        names, shapes = list(parameters), list(self.parameter_shapes.values())
        cores = list(parameters.values())
        # Gk, the k-th core, as matrices: (r(k-1)·Ik, rk) and (r(k-1), Ik·rk)
        cores = [ready(F, core, constant(np.eye(shape[2]))) for core, shape in zip(cores, shapes)]
        tall = [F.reshape(G, shape=(-1, shape[2])) for G, shape in zip(cores[:-1], shapes)]
        wide = [F.reshape(G, shape=(shape[0], -1)) for G, shape in zip(cores[1:], shapes[1:])]
        # Lk and Rk: Gram matrices (rk, rk) of the cores up to the k-th, and of those after it
        lefts, rights = [], []
        for core, G, shape in zip(cores, tall, shapes):
            weighted = F.reshape(F.dot(lefts[-1], core), shape=(-1, shape[2])) if lefts else G
            epsilon = constant(DAMPING * np.eye(shape[2]))
            lefts.append(F.linalg.gemm(G, weighted, epsilon, transpose_a=True))
        inverses = [F.linalg.inverse(left) for left in lefts]
        for core, G, shape in zip(cores[:0:-1], wide[::-1], shapes[:0:-1]):
            weighted = F.reshape(F.dot(core, rights[0]), shape=(shape[0], -1)) if rights else G
            rights.insert(0, F.dot(G, weighted, transpose_b=True))
        damping = squared_norm(F, lefts[-1], rights[-1]) * DAMPING  # of ‖W‖² = ⟨LN, RN⟩
        scaled = {}
        for k, (name, (*_, after)) in enumerate(zip(names, shapes)):
            if name not in gradients:
                continue
            # ΔGk = (L(k-1) + εI)⁻¹ ×1 ∂Gk ×3 (Rk + εI)⁻¹, without what the next core can do
            step = gradients[name]
            if k < len(rights):
                damped = add_scaled(F, rights[k], inverses[k], damping * (1 / after), after)
                step = F.dot(step, F.linalg.inverse(damped))
            flat = F.reshape(step, shape=(-1, after))
            if k > 0:
                step = F.dot(inverses[k - 1], step)
            if k + 1 < len(names) and names[k + 1] in gradients:
                inside = F.dot(inverses[k], F.dot(tall[k], flat, transpose_a=True))
                step = F.broadcast_sub(step, F.dot(cores[k], inside))
            scaled[name] = step
        return scaled

    def gauge(self, parameters: Arrays) -> dict[str, list[tuple[int, np.ndarray]]]:
        # L(k-1)^½ Gk Lk^-½, with the Gram matrix Lk (rk, rk) of the cores up to the k-th
        *inner, last = parameters
        maps, root = {}, np.ones((1, 1))
        for name, left in zip(inner, _left_grams([parameters[name] for name in inner])):
            before, (root, inverse) = root, roots(left)
            maps[name] = [(0, before), (2, inverse)]
        return {**maps, last: [(0, root)]}

    def reconstruct(self, tl, parameters: Arrays):
        return tl.tt_to_tensor(list(parameters.values()))

    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        from trnet.tensor.backend import tensorly_scope

        with tensorly_scope() as tl:
            from tensorly.decomposition import tensor_train

            train = tensor_train(
                tl.tensor(weight.astype("float64", copy=False)), rank=[1, *self.rank, 1]
            )
            cores = [core.asnumpy() for core in train]
        return dict(zip(self.parameter_shapes, cores))

    def _balanced_rank(self, most: int) -> Rank:
        return balanced(self._largest_ranks, lambda rank: type(self)(self.shape, rank).size, most)

    @classmethod
    def truncation(cls, weight: np.ndarray, size: Callable[[Rank], int]) -> Callable[[int], Rank]:
        return partial(truncated, cut_spectra(weight), size)

    def mode_parameter(self, mode: int) -> tuple[str, int]:
        return f"core{mode}", 1

    def latent(self, parameters: Arrays, x: np.ndarray) -> np.ndarray:
        *cores, _ = parameters.values()
        x = x[:, None]  # (batch, r(k-1), Ik, …, IN)
        for core in cores:
            x = np.moveaxis(np.tensordot(x, core, axes=((1, 2), (0, 1))), -1, 1)
        return x

    def output_map(self, parameters: Arrays) -> np.ndarray:
        return list(parameters.values())[-1][:, :, 0].T

    def corrected(self, parameters: Arrays, change: np.ndarray, metric: np.ndarray | None):
        last = list(parameters)[-1]
        return {**parameters, last: parameters[last] + change.T[:, :, None]}

    @property
    def _components(self) -> int:
        return self.rank[-1]

    def _unit(self, name: str) -> np.ndarray:
        before, size, after = self.parameter_shapes[name]
        if name == list(self.parameter_shapes)[-1]:
            return orthonormal(size, before).T.reshape(before, size, after)
        return orthonormal(before * size, after).reshape(before, size, after)


def _left_grams(cores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Gram matrices Lk (rk, rk) of the cores up to each of these."""
    lefts = [np.ones((1, 1))]
    for core in cores:
        lefts.append(np.einsum("air,ab,bis->rs", core, lefts[-1], core, optimize=True))
    return lefts[1:]
