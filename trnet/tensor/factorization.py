"""Low-rank forms of a weight tensor (I1, …, IN, O): Tucker, CP and tensor train.

A factorisation knows its shapes, its rank and its count of parameters, how to start, and how to
decompose and rebuild a weight through TensorLy. The parameters themselves live in the layer and
are passed in, as a dict by name. Adding a factorisation is one class and a line in
:data:`FACTORIZATIONS`.

Modes are counted from 1; the last mode, N + 1, is that of the output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import ceil, prod
from numbers import Integral, Real
from typing import Union

import numpy as np

from trnet.tensor import contraction
from trnet.tensor.backend import mx, tensorly_scope

Rank = Union[int, float, str, tuple]
Arrays = dict  # name of a parameter -> array

_ALS_SWEEPS = 300
_HOOI_SWEEPS = 1  # the second one gains less than a thousandth of the error
_SLAB = 2**22  # elements of a tensor that are unfolded at a time


class Factorization(ABC):
    """A weight (I1, …, IN, O) in a low-rank form.

    Parameters
    ----------
    shape : tuple of int
        (I1, …, IN, O).
    rank : int, float, str or tuple of int
        As the form has it; a float in (0, 1] is that fraction of the full weight's parameters and
        ``"same"`` is 1.0.

    Attributes
    ----------
    shape : tuple of int
    rank : int or tuple of int
        Exact, whatever it was given as.
    parameter_shapes : dict of str to tuple of int
        Shape of each parameter by its name, in the order of the formula.

    Raises
    ------
    ValueError
        For a rank that this shape cannot have; the message names the mode and what would fit.
    """

    def __init__(self, shape: tuple[int, ...], rank: Rank) -> None:
        self.shape = tuple(shape)
        fraction = _fraction(rank)
        self.rank = self._exact_rank(rank) if fraction is None else self._rank_of(fraction)

    @staticmethod
    @abstractmethod
    def parameter_names(n_modes: int) -> list[str]:
        """Names of the parameters for N input modes."""

    @staticmethod
    @abstractmethod
    def input_modes(rank: Rank) -> int | None:
        """The number N of input modes that a rank tells, or None where it does not."""

    @property
    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]: ...

    @abstractmethod
    def _exact_rank(self, rank: Rank) -> int | tuple[int, ...]: ...

    @abstractmethod
    def _rank_of(self, fraction: float) -> int | tuple[int, ...]: ...

    @property
    @abstractmethod
    def steps(self) -> tuple[contraction.Step, ...]:
        """The steps of :meth:`products`, for :func:`~trnet.tensor.contraction.explain`."""

    @abstractmethod
    def products(self, F, parameters: Arrays, reuse: float) -> list[contraction.Product]:
        """What :func:`~trnet.tensor.contraction.contract` makes ⟨X, W⟩_N of."""

    @property
    @abstractmethod
    def latent_modes(self) -> list[tuple[str, int, int]]:
        """The latent space's modes: of each a parameter, its axis along it, and its rank.

        Pooled modes are left out: until they are trained, all that leaves them is one component.
        """

    @abstractmethod
    def reconstruct(self, tl, parameters: Arrays):
        """The full weight (I1, …, IN, O), inside :func:`tensorly_scope`."""

    @abstractmethod
    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters closest to a full weight (I1, …, IN, O); exact at full rank."""

    @property
    @abstractmethod
    def _components(self) -> int:
        """Squared norm of the weight that :meth:`_unit` makes: what leaves the latent space."""

    @abstractmethod
    def _unit(self, name: str) -> np.ndarray:
        """Random values of a parameter, orthonormal, as a matrix from its inputs to its outputs."""

    def draw(self, name: str, weight_std: float) -> np.ndarray:
        """Initial values of a parameter, drawn by MXNet's generator.

        Drawn so that the full weight's root mean square is ``weight_std``, with an even share of
        the scale for every parameter: of all ways to share it out, the one in which a step of SGD
        moves the full weight least.
        """
        scale = weight_std * np.sqrt(prod(self.shape) / self._components)
        names = list(self.parameter_shapes)
        return self._unit(name) * share_of_scale(scale, len(names), name == names[-1])

    @property
    def size(self) -> int:
        """Count of parameters."""
        return sum(prod(shape) for shape in self.parameter_shapes.values())

    @property
    def dense_shape(self) -> tuple[int, int]:
        """Shape (O, I1·…·IN) of the dense layer's weight that this one stands for."""
        return self.shape[-1], prod(self.shape[:-1])


