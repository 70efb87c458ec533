"""The tensor contraction layer: X ×1 V1 ×2 V2 … ×N VN."""

from __future__ import annotations

from math import prod

import numpy as np

from trnet.layers.block import TensorBlock, shape_text
from trnet.tensor.backend import mx
from trnet.tensor.contraction import Product, tcl_products
from trnet.tensor.factorizations import check_rank, is_integer
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
