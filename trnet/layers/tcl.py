"""The tensor contraction layer."""

from __future__ import annotations

from math import prod

import numpy as np

from trnet.layers.block import TensorBlock, dense_std, shape_text
from trnet.tensor.backend import mx
from trnet.tensor.contraction import Product, Step, plan, tcl_products
from trnet.tensor.factorization import check_rank, is_integer, orthonormal, share_of_scale


class TCL(TensorBlock):
    r"""Tensor contraction layer: X ×1 V1 ×2 V2 … ×N VN (+ b).

    Contracts every mode of an activation tensor but the batch with a factor, and so makes it
    smaller while it stays a tensor. Kossaifi et al., *Tensor Contraction Layers for Parsimonious
    Deep Nets* (arXiv 1706.00439), equation 4.

    Parameters
    ----------
    rank : tuple of int
        (R1, …, RN), the size that each mode is contracted to; from 1 to the mode's own.
    in_shape : tuple of int, optional
        (I1, …, IN), without the batch. None, or a 0 for a mode, defers it to the first input.
    use_bias : bool, default False
        Whether to add a bias of shape (R1, …, RN).
    implementation : {"fused", "tensorly"}, default "fused"
        ``"fused"`` hybridizes and exports; ``"tensorly"`` computes the same with TensorLy's own
        functions on its MXNet backend, imperatively: the reference.
    weight_initializer : str or Initializer, optional
        For every factor as it stands. By default the factors have orthonormal rows, scaled so
        that the outputs have the variance that a dense layer's would have in their place under
        the network's initializer.
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
        For a rank or an input that does not fit, naming the mode and what would.

    Inputs:
        - **data**: tensor of shape (batch, I1, …, IN).

    Outputs:
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
        self._rank = self._checked(rank)
        in_shape = self._checked_shape(in_shape)
        self._register(len(rank), in_shape, use_bias, weight_initializer, bias_initializer, dtype)

    @property
    def rank(self) -> tuple[int, ...]:
        """(R1, …, RN)."""
        return self._rank

    @property
    def steps(self) -> tuple[Step, ...]:
        """The products that it computes, for :func:`trnet.tensor.contraction.explain`."""
        return plan(self._known_in_shape(), self._rank)

    def to_dense_weight(self):
        """The equal dense weight, (R1·…·RN, I1·…·IN): the Kronecker product of the factors.

        Returns
        -------
        NDArray
            On the parameters' context and in their dtype, through TensorLy.
        """
        self._known_in_shape()
        return self._from_tensorly(lambda tl, factors: tl.tenalg.kronecker(list(factors.values())))

    def _checked(self, rank) -> tuple[int, ...]:
        if not isinstance(rank, (tuple, list)) or len(rank) == 0:
            self._refuse(f"rank has to be (R1, …, RN), an integer for each mode; got {rank!r}")
        for mode, r in enumerate(rank, start=1):
            if not is_integer(r) or r < 1:
                self._refuse(
                    f"rank {r!r} for mode {mode} does not fit: an integer of at least 1 does"
                )
        return tuple(map(int, rank))

    def _factor_names(self) -> list[str]:
        return [f"factor{mode}" for mode in range(1, len(self._rank) + 1)]

    def _settle(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        for mode, (r, size) in enumerate(zip(self._rank, in_shape), start=1):
            check_rank(r, size, f"mode {mode}")
        factors = zip(self._factor_names(), zip(self._rank, in_shape))
        return {**dict(factors), "bias": self._rank}

    def _draw(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        rows, columns = self._reg_params[name].shape
        inputs = prod(self.in_shape)
        scale = dense_std(initializer, (prod(self._rank), inputs)) * np.sqrt(inputs)
        is_last = name == self._factor_names()[-1]
        return orthonormal(columns, rows).T * share_of_scale(scale, len(self._rank), is_last)

    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        return tcl_products(F, list(factors.values()), self.in_shape, self._rank, reuse)

    def _reference(self, tl, x, factors: dict, bias):
        modes = list(range(1, len(factors) + 1))
        out = tl.tenalg.multi_mode_dot(x, list(factors.values()), modes=modes)
        return out if bias is None else out + bias

    def __repr__(self) -> str:
        return f"TCL({shape_text(self.in_shape)} -> {shape_text(self._rank)})"
