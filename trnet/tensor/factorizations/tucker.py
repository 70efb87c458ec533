"""Tucker: W = G ×1 U1 ×2 U2 … ×(N+1) U(N+1), with rank (R1, …, RN, R(N+1)).

    W (I1, …, IN, O)   G (R1, …, RN, R(N+1))   Uk (Ik, Rk)   U(N+1) (O, R(N+1))

⟨X, W⟩_N = ⟨X ×1 U1ᵀ … ×N UNᵀ, G⟩_N U(N+1)ᵀ: X is projected onto the latent space, contracted with
the core, and mapped to the outputs. Kossaifi et al., *Tensor Regression Networks* (arXiv
1707.08308).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from math import ceil, prod
from typing import Any

import numpy as np

from trnet.tensor.contraction import Product, kronecker, make_product, merged
from trnet.tensor.factorizations.base import (
    Arrays,
    Factorization,
    Rank,
    are_positive,
    check_rank,
    check_ranks,
    factor_names,
)
from trnet.tensor.initial import averaging, leading_vectors, orthonormal
from trnet.tensor.plan import TRAINING, Chain, Step, plan
from trnet.tensor.ranks import balanced, mode_spectra, truncated
from trnet.tensor.scaling import (
    DAMPING,
    add_scaled,
    gram,
    mapped,
    multiply_modes,
    ready,
    roots,
    rotated,
    squared_norm,
    without,
)

_HOOI_SWEEPS = 1  # the second one gains less than a thousandth of the error
_SLAB = 2**22  # elements of a tensor that are unfolded at a time


class Tucker(Factorization):
    """W = G ×1 U1 ×2 U2 … ×(N+1) U(N+1), with rank (R1, …, R(N+1)).

    Parameters of the layer: ``core`` G (R1, …, R(N+1)) and ``factor1`` … Uk (Ik, Rk), the last of
    shape (O, R(N+1)). Arguments and attributes as in :class:`Factorization`.
    """

    title = "Tucker"
    rank_form = "a list [R1, …, RN, Rout] of integers"
    supports_lasso = True
    supports_pooling = True

    @staticmethod
    def parameter_names(n_modes: int) -> list[str]:
        return ["core", *factor_names(n_modes)]

    @classmethod
    def scale_name(cls, n_modes: int) -> str:
        return "core"

    @classmethod
    def of_shapes(cls, shapes: Sequence[tuple[int, ...]]) -> Tucker:
        rank, *factors = shapes
        return cls(tuple(size for size, _ in factors), tuple(rank))

    @staticmethod
    def is_rank(rank: Rank) -> bool:
        return are_positive(rank)

    @staticmethod
    def input_modes(rank: Rank) -> int | None:
        return len(rank) - 1 if isinstance(rank, (tuple, list)) else None

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        factors = dict(zip(factor_names(len(self.shape) - 1), zip(self.shape, self.rank)))
        return {"core": self.rank, **factors}

    def _exact_rank(self, rank: Rank) -> tuple[int, ...]:
        form = "(R1, …, RN, Rout), one for each mode and the output"
        ranks = check_ranks(rank, len(self.shape), form)
        for mode, (r, size) in enumerate(zip(ranks, self.shape), start=1):
            is_output = mode == len(self.shape) and self.n_outputs == 1
            check_rank(r, size, "the output" if is_output else f"mode {mode}")
        return tuple(map(int, ranks))

    def _rank_of(self, fraction: float) -> tuple[int, ...]:
        from tensorly.tucker_tensor import validate_tucker_rank

        return tuple(validate_tucker_rank(self.shape, fraction))

    @property
    def _joined_rank(self) -> Rank:
        n_modes = len(self.shape) - self.n_outputs
        return (*self.rank[:n_modes], prod(self.rank[n_modes:]))

    def _join(self, F, inputs: list, outputs: list) -> list:
        core, *factors = inputs
        shapes = list(zip(self.shape, self.rank))[-self.n_outputs :]
        # (R1, …, RN, R(N+1)·…·R(N+M)) and U(N+1) ⊗ … ⊗ U(N+M)
        core = F.reshape(core, shape=self._joined_rank)
        return [core, *factors, kronecker(F, outputs, shapes)]

    def steps(self, reuse: float = TRAINING) -> tuple[Step, ...]:
        steps, _, chain = _plan(self.shape, self.rank, reuse)
        return (*steps, *chain.steps(reuse))

    def products(self, F, parameters: Arrays, reuse: float = TRAINING) -> list[Product]:
        core, *factors, output = parameters.values()
        *mode_ranks, out_rank = self.rank
        steps, link, chain = _plan(self.shape, self.rank, reuse)
        shapes = list(zip(self.shape, mode_ranks))
        # X ×1 U1ᵀ … ×N UNᵀ: (B, I1, …, IN) -> (B, R1, …, RN)
        products = [
            make_product(F, step, merged(F, factors, shapes, step), transposed=True)
            for step in steps
        ]
        # G as a matrix (R1·…·RN, R(N+1)). (R1, 1, …, 1, R(N+1)) is one already and needs no copy.
        core_modes = (*mode_ranks[1:], out_rank)
        if prod(mode_ranks[1:]) > 1:
            core, core_modes = F.reshape(core, shape=(-1, out_rank)), (out_rank,)
        links = [core] if link is None else [merged(F, factors, shapes, link), core]
        # (B, R1·…·RN) -> (B, R(N+1)) -> (B, O)
        for first, last in chain.runs(reuse):
            run, step = links[first - 1 : last], chain.step(first, last)
            if last == len(links):
                matrix = reduce(F.dot, run)
                products.append(make_product(F, step, matrix, transposed=True, produced=core_modes))
            elif last < len(links):
                products.append(make_product(F, step, reduce(F.dot, run), transposed=True))
            elif run:
                weight = F.reshape(reduce(F.dot, run), shape=(-1, out_rank))
                products.append(make_product(F, step, F.dot(output, weight, transpose_b=True)))
            else:
                products.append(make_product(F, step, output))
        return products

    @property
    def latent_modes(self) -> list[tuple[str, int, int]]:
        return [(f"factor{mode}", 1, self.rank[mode - 1]) for mode in self._kept_modes]

    @property
    def bonds(self) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        _, *factors = self.parameter_shapes
        return [((name, 1), ("core", axis)) for axis, name in enumerate(factors)]

    def bond_grams(self, parameters: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        core, *factors = parameters.values()
        grams = [weight * (U.T @ U) for U, weight in zip(factors, self._averaged)]
        pairs = []
        for mode, UU in enumerate(grams):
            # UkᵀUk and G(k) (⊗j≠k UjᵀUj) G(k)ᵀ
            others = [(k, matrix) for k, matrix in enumerate(grams) if k != mode]
            rest = [k for k, _ in others]
            pairs.append((UU, np.tensordot(core, mapped(core, others), axes=(rest, rest))))
        return pairs

    def reconstruct(self, tl, parameters: Arrays):
        core, *factors = parameters.values()
        return tl.tucker_to_tensor((core, factors))

    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        if self.pooled_modes:
            unpooled = self._unpooled.decompose(weight)
            return {name: self._with_pooling(name, unpooled.get) for name in self.parameter_shapes}
        return dict(zip(self.parameter_shapes, hooi(weight, self.rank)))

    def _balanced_rank(self, most: int) -> Rank:
        kept = [self.shape[mode - 1] for mode in self._kept_modes]
        largest = [
            1 if mode in self.pooled_modes else min(size, prod(kept) // size)
            for mode, size in enumerate(self.shape, 1)
        ]
        return balanced(largest, lambda rank: type(self)(self.shape, rank).size, most)

    @classmethod
    def truncation(cls, weight: np.ndarray, size: Callable[[Rank], int]) -> Callable[[int], Rank]:
        return partial(truncated, mode_spectra(weight), size, useful=_useful)

    def mode_parameter(self, mode: int) -> tuple[str, int]:
        return f"factor{mode}", 0

    def latent(self, parameters: Arrays, x: np.ndarray) -> np.ndarray:
        _, *factors, _ = parameters.values()
        for factor in factors:  # the first mode after the batch is contracted, and put last
            x = np.tensordot(x, factor, axes=(1, 0))
        return x.reshape(len(x), -1)

    def output_map(self, parameters: Arrays) -> np.ndarray:
        core, *_, output = parameters.values()
        return output @ core.reshape(-1, self.rank[-1]).T

    def corrected(self, parameters: Arrays, change: np.ndarray, metric: np.ndarray | None):
        core, *_, output = parameters.values()
        weighted = output.T if metric is None else output.T @ metric
        by_core = np.linalg.lstsq(weighted @ output, weighted @ change, rcond=None)[0]
        return {**parameters, "core": core + by_core.T.reshape(core.shape)}

    def draw(self, name: str, weight_std: float) -> np.ndarray:
        if self.pooled_modes:
            return self._with_pooling(name, lambda name: self._unpooled.draw(name, weight_std))
        return super().draw(name, weight_std)

    @property
    def _components(self) -> int:
        return self.rank[-1]

    def _unit(self, name: str) -> np.ndarray:
        if name == "core":
            *mode_ranks, out_rank = self.rank
            return orthonormal(prod(mode_ranks), out_rank).reshape(self.rank)
        return orthonormal(*self.parameter_shapes[name])

    @property
    def _averaged(self) -> list[int]:
        """Entries of each pooled mode, and 1 for other modes: steps are as after that pooling."""
        return [size if mode in self.pooled_modes else 1 for mode, size in enumerate(self.shape, 1)]

    def scaled_gradients(
        self, F, parameters: Arrays, gradients: Arrays, constant: Callable[[np.ndarray], Any]
    ) -> Arrays:
        core, *factors = parameters.values()
        identities = {r: constant(np.eye(r)) for r in set(self.rank)}
        core = ready(F, core, identities[self.rank[-1]])
        # UkᵀUk + εI. A mode's weight makes its steps those of a dense layer after the pooling.
        grams = [
            gram(F, U, identities[r], weight)
            for U, r, weight in zip(factors, self.rank, self._averaged)
        ]
        inverses = [F.linalg.inverse(UU) for UU in grams]
        scaled = {}
        if "core" in gradients:
            # ΔG = ∂G ×k (UkᵀUk + εI)⁻¹
            scaled["core"] = multiply_modes(F, gradients["core"], inverses)
        # H = G ×k UkᵀUk; then Ck = G(k) H(k)ᵀ (UkᵀUk)⁻¹, and ‖W‖² = ⟨G, H⟩
        H = multiply_modes(F, core, grams)
        damping = squared_norm(F, core, H) * DAMPING
        for mode, (name, r) in enumerate(zip(factor_names(len(factors) - 1), self.rank)):
            if name in gradients:
                # ΔUk = (I − Uk (UkᵀUk)⁻¹ Ukᵀ) ∂Uk (Ck + εI)⁻¹, where (Ck)⁻¹ = UkᵀUk (Ck UkᵀUk)⁻¹
                U, UU, weight = factors[mode], grams[mode], self._averaged[mode]
                unfolded = (F.reshape(tensor, shape=(r, -1)) for tensor in (core, H))
                C = F.dot(*unfolded, transpose_b=True)
                C = add_scaled(F, C, UU, damping * (1 / r), r)
                step = F.dot(gradients[name], F.dot(UU, F.linalg.inverse(C)))
                inverse = inverses[mode]
                if weight > 1:
                    step, inverse = step * (1 / weight), inverse * weight
                if "core" in gradients:  # which is what moves within the span of Uk
                    step = without(F, step, U, inverse)
                scaled[name] = step
            # The next mode comes first.
            core, H = (rotated(F, tensor, identities[r]) for tensor in (core, H))
        return scaled

    def gauge(self, parameters: Arrays) -> dict[str, list[tuple[int, np.ndarray]]]:
        _, *factors = parameters.values()
        # Uk (UkᵀUk)^-½ and G ×k (UkᵀUk)^½
        pairs = [roots(weight * (U.T @ U)) for U, weight in zip(factors, self._averaged)]
        maps = {"core": [(axis, root) for axis, (root, _) in enumerate(pairs)]}
        for name, (_, inverse) in zip(factor_names(len(factors) - 1), pairs):
            maps[name] = [(1, inverse)]
        return maps

    @property
    def dense_shape(self) -> tuple[int, int]:
        return self._unpooled.dense_shape if self.pooled_modes else super().dense_shape

    @property
    def _kept_modes(self) -> list[int]:
        return [mode for mode in range(1, len(self.shape) + 1) if mode not in self.pooled_modes]

    @property
    def _unpooled(self) -> Tucker:
        """The form without the pooled modes: that of the dense layer after the pooling."""
        shape, rank = (
            [of[mode - 1] for mode in self._kept_modes] for of in (self.shape, self.rank)
        )
        return Tucker(tuple(shape), tuple(rank), n_outputs=self.n_outputs)

    def _with_pooling(self, name: str, unpooled) -> np.ndarray:
        """A parameter, from its counterpart ``unpooled(name)`` in :attr:`_unpooled`."""
        if name == "core":
            core = np.zeros(self.rank)
            averages = tuple(
                slice(0, 1) if mode in self.pooled_modes else slice(None)
                for mode in range(1, len(self.shape) + 1)
            )
            core[averages] = unpooled("core").reshape(core[averages].shape)
            return core
        mode = int(name[len("factor") :])
        if mode in self.pooled_modes:
            return averaging(*self.parameter_shapes[name])
        return unpooled(f"factor{self._kept_modes.index(mode) + 1}")


@cache
def _plan(
    shape: tuple[int, ...], rank: tuple[int, ...], reuse: float
) -> tuple[tuple[Step, ...], Step | None, Chain]:
    """Steps over the input's modes; the last of these, where it can be a link; and the chain.

    The links of the chain are that last step, the core and the output's factor.
    """
    *mode_ranks, _ = rank
    *steps, last = plan(shape[:-1], tuple(mode_ranks), reuse)
    edges = (prod(mode_ranks), rank[-1], shape[-1])
    if not last.is_whole:
        return (*steps, last), None, Chain(((), ()), edges)
    return tuple(steps), last, Chain((last.before, (), ()), (1, *edges))


def hooi(weight: np.ndarray, rank: tuple[int, ...]) -> list[np.ndarray]:
    """Core and factors of a Tucker decomposition: truncated mode by mode, then sweeps of HOOI.

    The method of ``tensorly.decomposition.tucker``, but from Gram matrices and without copies of
    the weight: one of a hundred million entries takes half a minute. De Lathauwer et al., *On the
    best rank-1 and rank-(R1, …, RN) approximation of higher-order tensors* (2000); Vannieuwenhoven
    et al., *A new truncation strategy for the higher-order singular value decomposition* (2012).
    """
    order = sorted(range(weight.ndim), key=lambda mode: -weight.strides[mode])  # as in memory
    weight, rank = weight.transpose(order), tuple(rank[mode] for mode in order)
    factors: dict[int, np.ndarray] = {}
    core = weight
    for mode in sorted(range(weight.ndim), key=lambda mode: weight.shape[mode]):
        factors[mode] = _mode_vectors(core, mode, rank[mode])
        core = _project(core, mode, factors[mode])
    for _ in range(_HOOI_SWEEPS if rank != weight.shape else 0):
        for mode in factors:
            core = weight
            for other in factors:
                core = core if other == mode else _project(core, other, factors[other])
            factors[mode] = _mode_vectors(core, mode, rank[mode])
        core = _project(core, mode, factors[mode])
    places = np.argsort(order)
    return [core.transpose(places), *(factors[place] for place in places)]


def _mode_vectors(tensor: np.ndarray, mode: int, count: int) -> np.ndarray:
    """Leading left singular vectors of a mode's unfolding; unit vectors where all are wanted."""
    size = tensor.shape[mode]
    if count == size:
        return np.eye(size, dtype=tensor.dtype)
    samples = tensor.reshape(prod(tensor.shape[:mode]), size, -1)
    if size > samples.size // size:
        unfolded = samples.transpose(1, 0, 2).reshape(size, -1)
        vectors = leading_vectors(unfolded, count)
        return np.linalg.qr(vectors)[0]  # orthonormal where some are random
    gram = np.zeros((size, size))
    axis = 0 if len(samples) > 1 else 2
    for part in np.array_split(samples, ceil(samples.size / _SLAB), axis):
        unfolded = part.transpose(1, 0, 2).reshape(size, -1).astype("float64")
        gram += unfolded @ unfolded.T
    return np.linalg.eigh(gram)[1][:, : -count - 1 : -1].astype(tensor.dtype)


def _project(tensor: np.ndarray, mode: int, factor: np.ndarray) -> np.ndarray:
    """X ×k Uᵀ."""
    shape = tensor.shape
    # (before, Ik, after) -> (before, Rk, after)
    samples = tensor.reshape(prod(shape[:mode]), shape[mode], -1)
    projected = samples[:, :, 0] @ factor if samples.shape[2] == 1 else factor.T @ samples
    return projected.reshape(*shape[:mode], factor.shape[1], *shape[mode + 1 :])


def _useful(rank: tuple[int, ...]) -> tuple[int, ...]:
    """Ranks of which none is above the product of the others: its unfolding has no more rows."""
    return tuple(min(r, prod(rank) // r) for r in rank)
