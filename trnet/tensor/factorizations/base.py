"""What every low-rank form of a weight W (I1, …, IN, O) has.

Modes are counted from 1; the last mode, N + 1, is that of the output. Where the output is a tensor,
W is (I1, …, IN, O1, …, OM), and the last M modes are its. The parameters live in the layer and are
passed in as a dict by name, in the order of the formula.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from numbers import Integral, Real
from typing import Any, ClassVar, NoReturn, Union

import numpy as np

from trnet.savings import most_weights
from trnet.tensor.contraction import Product
from trnet.tensor.plan import TRAINING, Step
from trnet.tensor.scaling import TINY, mapped, singular_values

Rank = Union[int, float, str, tuple]
Arrays = dict  # name of a parameter -> array


class Factorization(ABC):
    """A weight (I1, …, IN, O) in a low-rank form.

    Parameters
    ----------
    shape : tuple of int
        (I1, …, IN, O).
    rank : int, float, str, dict or tuple of int
        As the form has it; a float in (0, 1] is that fraction of the full weight's parameters, and
        ``"same"`` is 1.0; ``{"savings": s}`` saves the share s of the dense weight's.
    pooled_modes : tuple of int
        Modes that average pooling stood for, where the form ``supports_pooling``: their parameters
        start with that average, and :meth:`decompose` takes a weight without these modes.
    n_outputs : int
        M, the number of output modes. :meth:`products` and :meth:`steps` are for one: a form with
        several is computed as its :attr:`joined` form.

    Attributes
    ----------
    title : str
        The form's name in tables and plots. (Of the class.)
    rank_form : str
        What an exact rank is, for messages. (Of the class.)
    supports_pooling : bool
        (Of the class.)
    shape : tuple of int
    rank : int or tuple of int
        Exact, also where a fraction was given.
    pooled_modes : tuple of int
        In ascending order.
    parameter_shapes : dict of str to tuple of int
        Shape of each parameter by its name, in the order of the formula.
    joined : Factorization
        The form of the same weight with its output modes as one, (I1, …, IN, O1·…·OM): itself,
        where there is one.

    Raises
    ------
    ValueError
        For a rank that this shape cannot have; the message names the mode and what was expected.
    """

    title: ClassVar[str]
    rank_form: ClassVar[str]
    supports_pooling: ClassVar[bool] = False
    supports_lasso: ClassVar[bool] = False

    def __init__(
        self,
        shape: tuple[int, ...],
        rank: Rank,
        pooled_modes: tuple[int, ...] = (),
        n_outputs: int = 1,
    ) -> None:
        self.shape, self.n_outputs = tuple(shape), n_outputs
        n_modes = len(self.shape) - n_outputs
        if pooled_modes and not self.supports_pooling:
            raise ValueError(
                f"pooled_modes: expected none for this factorization, {self.title}, "
                f"got {pooled_modes!r}"
            )
        if not all(is_integer(mode) and 1 <= mode <= n_modes for mode in pooled_modes):
            raise ValueError(
                f"pooled_modes: expected modes from 1, the first after the batch, to {n_modes}, "
                f"got {pooled_modes!r}"
            )
        self.pooled_modes = tuple(sorted(set(pooled_modes)))
        fraction, savings = _fraction(rank), _savings(rank)
        if savings is not None:
            self.rank = self._exact_rank(self._rank_saving(savings))
        else:
            self.rank = self._exact_rank(rank) if fraction is None else self._rank_of(fraction)
        self.joined = self
        if n_outputs > 1:
            joined_shape = (*self.shape[:n_modes], prod(self.shape[n_modes:]))
            self.joined = type(self)(joined_shape, self._joined_rank, self.pooled_modes)

    @staticmethod
    @abstractmethod
    def parameter_names(n_modes: int) -> list[str]:
        """Names of the parameters for a weight of order N + 1."""

    @classmethod
    def of_shapes(cls, shapes: Sequence[tuple[int, ...]]) -> Factorization | None:
        """The form whose parameters have these shapes, in their order, if that can be told."""
        return None

    @classmethod
    def scale_name(cls, n_modes: int) -> str:
        """The parameter that starts with the weight's scale: weight decay is for it alone."""
        return cls.parameter_names(n_modes)[-1]

    @staticmethod
    @abstractmethod
    def is_rank(rank: Rank) -> bool:
        """Whether a value has the structure of an exact rank: :attr:`rank_form`."""

    @staticmethod
    @abstractmethod
    def input_modes(rank: Rank) -> int | None:
        """N, for a weight of order N + 1, inferred from a rank; None where that is not possible."""

    @property
    @abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]: ...

    @abstractmethod
    def _exact_rank(self, rank: Rank) -> int | tuple[int, ...]:
        """A rank that was checked against the shape; ValueError for any other."""

    @abstractmethod
    def _rank_of(self, fraction: float) -> int | tuple[int, ...]:
        """The rank at which the form has this fraction of the full weight's parameters."""

    def _rank_saving(self, savings: float) -> Rank:
        """The rank that saves so much of the dense weight, and keeps like shares of all modes."""
        kept = [n for mode, n in enumerate(self.shape, 1) if mode not in self.pooled_modes]
        try:
            return self._balanced_rank(most_weights(savings, prod(kept)))
        except ValueError as error:
            raise ValueError(f"rank: savings of {savings:g}: {error}") from None

    def _balanced_rank(self, most: int) -> Rank:
        """The rank of at most ``most`` parameters that keeps like shares of all modes."""
        raise ValueError(f"{self.title} has no rule that chooses a rank; give one")

    @property
    def _joined_rank(self) -> Rank:
        """The rank of :attr:`joined`, where there are several output modes."""
        raise ValueError(f"units: expected an integer for {self.title}, got a tensor's shape")

    def join(self, F, parameters: Arrays) -> Arrays:
        """The parameters of :attr:`joined`, of arrays or symbols."""
        if self.n_outputs == 1:
            return parameters
        arrays = list(parameters.values())
        joined = self._join(F, arrays[: -self.n_outputs], arrays[-self.n_outputs :])
        return dict(zip(self.joined.parameter_shapes, joined))

    def _join(self, F, inputs: list, outputs: list) -> list:
        """The same, of the parameters before those of the output modes, and of these."""
        raise NotImplementedError

    @abstractmethod
    def steps(self, reuse: float = TRAINING) -> tuple[Step, ...]:
        """The steps of :meth:`products`, from the shapes alone."""

    @abstractmethod
    def products(self, F, parameters: Arrays, reuse: float = TRAINING) -> list[Product]:
        """The products of ⟨X, W⟩_N, which never rebuild W; of arrays or symbols."""

    @property
    @abstractmethod
    def latent_modes(self) -> list[tuple[str, int, int]]:
        """The latent space's modes, each as a parameter, its axis along the mode, and the rank.

        Pooled modes are left out: until they are trained, they carry one component only.
        """

    @property
    def bonds(self) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        """For each of the rank's numbers, the two parameters that share an axis of this size.

        Each with the axis; the second is nearer to the parameter with W's scale.
        """
        self._refuse_lasso()

    def bond_grams(self, parameters: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each bond, the Gram matrices (r, r) of the two sides of W that it joins.

        Pooled modes count as one entry, as after the pooling.
        """
        self._refuse_lasso()

    def _refuse_lasso(self) -> NoReturn:
        raise ValueError(f"{self.title} does not say what the components of its rank are")

    def shrunk(self, parameters: Arrays, amount: float) -> Arrays:
        """Parameters of W with the singular values at each bond smaller by an amount, to zero.

        That is the proximal step for a penalty on the nuclear norms of the unfoldings of W that the
        rank bounds. Where the rank is a number of terms, their norms get smaller.
        """
        shrunk = dict(parameters)
        for (_, (name, axis)), grams in zip(self.bonds, self.bond_grams(parameters)):
            values, directions, root, inverse = singular_values(*grams)
            shares = np.maximum(1 - amount / np.maximum(values, TINY), 0.0)
            projection = inverse @ (directions * shares) @ directions.T @ root
            shrunk[name] = mapped(shrunk[name], [(axis, projection.T)])
        return shrunk

    def rounded(self, parameters: Arrays, tolerance: float) -> tuple[Rank, Arrays]:
        """The least rank, and its parameters, of W without its smallest singular values.

        Those below the tolerance times the largest one of their bond, but one at least. The others
        stay, and so W does, nearly.
        """
        rounded, rank = dict(parameters), []
        for ends, grams in zip(self.bonds, self.bond_grams(parameters)):
            values, directions, root, inverse = singular_values(*grams)
            kept = directions[:, is_kept(values, tolerance)]
            rank.append(kept.shape[1])
            for (name, axis), side in zip(ends, (inverse, root)):
                rounded[name] = mapped(rounded[name], [(axis, side @ kept)])
        return tuple(rank), rounded

    @abstractmethod
    def reconstruct(self, tl, parameters: Arrays):
        """The full weight (I1, …, IN, O), inside :func:`~trnet.tensor.backend.tensorly_scope`."""

    @abstractmethod
    def decompose(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters closest to a full weight (I1, …, IN, O); exact at full rank."""

    @classmethod
    def truncation(cls, weight: np.ndarray, size: Callable[[Rank], int]) -> Callable[[int], Rank]:
        """For at most some parameters, the rank that loses least of a weight; see :mod:`.ranks`.

        Parameters
        ----------
        weight : array
            W (I1, …, IN, O).
        size : callable
            The number of parameters at a rank.

        Returns
        -------
        callable
            The rank for a number of parameters; ValueError if even the lowest rank has more.

        Raises
        ------
        ValueError
            If the form has no such rule.
        """
        raise ValueError(f"{cls.title} has no rule that chooses a rank; give one")

    def _refuse_data(self) -> NoReturn:
        raise ValueError(f"data: expected none, since {self.title} has no fit to data")

    def mode_parameter(self, mode: int) -> tuple[str, int]:
        """The parameter with mode ``mode`` of W, from 1, and its axis; for a fit to data."""
        self._refuse_data()

    def latent(self, parameters: Arrays, x: np.ndarray) -> np.ndarray:
        """Latent features (batch, L) of samples (batch, I1, …, IN), which the last map takes."""
        self._refuse_data()

    def output_map(self, parameters: Arrays) -> np.ndarray:
        """The last map (O, L), from the latent features to the outputs."""
        self._refuse_data()

    def corrected(self, parameters: Arrays, change: np.ndarray, metric: np.ndarray | None):
        """Parameters whose last map is changed by (O, L), as closely as the form allows.

        Closely in the ``metric`` (O, O) of the outputs, where one is given.
        """
        self._refuse_data()

    def scaled_gradients(
        self, F, parameters: Arrays, gradients: Arrays, constant: Callable[[np.ndarray], Any]
    ) -> Arrays:
        """Gradients whose step moves W, to first order, as a dense layer's gradient does.

        That is, by the dense gradient's projection on what the form can express. A form that
        defines no scaling gives its gradients back.

        Parameters
        ----------
        F : module
            ``mxnet.nd`` or ``mxnet.sym``.
        parameters : dict of str to array
            Values of all parameters, by name, in the order of the formula.
        gradients : dict of str to array
            Of those parameters that are trained.
        constant : callable
            Makes an array or symbol of a NumPy array, in the dtype of the parameters.

        Returns
        -------
        dict of str to array
            For each of ``gradients``.
        """
        return gradients

    def gauge(self, parameters: Arrays) -> dict[str, list[tuple[int, np.ndarray]]]:
        """Maps of axes that make the factors orthonormal again, and keep W: see :mod:`.scaling`.

        A form that defines no scaling of gradients has none.

        Parameters
        ----------
        parameters : dict of str to array
            Finite values of all parameters, by name, in the order of the formula.

        Returns
        -------
        dict of str to list of tuple
            By name: axes, each with a matrix (R, R) that multiplies it.
        """
        return {}

    @property
    @abstractmethod
    def _components(self) -> int:
        """Squared norm of the weight that :meth:`_unit`'s parameters make."""

    @abstractmethod
    def _unit(self, name: str) -> np.ndarray:
        """Random values of a parameter: orthonormal, as a matrix from its inputs to its outputs."""

    def draw(self, name: str, weight_std: float) -> np.ndarray:
        """Initial values of a parameter, drawn by MXNet's generator.

        The full weight then has the root mean square ``weight_std``. Its scale is in one parameter,
        :meth:`scale_name`; all others are orthonormal.
        """
        if name != self.scale_name(len(self.shape) - 1):
            return self._unit(name)
        return self._unit(name) * weight_std * np.sqrt(prod(self.shape) / self._components)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(prod(shape) for shape in self.parameter_shapes.values())

    @property
    def dense_shape(self) -> tuple[int, int]:
        """Shape (O, I1·…·IN) of the weight of the dense layer that this form replaces."""
        n_modes = len(self.shape) - self.n_outputs
        return prod(self.shape[n_modes:]), prod(self.shape[:n_modes])


def factor_names(n_modes: int) -> list[str]:
    """factor1, …, factor(N+1)."""
    return [f"factor{mode}" for mode in range(1, n_modes + 2)]


def is_integer(value) -> bool:
    """Whether a value is a whole number of any type; a bool is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_positive(value) -> bool:
    """Whether a value is an integer ≥ 1."""
    return is_integer(value) and value >= 1


def are_positive(values) -> bool:
    """Whether a value is a list of integers ≥ 1."""
    return isinstance(values, (tuple, list)) and len(values) > 0 and all(map(is_positive, values))


def check_ranks(rank: Rank, length: int, form: str) -> tuple:
    """Refuse a rank that is not a list of so many integers."""
    if not isinstance(rank, (tuple, list)) or len(rank) != length:
        raise ValueError(f"rank: expected {form}: {length} integers here, got {rank!r}")
    return tuple(rank)


def check_rank(rank: int, bound: int, where: str) -> None:
    """Refuse a rank that is not an integer from 1 to its bound; ``where`` it stands is named."""
    if not is_integer(rank) or not 1 <= rank <= bound:
        raise ValueError(f"rank for {where}: expected an integer from 1 to {bound}, got {rank!r}")


def _savings(rank: Rank) -> float | None:
    """The space savings that a rank asks for, if it is {"savings": …}."""
    if not isinstance(rank, dict):
        return None
    if not is_savings(rank):
        raise ValueError(
            "rank: expected {'savings': a share from 0 to below 1} for a rank by its savings, "
            f"got {rank!r}"
        )
    return float(rank["savings"])


def is_savings(rank: Rank) -> bool:
    """Whether a rank is a mapping {"savings": a share from 0 to below 1}."""
    if not isinstance(rank, dict) or list(rank) != ["savings"]:
        return False
    share = rank["savings"]
    return isinstance(share, Real) and not isinstance(share, bool) and 0 <= share < 1


def _fraction(rank: Rank) -> float | None:
    """The fraction of the full weight's parameters that a rank asks for, if it is one."""
    if isinstance(rank, str):
        if rank != "same":
            raise ValueError(f"rank: expected 'same' for a rank by name, got {rank!r}")
        return 1.0
    if isinstance(rank, Real) and not isinstance(rank, (Integral, bool)):
        if not 0 < rank <= 1:
            raise ValueError(
                "rank: expected a fraction of the full weight's parameters, in (0, 1], for a rank "
                f"as a float, got {rank!r}"
            )
        return float(rank)
    return None


def is_kept(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Which values are above the tolerance times the largest; that one always."""
    return (values > tolerance * values.max()) | (np.arange(len(values)) == values.argmax())
