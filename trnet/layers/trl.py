"""The tensor regression layer."""

from __future__ import annotations

from math import prod
from numbers import Real

import numpy as np
from mxnet.gluon import nn

from trnet.layers.block import TensorBlock, dense_std, shape_text
from trnet.tensor.backend import as_numpy, mx
from trnet.tensor.contraction import Product, Step
from trnet.tensor.factorization import FACTORIZATIONS, Factorization, Rank, is_integer

# Of fewer components, dropping leaves too often none, or one that is blown up to stand for all.
_SMALLEST_RANK_DROPPED = 4


class TRL(TensorBlock):
    r"""Tensor regression layer: Y = ⟨X, W⟩_N + b, with a low-rank weight W (I1, …, IN, O).

    Takes the place of flattening (or average pooling) and a dense layer together. Kossaifi et al.,
    *Tensor Regression Networks* (arXiv 1707.08308), with W in Tucker form; CP and tensor train
    as in Cao and Rabusseau (arXiv 1712.09520).

    Parameters
    ----------
    units : int
        O, the number of outputs.
    rank : tuple of int, int, float or "same"
        Tucker: (R1, …, RN, Rout). CP: an int. Tensor train: the inner ranks (r1, …, rN). A float
        in (0, 1] means about that fraction of the full weight's parameters, as TensorLy's
        ``validate_*_rank`` find it (less for tensor trains, whose ranks are bounded), and
        ``"same"`` means 1.0.
    in_shape : tuple of int, optional
        (I1, …, IN), without the batch. None, or a 0 for a mode, defers it to the first input; a
        CP rank or a fraction does not tell the number of modes, so there give it zeros:
        ``in_shape=(0, 0, 0)``.
    factorization : {"tucker", "cp", "tensor_train"}, default "tucker"
    use_bias : bool, default True
        Whether to add a bias of shape (O,).
    implementation : {"fused", "tensorly"}, default "fused"
        ``"fused"`` projects the input, hybridizes and exports; ``"tensorly"`` rebuilds the weight
        and computes the same with TensorLy's own functions on its MXNet backend, imperatively:
        the reference.
    dropout : float, default 0.0
        Tensor dropout, or stochastic rank regularisation: the probability with which, in training,
        a component of the latent space is dropped for a batch, in every mode of it apart; what is
        kept grows so that the weight's expectation is W. A Tucker weight's latent modes are
        (R1, …, R(N+1)), a CP weight has one of R terms, a tensor train the cuts (r1, …, rN); those
        of a rank below 4 and pooled ones are spared. Kolbeinsson et al. (arXiv 1902.10758).
    pooled_modes : tuple of int, optional
        Modes, from 1, where average pooling stood (Tucker only): the layer starts as that pooling
        and a dense layer, and the factors of these modes learn slower (``lr_mult``), as averages
        must.
    weight_initializer : str or Initializer, optional
        For every factor as it stands. By default the factors are orthonormal, scaled so that the
        outputs have the variance that a dense layer's would have in their place under the
        network's initializer, at any rank.
    bias_initializer : str or Initializer, default "zeros"
    dtype : str or np.dtype, default "float32"
    prefix, params
        As in every Gluon block.

    Attributes
    ----------
    core, factor1, …, factorN, factor(N+1) : Parameter
        Tucker: G (R1, …, R(N+1)) and Uk (Ik, Rk), the last (O, R(N+1)). CP: no core, Uk (Ik, R).
    core1, …, core(N+1) : Parameter
        Tensor train: Gk (r(k-1), Ik, rk).
    bias : Parameter
        (O,), with ``use_bias``.

    Raises
    ------
    ValueError
        For a rank or an input that does not fit, naming the mode and what would.

    Inputs:
        - **data**: tensor of shape (batch, I1, …, IN).

    Outputs:
        - **out**: tensor of shape (batch, O).
    """

    def __init__(
        self,
        units: int,
        rank: Rank,
        in_shape: tuple[int, ...] | None = None,
        factorization: str = "tucker",
        use_bias: bool = True,
        implementation: str = "fused",
        dropout: float = 0.0,
        pooled_modes: tuple[int, ...] = (),
        weight_initializer=None,
        bias_initializer="zeros",
        dtype="float32",
        prefix: str | None = None,
        params=None,
    ) -> None:
        super().__init__(implementation, prefix, params)
        if not is_integer(units) or units < 1:
            self._refuse(f"units has to be an integer of at least 1; got {units!r}")
        if not isinstance(factorization, str) or factorization not in FACTORIZATIONS:
            known = ", ".join(map(repr, FACTORIZATIONS))
            self._refuse(f"factorization has to be one of {known}; got {factorization!r}")
        if not _is_number(dropout) or not 0 <= dropout < 1:
            self._refuse(f"dropout has to be a probability, from 0 to below 1; got {dropout!r}")
        self._units, self._rank, self._dropout = int(units), rank, float(dropout)
        self._form, self._form_name = FACTORIZATIONS[factorization], factorization
        self._pooled_modes = self._checked_pooling(pooled_modes)
        in_shape = self._checked_shape(in_shape)
        self._n_modes = self._count_modes(in_shape)
        self._factorization: Factorization | None = None
        self._register(
            self._n_modes, in_shape, use_bias, weight_initializer, bias_initializer, dtype
        )

    @property
    def units(self) -> int:
        """O, the number of outputs."""
        return self._units

    @property
    def factorization(self) -> Factorization | None:
        """The form of the weight with its exact rank, or None while ``in_shape`` is not known."""
        return self._factorization

    @property
    def steps(self) -> tuple[Step, ...]:
        """The products that it computes, for :func:`trnet.tensor.contraction.explain`."""
        self._known_in_shape()
        return self._factorization.steps

    @property
    def rank(self) -> Rank:
        """The exact rank, or as it was given while ``in_shape`` is not known."""
        return self._rank if self._factorization is None else self._factorization.rank

    def init_from_dense(self, dense: nn.Dense, pooled_modes: tuple[int, ...] = ()) -> None:
        """Start as a trained dense layer: its weight decomposed at this rank, and its bias.

        Exact at full rank. The dense layer's activation, where it has one, stays with the caller.

        Parameters
        ----------
        dense : nn.Dense
            O units, on the flattened input I1·…·IN without the pooled modes.
        pooled_modes : tuple of int
            Modes, from 1, over which average pooling stood before the dense layer (Tucker only).

        Raises
        ------
        ValueError
            Where the dense layer does not fit, or has a bias that this layer has no place for.
        """
        in_shape = self._known_in_shape()
        pooled_modes = self._checked_pooling(pooled_modes)
        with self._refusing():
            form = self._make(in_shape, pooled_modes)
        if len(pooled_modes) == len(in_shape):
            self._refuse("pooled_modes are all of its modes; at least one has to be left")
        kept = [size for mode, size in enumerate(in_shape, 1) if mode not in pooled_modes]
        self._check_dense(dense, (self._units, prod(kept)), pooled_modes)
        self._slow_down(pooled_modes, in_shape)
        arrays = form.decompose(_values(dense.weight).T.reshape(*kept, self._units))
        if "bias" in self._reg_params:
            arrays["bias"] = (
                _values(dense.bias) if dense.bias is not None else np.zeros(self._units)
            )
        for name, values in arrays.items():
            self._assign(self._reg_params[name], values, dense.weight.list_ctx())

    def to_dense_weight(self):
        """The equal dense weight, (units, I1·…·IN).

        Returns
        -------
        NDArray
            On the parameters' context and in their dtype, through TensorLy.
        """
        self._known_in_shape()
        return self._from_tensorly(
            lambda tl, factors: (
                self._factorization.reconstruct(tl, factors).reshape((-1, self._units)).T
            )
        )

    def _checked_pooling(self, pooled_modes) -> tuple[int, ...]:
        if not isinstance(pooled_modes, (tuple, list)):
            self._refuse(f"pooled_modes has to be modes, as (2, 3); got {pooled_modes!r}")
        if pooled_modes and self._form_name != "tucker":
            self._refuse(f"pooled_modes are for Tucker; this factorization is {self._form_name!r}")
        return tuple(pooled_modes)

    def _count_modes(self, in_shape) -> int:
        told = None if in_shape is None else len(in_shape)
        n_modes = told or self._form.input_modes(self._rank)
        if not n_modes:
            self._refuse(
                f"rank {self._rank!r} does not tell how many modes the input has; give in_shape, "
                "with 0 for unknown sizes: in_shape=(0, 0, 0)"
            )
        return n_modes

    def _slow_down(self, pooled_modes: tuple[int, ...], in_shape: tuple[int, ...]) -> None:
        """Let factors that average over I entries learn I times slower than the rest.

        A gradient step on such a factor moves the outputs I times as far, in proportion, as one
        on a factor of unit norm; at the common rate that diverges where pooling and dense do not.
        """
        if self._form_name == "tucker":
            for mode, size in enumerate(in_shape, start=1):
                rate = 1 / size if mode in pooled_modes else 1.0
                self._reg_params[f"factor{mode}"].lr_mult = rate

    def _make(self, in_shape: tuple[int, ...], pooled_modes: tuple[int, ...]) -> Factorization:
        pooling = {"pooled_modes": pooled_modes} if pooled_modes else {}
        return self._form((*in_shape, self._units), self._rank, **pooling)

    def _check_dense(self, dense: nn.Dense, fits: tuple[int, int], pooled_modes) -> None:
        got = dense.weight.shape
        if got != fits:
            pooled = f" and pooled_modes {pooled_modes}" if pooled_modes else ""
            self._refuse(
                f"a dense weight of shape {got} does not fit: {fits} does, for an input "
                f"{self.in_shape}{pooled}"
            )
        if dense.bias is not None and "bias" not in self._reg_params:
            self._refuse("the dense layer has a bias; use_bias=True has a place for it")

    def _factor_names(self) -> list[str]:
        return self._form.parameter_names(self._n_modes)

    def _settle(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        self._factorization = self._make(in_shape, self._pooled_modes)
        self._slow_down(self._pooled_modes, in_shape)
        return {**self._factorization.parameter_shapes, "bias": (self._units,)}

    def _draw(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        form = self._factorization
        return form.draw(name, dense_std(initializer, form.dense_shape))

    def _drop(self, F, factors: dict) -> dict:
        if self._dropout == 0:
            return factors
        kept = dict(factors)
        for name, axis, rank in self._factorization.latent_modes:
            if rank >= _SMALLEST_RANK_DROPPED:
                shape = self._factorization.parameter_shapes[name]
                shared = tuple(other for other in range(len(shape)) if other != axis)
                kept[name] = F.Dropout(factors[name], p=self._dropout, axes=shared)
        return kept

    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        return self._factorization.products(F, factors, reuse)

    def _reference(self, tl, x, factors: dict, bias):
        weight = self._factorization.reconstruct(tl, factors)
        out = tl.tenalg.inner(x, weight, n_modes=self._n_modes)
        return out if bias is None else out + bias

    def __repr__(self) -> str:
        dropout = f", dropout {self._dropout:g}" if self._dropout else ""
        return (
            f"TRL({shape_text(self.in_shape)} -> {self._units}, {self._form_name}, "
            f"rank {self.rank}{dropout})"
        )


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _values(parameter) -> np.ndarray:
    """A parameter's values, shared where they can be; float16, too coarse, as float32."""
    array = parameter.data(parameter.list_ctx()[0])
    return as_numpy(array.astype("float32") if array.dtype == np.float16 else array)