class Tucker(Factorization):
    """W = G ×1 U1 ×2 U2 … ×(N+1) U(N+1), with rank (R1, …, R(N+1)).

    Parameters: ``core`` G (R1, …, R(N+1)) and ``factor1`` … Uk (Ik, Rk), the last of shape
    (O, R(N+1)). Kossaifi et al., Tensor Regression Networks (arXiv 1707.08308).

    Parameters
    ----------
    shape, rank
        As in :class:`Factorization`.
    pooled_modes : tuple of int
        Modes that average pooling stood for: their factors start with that average, and
        :meth:`decompose` takes a weight without them.
    """

    def __init__(
        self, shape: tuple[int, ...], rank: Rank, pooled_modes: tuple[int, ...] = ()
    ) -> None:
        super().__init__(shape, rank)
        n_modes = len(self.shape) - 1
        if not all(is_integer(mode) and 1 <= mode <= n_modes for mode in pooled_modes):
            raise ValueError(
                f"pooled_modes {pooled_modes!r} do not fit: modes count from 1, the first behind "
                f"the batch, to {n_modes}"
            )
        self.pooled_modes = tuple(sorted(set(pooled_modes)))

    @staticmethod
    def parameter_names(n_modes: int) -> list[str]:
        return ["core", *_factor_names(n_modes)]

    @staticmethod
    def input_modes(rank: Rank) -> int | None:
        return len(rank) - 1 if isinstance(rank, (tuple, list)) else None

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        factors = dict(zip(_factor_names(len(self.shape) - 1), zip(self.shape, self.rank)))
        return {"core": self.rank, **factors}

    def _exact_rank(self, rank: Rank) -> tuple[int, ...]:
        ranks = _ranks(rank, len(self.shape), "(R1, …, RN, Rout), one for each mode and the output")
        for mode, (r, size) in enumerate(zip(ranks, self.shape), start=1):
            where = f"mode {mode}" if mode < len(self.shape) else "the output"
            check_rank(r, size, where)
        return tuple(map(int, ranks))

    def _rank_of(self, fraction: float) -> tuple[int, ...]:
        from tensorly.tucker_tensor import validate_tucker_rank

        return tuple(validate_tucker_rank(self.shape, fraction))

    @property
    def steps(self) -> tuple[contraction.Step, ...]:
        return contraction.tucker_steps(self.shape, self.rank)

    def products(self, F, parameters: Arrays, reuse: float) -> list[contraction.Product]:
        core, *factors = parameters.values()
        return contraction.tucker_products(F, core, factors, self.shape, self.rank, reuse)

    @property
    def latent_modes(self) -> list[tuple[str, int, int]]:
        return [(f"factor{mode}", 1, self.rank[mode - 1]) for mode in self._kept_modes]

    def reconstruct(self, tl, parameters: Arrays):
        core, *factors = parameters.values()
        return tl.tucker_to_tensor((core, factors))

    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        if self.pooled_modes:
            unpooled = self._unpooled.decompose(weight)
            return {name: self._with_pooling(name, unpooled.get) for name in self.parameter_shapes}
        return dict(zip(self.parameter_shapes, _tucker(weight, self.rank)))

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
    def dense_shape(self) -> tuple[int, int]:
        if self.pooled_modes:
            return self._unpooled.dense_shape
        return super().dense_shape

    @property
    def _kept_modes(self) -> list[int]:
        return [mode for mode in range(1, len(self.shape) + 1) if mode not in self.pooled_modes]

    @property
    def _unpooled(self) -> Tucker:
        """The same form without the pooled modes: that of the dense layer behind the pooling."""
        shape, rank = (
            [of[mode - 1] for mode in self._kept_modes] for of in (self.shape, self.rank)
        )
        return Tucker(tuple(shape), tuple(rank))

    def _with_pooling(self, name: str, unpooled) -> np.ndarray:
        """A parameter from its counterpart, ``unpooled(name)``, in :attr:`_unpooled`."""
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
            return _averaging(*self.parameter_shapes[name])
        return unpooled(f"factor{self._kept_modes.index(mode) + 1}")


