"""The tensor contraction layer: X ×1 V1 ×2 V2 … ×N VN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
from mxnet.gluon import nn

from trnet.layers.block import TensorBlock, shape_text, values_of
from trnet.tensor.backend import mx
from trnet.tensor.contraction import Product, tcl_products
from trnet.tensor.factorizations import Tucker, check_rank, is_integer
from trnet.tensor.fitting import Fit, fit, relative_error
from trnet.tensor.initial import dense_std, orthonormal, share_of_scale
from trnet.tensor.plan import Step, plan


class TCL(TensorBlock):
    r"""Tensor contraction layer: X ×1 V1 ×2 V2 … ×N VN (+ b).

    Contracts every mode of an activation tensor, except the batch, with a factor: the tensor
    becomes smaller and stays a tensor. Kossaifi et al., *Tensor Contraction Layers for
    Parsimonious Deep Nets* (arXiv 1706.00439), equation 4.

    Parameters
    ----------
    rank : tuple of int
        (R1, …, RN), the size to which each mode is contracted: from 1 to the mode's own size.
    in_shape : tuple of int, optional
        (I1, …, IN), without the batch. None, or a 0 for a mode, defers it to the first input.
    use_bias : bool, default False
        Whether to add a bias of shape (R1, …, RN).
    implementation : {"fused", "tensorly"}, default "fused"
        ``"fused"`` hybridizes and exports; ``"tensorly"`` computes the same with TensorLy's own
        functions on its MXNet backend, imperatively: the reference.
    weight_initializer : str or Initializer, optional
        Applied to every factor. By default the factors have orthonormal rows, scaled so
        that the outputs have the variance that a dense layer's outputs would have under the
        network's initializer.
    bias_initializer : str or Initializer, default "zeros"
    dtype : str or np.dtype, default "float32"
    prefix, params
        As in every Gluon block.

    Attributes
    ----------
    factor1, …, factorN : Parameter
        Vk of shape (Rk, Ik).
    bias : Parameter
        (R1, …, RN), with ``use_bias``.

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
    - **out**: tensor of shape (batch, R1, …, RN).
    """

    def __init__(
        self,
        rank: tuple[int, ...],
        in_shape: tuple[int, ...] | None = None,
        use_bias: bool = False,
        implementation: str = "fused",
        weight_initializer=None,
        bias_initializer="zeros",
        dtype="float32",
        prefix: str | None = None,
        params=None,
    ) -> None:
        super().__init__(implementation, prefix, params)
        self._rank = self._checked_rank(rank)
        in_shape = self._checked_in_shape(in_shape)
        self._register(len(rank), in_shape, use_bias, weight_initializer, bias_initializer, dtype)

    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        # X ×1 V1 ×2 V2 … ×N VN: (B, I1, …, IN) -> (B, R1, …, RN)
        return tcl_products(F, list(factors.values()), self.in_shape, self._rank, reuse)

    def _tensorly_forward(self, tl, x, factors: dict, bias):
        modes = list(range(1, len(factors) + 1))
        out = tl.tenalg.multi_mode_dot(x, list(factors.values()), modes=modes)
        return out if bias is None else out + bias

    def _steps(self) -> tuple[Step, ...]:
        return plan(self._in_shape, self._rank)

    @property
    def rank(self) -> tuple[int, ...]:
        """(R1, …, RN)."""
        return self._rank

    def init_from_dense(
        self, dense: nn.Dense, following: nn.Dense, data: Sequence | None = None
    ) -> Fit:
        """Start this layer and the dense layer that follows it as one trained dense layer.

        Its weight W (I1, …, IN, O) is decomposed to G ×1 V1ᵀ … ×N VNᵀ, a Tucker form without a
        factor for the outputs: Vk are this layer's, and G (R1, …, RN, O) is the weight of the dense
        layer that follows. Exact at full rank. An activation is the caller's to keep.

        Parameters
        ----------
        dense : nn.Dense
            The trained layer: O units, on the flattened input I1·…·IN.
        following : nn.Dense
            O units, on the flattened output R1·…·RN.
        data : sequence of NDArray, optional
            Inputs of this layer, as in :meth:`trnet.TRL.init_from_dense`.

        Returns
        -------
        Fit
            How close both layers are to the trained one: relative errors of the weight and, with
            ``data``, the outputs.

        Raises
        ------
        ValueError
            For dense layers of other shapes, or of which only one has a bias; for a trained weight
            that is not finite; for data of another shape.
        """
        in_shape = self._known_in_shape()
        for name, layer in (("dense", dense), ("following", following)):
            if not isinstance(layer, nn.Dense):
                self._error(f"{name}: expected an nn.Dense, got {type(layer).__name__}")
        units = dense.weight.shape[0]
        for name, layer, inputs in (
            ("dense", dense, in_shape),
            ("following", following, self._rank),
        ):
            if layer.weight.shape != (units, prod(inputs)):
                self._error(
                    f"{name}: expected a weight {(units, prod(inputs))} for {inputs}, "
                    f"got {layer.weight.shape}"
                )
        if (dense.bias is None) is not (following.bias is None):
            self._error("dense, following: expected a bias in both or in neither")
        weight = self._finite_weight(dense).T.reshape(*in_shape, units)
        bias = values_of(dense.bias) if dense.bias is not None else np.zeros(units)
        form = Tucker((*in_shape, units), (*self._rank, units))
        with self._naming_layer():
            if data is None:
                arrays, change, output_error = form.decompose(weight), 0.0, math.nan
            else:
                samples = partial(self._checked_samples, data)
                has_bias = dense.bias is not None
                arrays, change, output_error = fit(form, weight, bias, samples, has_bias, False)
        _, *factors, _ = arrays.values()
        core = form.output_map(arrays)  # (O, R1·…·RN)
        contexts = dense.weight.list_ctx()
        for name, factor in zip(self._factor_names(), factors):
            self._assign(self._reg_params[name], factor.T, contexts)
        if "bias" in self._reg_params:
            self._assign(self._reg_params["bias"], np.zeros(self._rank), contexts)
        self._assign(following.weight, core, contexts)
        if dense.bias is not None:
            self._assign(following.bias, bias + change, contexts)
        ours = core.reshape(units, *self._rank)
        for factor in factors:  # the first mode after the outputs is expanded, and put last
            ours = np.tensordot(ours, factor, axes=(1, 1))
        error = relative_error(np.moveaxis(ours, 0, -1), weight)
        return Fit(error, output_error)

    def to_dense_weight(self):
        """The equal dense weight, (R1·…·RN, I1·…·IN): the Kronecker product of the factors.

        Returns
        -------
        NDArray
            On the parameters' context and in their dtype, through TensorLy.
        """
        self._known_in_shape()
        return self._from_tensorly(lambda tl, factors: tl.tenalg.kronecker(list(factors.values())))

    def _checked_rank(self, rank) -> tuple[int, ...]:
        if not isinstance(rank, (tuple, list)) or len(rank) == 0:
            self._error(f"rank: expected (R1, …, RN), an integer for each mode, got {rank!r}")
        for mode, r in enumerate(rank, start=1):
            if not is_integer(r) or r < 1:
                self._error(f"rank for mode {mode}: expected an integer ≥ 1, got {r!r}")
        return tuple(map(int, rank))

    def _factor_names(self) -> list[str]:
        return [f"factor{mode}" for mode in range(1, len(self._rank) + 1)]

    def _parameter_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        for mode, (r, size) in enumerate(zip(self._rank, in_shape), start=1):
            check_rank(r, size, f"mode {mode}")
        factors = zip(self._factor_names(), zip(self._rank, in_shape))
        return {**dict(factors), "bias": self._rank}

    def _initial_values(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        rows, columns = self._reg_params[name].shape
        inputs = prod(self.in_shape)
        scale = dense_std(initializer, (prod(self._rank), inputs)) * np.sqrt(inputs)
        is_last = name == self._factor_names()[-1]
        return orthonormal(columns, rows).T * share_of_scale(scale, len(self._rank), is_last)

    def __repr__(self) -> str:
        return f"TCL({shape_text(self.in_shape)} -> {shape_text(self._rank)})"
