"""The tensor regression layer: Y = ⟨X, W⟩_N + b, where Y may be a tensor, too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from numbers import Real

import numpy as np
from mxnet.gluon import nn

from trnet.layers.block import TensorBlock, shape_text, values_of
from trnet.tensor import fitting
from trnet.tensor.backend import as_numpy, mx
from trnet.tensor.contraction import Product
from trnet.tensor.factorizations import (
    DEFAULT,
    FACTORIZATIONS,
    Factorization,
    Rank,
    are_positive,
    is_positive,
)
from trnet.tensor.fitting import Fit
from trnet.tensor.initial import dense_std
from trnet.tensor.plan import Step

_ROUNDING = 1e-5  # of the largest singular value: float32 holds no smaller ones
_MXNET_MODES = 6  # that MXNet transposes
_LENGTH = "_length"  # ends the name of a factor's lengths
# With fewer components, dropout too often leaves none, or one that is rescaled to stand for all.
_SMALLEST_RANK_DROPPED = 4


class TRL(TensorBlock):
    r"""Tensor regression layer: Y = ⟨X, W⟩_N + b, with a low-rank weight W (I1, …, IN, O).

    Takes the place of flattening (or average pooling) and a dense layer together. Kossaifi et al.,
    *Tensor Regression Networks* (arXiv 1707.08308), with W in Tucker form; CP and tensor train
    as in Cao and Rabusseau (arXiv 1712.09520). Train it with :class:`trnet.Trainer`, which lets it
    learn at the dense layer's learning rate.

    Parameters
    ----------
    units : int or tuple of int
        O, the number of outputs; or (O1, …, OM) for outputs that are tensors, with a weight
        (I1, …, IN, O1, …, OM) and a rank for as many modes.
    rank : tuple of int, int, dict, float or "same"
        Tucker: (R1, …, RN, Rout). CP: an int. Tensor train: the inner ranks (r1, …, rN).
        ``{"savings": s}`` is the largest rank that saves the share s of the dense layer's weights,
        with like shares of all modes. A float in (0, 1] means about that fraction of the full
        weight's parameters, as TensorLy's ``validate_*_rank`` find it (less for tensor trains,
        whose ranks are bounded), and ``"same"`` means 1.0.
    in_shape : tuple of int, optional
        (I1, …, IN), without the batch. None, or a 0 for a mode, defers it to the first input.
        The number of modes cannot be inferred from a CP rank, savings or a fraction; give zeros:
        ``in_shape=(0, 0, 0)``.
    factorization : {"tucker", "cp", "tensor_train"}, default "tucker"
        Or another name of :data:`~trnet.tensor.factorizations.FACTORIZATIONS`.
    use_bias : bool, default True
        Whether to add a bias of shape (O,).
    implementation : {"fused", "tensorly"}, default "fused"
        ``"fused"`` projects the input, hybridizes and exports; ``"tensorly"`` rebuilds the weight
        and computes the same with TensorLy's own functions on its MXNet backend, imperatively:
        the reference.
    dropout : float, default 0.0
        Tensor dropout, or stochastic rank regularisation: the probability with which, in training,
        each component of the latent space is dropped for a batch, mode by mode; kept components are
        rescaled, so that the expected weight is W. A Tucker weight's latent modes are
        (R1, …, R(N+1)), a CP weight has one of R terms, a tensor train the cuts (r1, …, rN); modes
        of a rank below 4 and pooled modes are exempt. Kolbeinsson et al. (arXiv 1902.10758).
    pooled_modes : tuple of int, optional
        Modes, from 1, that average pooling stood for, where the form supports pooling, as Tucker
        does: the layer starts as that pooling and a dense layer.
    weight_norm : bool, default False
        Whether factors are stored as directions and lengths of their columns: Uk = Vk ∘ gk / ‖Vk‖,
        with ``factorK_length`` gk (1, Rk). A core is not. Salimans and Kingma (arXiv 1602.07868),
        as the authors trained their TRLs; :class:`trnet.Trainer` then scales nothing.
    weight_initializer : str or Initializer, optional
        Applied to every factor. By default the factors are orthonormal, and the core (or the last
        factor) is scaled so that the outputs have the variance that a dense layer's outputs would
        have under the network's initializer, at any rank.
    bias_initializer : str or Initializer, default "zeros"
    dtype : str or np.dtype, default "float32"
    prefix, params
        As in every Gluon block.

    Attributes
    ----------
    core, factor1, …, factorN, factor(N+1) : Parameter
        Tucker: G (R1, …, R(N+1)) and Uk (Ik, Rk), the last (O, R(N+1)). CP: no core, Uk (Ik, R).
    core1, …, core(N+1) : Parameter
        Tensor train: Gk (r(k-1), Ik, rk). Weight decay is on the core, or else on the last of them,
        alone (``wd_mult``): that is a dense layer's weight decay.
    factor1_length, … or core1_length, … : Parameter
        With ``weight_norm``: (1, Rk), or (1, 1, rk).
    bias : Parameter
        (O,) or (O1, …, OM), with ``use_bias``.

    Raises
    ------
    ValueError
        For a wrong rank or input; the message names the mode and what was expected.
        Within a hybridized network Gluon checks no shapes: there an input of as many elements may
        pass, such as (8, 2, 8) for (8, 4, 4).

    Inputs
    ------
    - **data**: tensor of shape (batch, I1, …, IN).

    Outputs
    -------
    - **out**: tensor of shape (batch, O), or (batch, O1, …, OM).
    """

    def __init__(
        self,
        units: int | tuple[int, ...],
        rank: Rank,
        in_shape: tuple[int, ...] | None = None,
        factorization: str = DEFAULT,
        use_bias: bool = True,
        implementation: str = "fused",
        dropout: float = 0.0,
        pooled_modes: tuple[int, ...] = (),
        weight_norm: bool = False,
        weight_initializer=None,
        bias_initializer="zeros",
        dtype="float32",
        prefix: str | None = None,
        params=None,
    ) -> None:
        super().__init__(implementation, prefix, params)
        if not is_positive(units) and not are_positive(units):
            self._error(f"units: expected an integer ≥ 1 or several, got {units!r}")
        if not isinstance(factorization, str) or factorization not in FACTORIZATIONS:
            known = ", ".join(map(repr, FACTORIZATIONS))
            self._error(f"factorization: expected one of {known}, got {factorization!r}")
        if not _is_number(dropout) or not 0 <= dropout < 1:
            self._error(f"dropout: expected a probability in [0, 1), got {dropout!r}")
        self._out_shape = (int(units),) if is_positive(units) else tuple(map(int, units))
        self._rank, self._dropout = rank, float(dropout)
        self._weight_norm = bool(weight_norm)
        self._form, self._form_name = FACTORIZATIONS[factorization], factorization
        self._pooled_modes = self._checked_pooling(pooled_modes)
        in_shape = self._checked_in_shape(in_shape)
        self._n_modes = self._count_modes(in_shape)
        self._factorization: Factorization | None = None
        self._register(
            self._n_modes, in_shape, use_bias, weight_initializer, bias_initializer, dtype
        )

    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        form = self._factorization
        # ⟨X, W⟩_N: (B, I1, …, IN) -> (B, O1·…·OM) -> (B, O1, …, OM)
        *products, last = form.joined.products(F, form.join(F, factors), reuse)
        return [*products, replace(last, step=replace(last.step, after=self._out_shape))]

    def _tensorly_forward(self, tl, x, factors: dict, bias):
        weight = self._factorization.reconstruct(tl, factors)
        out = tl.tenalg.inner(x, weight, n_modes=self._n_modes)
        return out if bias is None else out + bias

    def _steps(self) -> tuple[Step, ...]:
        *steps, last = self._factorization.joined.steps()
        return (*steps, replace(last, after=self._out_shape))

    def _stored_names(self) -> list[str]:
        names = self._factor_names()
        return [*names, *map(_length, filter(_has_length, names))] if self._weight_norm else names

    def _factors(self, F, stored: dict) -> dict:
        if not self._weight_norm:
            return stored
        factors = {name: stored[name] for name in self._factor_names()}
        for name in filter(_has_length, factors):
            # Columns are along all modes but the last: (Ik, Rk), or (r(k-1), Ik, rk).
            modes = tuple(range(len(self._factorization.parameter_shapes[name]) - 1))
            length = F.sqrt(F.sum(F.square(factors[name]), axis=modes, keepdims=True))
            scale = F.broadcast_div(stored[_length(name)], length)
            factors[name] = F.broadcast_mul(factors[name], scale)
        return factors

    def _apply_dropout(self, F, factors: dict) -> dict:
        if self._dropout == 0:
            return factors
        kept = dict(factors)
        for name, axis, rank in self._factorization.latent_modes:
            if rank >= _SMALLEST_RANK_DROPPED:
                shape = self._factorization.parameter_shapes[name]
                shared = tuple(other for other in range(len(shape)) if other != axis)
                kept[name] = F.Dropout(factors[name], p=self._dropout, axes=shared)
        return kept

    @property
    def units(self) -> int | tuple[int, ...]:
        """O, the number of outputs, or (O1, …, OM)."""
        return self._out_shape if len(self._out_shape) > 1 else self._out_shape[0]

    @property
    def factorization(self) -> Factorization | None:
        """The form of the weight with its exact rank, or None while ``in_shape`` is not known."""
        return self._factorization

    @property
    def rank(self) -> Rank:
        """The exact rank, or as it was given while ``in_shape`` is not known."""
        return self._rank if self._factorization is None else self._factorization.rank

    def init_from_dense(
        self,
        dense: nn.Dense,
        pooled_modes: tuple[int, ...] | None = None,
        data: Sequence | None = None,
        weigh_classes: bool = False,
    ) -> Fit:
        """Start as a trained dense layer: its weight, decomposed at this rank, and its bias.

        Exact at full rank. An activation of the dense layer is the caller's to keep.

        Parameters
        ----------
        dense : nn.Dense
            O (or O1·…·OM) units, on the flattened input I1·…·IN without the pooled modes.
        pooled_modes : tuple of int, optional
            Modes, from 1, over which average pooling stood before the dense layer, where the form
            supports pooling, as Tucker does. By default those given to the constructor.
        data : sequence of NDArray, optional
            Inputs of this layer, batches (batch, I1, …, IN): what it sees in the trained network.
            The outputs for them are then met as closely as possible, and not the bare weight; see
            :mod:`trnet.tensor.fitting`. It is gone through several times.
        weigh_classes : bool
            With ``data``, whether outputs are compared as the softmax sees them, by its Fisher
            matrix: for a layer that gives class scores.

        Returns
        -------
        Fit
            How close the layer is: relative errors of the weight and, with ``data``, the outputs.

        Raises
        ------
        ValueError
            For a dense layer of another shape, with a weight that is not finite, or with a bias
            where this layer has none; for data of another shape.
        """
        if not isinstance(dense, nn.Dense):
            self._error(f"dense: expected a trained nn.Dense, got {type(dense).__name__}")
        in_shape = self._known_in_shape()
        if pooled_modes is None:
            pooled_modes = self._pooled_modes
        pooled_modes = self._checked_pooling(pooled_modes)
        with self._naming_layer():
            form = self._make(in_shape, pooled_modes)
            pooled_modes = form.pooled_modes
        if len(pooled_modes) == len(in_shape):
            self._error(
                f"pooled_modes: expected at least one mode of the input left, got {pooled_modes}"
            )
        kept = [size for mode, size in enumerate(in_shape, 1) if mode not in pooled_modes]
        self._check_dense(dense, (prod(self._out_shape), prod(kept)), pooled_modes)
        if data is not None and len(self._out_shape) > 1:
            self._error("data: expected none, since outputs that are tensors have no fit to data")
        weight = self._finite_weight(dense).T.reshape(*kept, *self._out_shape)
        bias = values_of(dense.bias) if dense.bias is not None else np.zeros(prod(self._out_shape))
        output_error = math.nan
        with self._naming_layer():
            if data is None:
                arrays = form.decompose(weight)
            else:
                arrays, change, output_error = fitting.fit(
                    form,
                    weight,
                    bias,
                    partial(self._checked_samples, data),
                    "bias" in self._reg_params,
                    weigh_classes,
                )
                bias = bias + change
        self._factorization, self._pooled_modes = form, pooled_modes
        if "bias" in self._reg_params:
            arrays["bias"] = bias.reshape(self._out_shape)
        if self._weight_norm:
            for name in filter(_has_length, self._factor_names()):
                arrays[_length(name)] = lengths = column_lengths(arrays[name])
                arrays[name] = np.where(lengths > 0, arrays[name], 1.0)  # a direction, of length 0
        for name, values in arrays.items():
            self._assign(self._reg_params[name], values, dense.weight.list_ctx())
        return Fit(self._weight_error(weight, pooled_modes), output_error)

    def _weight_error(self, weight: np.ndarray, pooled_modes: tuple[int, ...]) -> float:
        """‖W − Ŵ‖ / ‖W‖, over pooled modes of their sum."""
        ours = as_numpy(self.to_dense_weight()).T.reshape(*self._in_shape, *self._out_shape)
        ours = ours.sum(axis=tuple(mode - 1 for mode in pooled_modes))
        return fitting.relative_error(ours, weight)

    def truncated(self, tolerance: float = _ROUNDING) -> TRL:
        """The same layer at the least rank that W has, nearly.

        For a layer that was trained with a lasso: see :func:`trnet.optimize.shrink_components`.

        Parameters
        ----------
        tolerance : float
            W loses singular values below this share of the largest, of each unfolding whose rank is
            the layer's, or terms of a CP weight. By default it stays the same in float32.

        Returns
        -------
        TRL
            With copies of the parameters, on their contexts; the layer itself if its rank stays.

        Raises
        ------
        ValueError
            With ``weight_norm``, for a form that does not say what its components are, or while the
            input's shape is not known.
        """
        if self._weight_norm:
            self._error("truncation: expected a layer without weight_norm")
        if not (_is_number(tolerance) and 0 <= tolerance < 1):
            self._error(f"tolerance: expected a share from 0 to below 1, got {tolerance!r}")
        in_shape, form = self._known_in_shape(), self._factorization
        names, first = self._factor_names(), self._reg_params[self._factor_names()[0]]
        values = {name: values_of(parameter) for name, parameter in self._reg_params.items()}
        factors = {name: values[name].astype("float64") for name in names}
        rank, left = form.rounded(factors, tolerance)
        if rank == self.rank:
            return self
        layer = TRL(
            self.units,
            rank,
            in_shape,
            self._form_name,
            "bias" in values,
            self._implementation,
            self._dropout,
            self._pooled_modes,
            dtype=first.dtype,
            prefix=self.prefix,
        )
        for name, array in {**values, **left}.items():
            own, parameter = self._reg_params[name], layer._reg_params[name]
            layer._assign(parameter, array, first.list_ctx())
            parameter.lr_mult, parameter.wd_mult = own.lr_mult, own.wd_mult
            parameter.grad_req = own.grad_req
        return layer

    def to_dense_weight(self):
        """The equal dense weight, (O, I1·…·IN), or (O1·…·OM, I1·…·IN).

        Returns
        -------
        NDArray
            On the parameters' context and in their dtype, through TensorLy.
        """
        self._known_in_shape()
        return self._from_tensorly(
            lambda tl, factors: (
                self._factorization.reconstruct(tl, factors).reshape((-1, prod(self._out_shape))).T
            ),
            "mxnet" if self._order <= _MXNET_MODES else "numpy",
        )

    def _checked_pooling(self, pooled_modes) -> tuple[int, ...]:
        if not isinstance(pooled_modes, (tuple, list)):
            self._error(f"pooled_modes: expected modes, as (2, 3), got {pooled_modes!r}")
        if pooled_modes and not self._form.supports_pooling:
            self._error(
                "pooled_modes: expected none, since this factorization, "
                f"{self._form_name!r}, does not support pooling, got {pooled_modes!r}"
            )
        return tuple(pooled_modes)

    def _count_modes(self, in_shape) -> int:
        given = None if in_shape is None else len(in_shape)
        order = self._form.input_modes(self._rank)
        n_modes = given or (order and order + 1 - len(self._out_shape))
        if not n_modes or n_modes < 1:
            self._error(
                f"the number of input modes cannot be inferred from rank {self._rank!r}; give "
                "in_shape, with 0 for unknown sizes: in_shape=(0, 0, 0)"
            )
        return n_modes

    def _make(self, in_shape: tuple[int, ...], pooled_modes: tuple[int, ...]) -> Factorization:
        shape = (*in_shape, *self._out_shape)
        return self._form(shape, self.rank, pooled_modes, len(self._out_shape))

    def _check_dense(self, dense: nn.Dense, expected: tuple[int, int], pooled_modes) -> None:
        got = dense.weight.shape
        if got != expected:
            pooled = f" and pooled_modes {pooled_modes}" if pooled_modes else ""
            self._error(
                f"dense: expected a weight {expected} for an input {self.in_shape}{pooled}, "
                f"got {got}"
            )
        if dense.bias is not None and "bias" not in self._reg_params:
            self._error("dense: expected no bias with use_bias=False, got one; use use_bias=True")

    @property
    def _order(self) -> int:
        """N + M, the number of W's modes."""
        return self._n_modes + len(self._out_shape)

    def _factor_names(self) -> list[str]:
        return self._form.parameter_names(self._order - 1)

    def _undecayed(self) -> list[str]:
        scaled = self._form.scale_name(self._order - 1)
        if self._weight_norm and _has_length(scaled):
            scaled = _length(scaled)
        return [name for name in self._stored_names() if name != scaled]

    def _parameter_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        self._factorization = self._make(in_shape, self._pooled_modes)
        shapes = self._factorization.parameter_shapes
        if self._weight_norm:
            lengths = {
                n: (*(1,) * (len(s) - 1), s[-1]) for n, s in shapes.items() if _has_length(n)
            }
            shapes = {**shapes, **{_length(name): shape for name, shape in lengths.items()}}
        else:
            for name in self._factor_names():
                self._reg_params[name].tensor_layer = self  # for a Trainer, which has parameters
        return {**shapes, "bias": self._out_shape}

    def _initial_values(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        form = self._factorization
        std = dense_std(initializer, form.dense_shape)
        factor = name.removesuffix(_LENGTH)
        return form.draw(name, std) if factor == name else column_lengths(form.draw(factor, std))

    def __repr__(self) -> str:
        dropout = f", dropout {self._dropout:g}" if self._dropout else ""
        return (
            f"TRL({shape_text(self.in_shape)} -> {shape_text(self._out_shape)}, {self._form_name}, "
            f"rank {self.rank}{dropout})"
        )


def _has_length(name: str) -> bool:
    return name != "core"


def _length(name: str) -> str:
    return name + _LENGTH


def column_lengths(factor: np.ndarray) -> np.ndarray:
    """Lengths of the columns along the last mode, (1, …, 1, R)."""
    return np.sqrt(np.sum(factor**2, axis=tuple(range(factor.ndim - 1)), keepdims=True))


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