class CP(Factorization):
    """W = Σr u1r ∘ … ∘ uNr ∘ u(N+1)r, with rank R: the number of terms.

    Parameters: ``factor1`` … Uk (Ik, R), the last of shape (O, R).
    """

    @staticmethod
    def parameter_names(n_modes: int) -> list[str]:
        return _factor_names(n_modes)

    @staticmethod
    def input_modes(rank: Rank) -> int | None:
        return None

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: (size, self.rank)
            for name, size in zip(_factor_names(len(self.shape) - 1), self.shape)
        }

    def _exact_rank(self, rank: Rank) -> int:
        if not is_integer(rank) or rank < 1:
            raise ValueError(
                f"a CP rank is one integer of at least 1, the number of terms; got {rank!r}"
            )
        return int(rank)

    def _rank_of(self, fraction: float) -> int:
        from tensorly.cp_tensor import validate_cp_rank

        return max(1, validate_cp_rank(self.shape, fraction))

    @property
    def steps(self) -> tuple[contraction.Step, ...]:
        return contraction.cp_steps(self.shape, self.rank)

    def products(self, F, parameters: Arrays, reuse: float) -> list[contraction.Product]:
        factors = list(parameters.values())
        return contraction.cp_products(F, factors, self.shape, self.rank, reuse)

    @property
    def latent_modes(self) -> list[tuple[str, int, int]]:
        return [(list(self.parameter_shapes)[-1], 1, self.rank)]

    def reconstruct(self, tl, parameters: Arrays):
        return tl.cp_to_tensor((None, list(parameters.values())))

    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        weight = weight.astype("float64", copy=False)
        return dict(zip(self.parameter_shapes, self._exact_terms(weight) or self._fit(weight)))

    def _exact_terms(self, weight: np.ndarray) -> list[np.ndarray] | None:
        """A term for each fibre along the longest mode, where the rank allows that many."""
        longest = int(np.argmax(self.shape))
        others = [size for mode, size in enumerate(self.shape) if mode != longest]
        n_fibres = prod(others)
        if self.rank < n_fibres:
            return None
        factors = [np.zeros((size, self.rank)) for size in self.shape]
        factors[longest][:, :n_fibres] = np.moveaxis(weight, longest, 0).reshape(-1, n_fibres)
        positions = iter(np.indices(others).reshape(len(others), -1))
        for mode in range(len(self.shape)):
            if mode != longest:
                factors[mode][next(positions), np.arange(n_fibres)] = 1
        return factors

    def _fit(self, weight: np.ndarray) -> list[np.ndarray]:
        """Alternating least squares from the leading singular vectors of each unfolding."""
        if not weight.any():
            return [np.zeros((size, self.rank)) for size in self.shape]
        start = [
            _leading_vectors(np.moveaxis(weight, mode, 0).reshape(size, -1), self.rank)
            for mode, size in enumerate(self.shape)
        ]
        # Thousands of small steps: ten times faster without MXNet's cost of launching each.
        with tensorly_scope("numpy") as tl:
            from tensorly.decomposition import parafac

            init = (tl.ones(self.rank), start)
            _, factors = parafac(
                weight,
                self.rank,
                n_iter_max=_ALS_SWEEPS,
                init=init,
                tol=1e-9,
                l2_reg=1e-12 * np.sum(weight**2),  # or a weight of low rank is a singular system
            )
        # An even share for every factor, so that each learns at the same rate.
        norms = [np.linalg.norm(factor, axis=0) for factor in factors]
        share = np.prod(norms, axis=0) ** (1 / len(factors))
        return [f * (share / np.where(n > 0, n, 1)) for f, n in zip(factors, norms)]

    @property
    def _components(self) -> int:
        return self.rank

    def _unit(self, name: str) -> np.ndarray:
        return orthonormal(*self.parameter_shapes[name])


class TensorTrain(Factorization):
    """W(i1, …, iN, o) = G1(i1) G2(i2) ⋯ GN(iN) G(N+1)(o), with the inner ranks (r1, …, rN).

    Parameters: ``core1`` … Gk (r(k-1), Ik, rk), with r0 = r(N+1) = 1.
    """

    @staticmethod
    def parameter_names(n_modes: int) -> list[str]:
        return [f"core{mode}" for mode in range(1, n_modes + 2)]

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
        ranks = _ranks(rank, len(self.shape) - 1, "(r1, …, rN), a tensor train's inner ranks")
        for mode, (r, bound) in enumerate(zip(ranks, self._largest_ranks), start=1):
            check_rank(r, bound, f"the cut behind mode {mode}")
        return tuple(map(int, ranks))

    def _rank_of(self, fraction: float) -> tuple[int, ...]:
        from tensorly.cp_tensor import validate_cp_rank
        from tensorly.tt_tensor import validate_tt_rank

        if len(self.shape) == 2:  # of a matrix a train is a product of two, as CP is
            ranks = (validate_cp_rank(self.shape, fraction),)
        else:
            ranks = validate_tt_rank(self.shape, fraction)[1:-1]
        return tuple(max(1, min(int(r), bound)) for r, bound in zip(ranks, self._largest_ranks))

    @property
    def steps(self) -> tuple[contraction.Step, ...]:
        return contraction.tensor_train_steps(self.shape, self.rank)

    def products(self, F, parameters: Arrays, reuse: float) -> list[contraction.Product]:
        cores = list(parameters.values())
        return contraction.tensor_train_products(F, cores, self.shape, self.rank, reuse)

    @property
    def latent_modes(self) -> list[tuple[str, int, int]]:
        return [(name, 2, r) for name, r in zip(self.parameter_shapes, self.rank)]

    def reconstruct(self, tl, parameters: Arrays):
        return tl.tt_to_tensor(list(parameters.values()))

    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        with tensorly_scope() as tl:
            from tensorly.decomposition import tensor_train

            train = tensor_train(
                tl.tensor(weight.astype("float64", copy=False)), rank=[1, *self.rank, 1]
            )
            cores = [core.asnumpy() for core in train]
        return dict(zip(self.parameter_shapes, cores))

    @property
    def _components(self) -> int:
        return self.rank[-1]

    def _unit(self, name: str) -> np.ndarray:
        before, size, after = self.parameter_shapes[name]
        if name == list(self.parameter_shapes)[-1]:
            return orthonormal(size, before).T.reshape(before, size, after)
        return orthonormal(before * size, after).reshape(before, size, after)


FACTORIZATIONS: dict[str, type[Factorization]] = {
    "tucker": Tucker,
    "cp": CP,
    "tensor_train": TensorTrain,
}


def _factor_names(n_modes: int) -> list[str]:
    return [f"factor{mode}" for mode in range(1, n_modes + 2)]


def is_integer(value) -> bool:
    """Whether a value is a whole number of any type; a bool is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _fraction(rank: Rank) -> float | None:
    """The fraction of the full weight's parameters that a rank asks for, if it is one."""
    if isinstance(rank, str):
        if rank != "same":
            raise ValueError(f"the only rank by name is 'same'; got {rank!r}")
        return 1.0
    if isinstance(rank, Real) and not isinstance(rank, (Integral, bool)):
        if not 0 < rank <= 1:
            raise ValueError(
                "a rank as a float is a fraction of the full weight's parameters, in (0, 1]; "
                f"got {rank!r}"
            )
        return float(rank)
    return None


def _ranks(rank: Rank, length: int, form: str) -> tuple:
    if not isinstance(rank, (tuple, list)) or len(rank) != length:
        raise ValueError(f"rank has to be {form}: {length} integers here; got {rank!r}")
    return tuple(rank)


def check_rank(rank: int, bound: int, where: str) -> None:
    """Refuse a rank that is not an integer from 1 to its bound, by where it stands."""
    if not is_integer(rank) or not 1 <= rank <= bound:
        raise ValueError(
            f"rank {rank!r} for {where} does not fit: an integer from 1 to {bound} does"
        )


def share_of_scale(scale: float, n_parameters: int, is_last: bool) -> float:
    """An even share of a product's scale; 0 is the last one's alone, or nothing would learn."""
    if scale == 0:
        return 0.0 if is_last else 1.0
    return scale ** (1 / n_parameters)


def _normal(shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values from MXNet's generator, so that ``mx.random.seed`` rules them."""
    return mx.nd.random.normal(shape=shape, ctx=mx.cpu(), dtype="float64").asnumpy()


def orthonormal(rows: int, columns: int) -> np.ndarray:
    """Random unit columns, orthogonal to one another in blocks of ``rows``."""
    blocks = [
        np.linalg.qr(_normal((rows, min(rows, columns - begin))))[0]
        for begin in range(0, columns, rows)
    ]
    return np.concatenate(blocks, axis=1)


def _tucker(weight: np.ndarray, rank: tuple[int, ...]) -> list[np.ndarray]:
    """Core and factors of a Tucker decomposition: truncated mode by mode, then sweeps of HOOI.

    As ``tensorly.decomposition.tucker`` does it, but from Gram matrices and without copies of the
    weight: one of a hundred million entries takes half a minute. De Lathauwer et al., *On the best
    rank-1 and rank-(R1, …, RN) approximation of higher-order tensors* (2000); Vannieuwenhoven et
    al., *A new truncation strategy for the higher-order singular value decomposition* (2012).
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
    """Leading left singular vectors of a mode's unfolding; unit vectors where all are asked for."""
    size = tensor.shape[mode]
    if count == size:
        return np.eye(size, dtype=tensor.dtype)
    samples = tensor.reshape(prod(tensor.shape[:mode]), size, -1)
    if size > samples.size // size:
        unfolded = samples.transpose(1, 0, 2).reshape(size, -1)
        vectors = _leading_vectors(unfolded, count)
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
    samples = tensor.reshape(prod(shape[:mode]), shape[mode], -1)
    projected = samples[:, :, 0] @ factor if samples.shape[2] == 1 else factor.T @ samples
    return projected.reshape(*shape[:mode], factor.shape[1], *shape[mode + 1 :])


def _leading_vectors(matrix: np.ndarray, count: int) -> np.ndarray:
    """Left singular vectors by their singular values, and random ones where they are too few."""
    vectors = np.linalg.svd(matrix, full_matrices=False)[0][:, :count]
    missing = count - vectors.shape[1]
    return np.hstack([vectors, _normal((len(matrix), missing))]) if missing else vectors


def _averaging(rows: int, columns: int) -> np.ndarray:
    """A first column that averages, and random unit columns orthogonal to it."""
    ones = np.ones((rows, 1))
    columns = np.linalg.qr(np.hstack([ones, _normal((rows, columns))[:, 1:]]))[0]
    return np.hstack([ones / rows, columns[:, 1:]])
