"""What the tensor layers share: deferred shapes, two implementations, and where they meet Gluon."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import numpy as np
from mxnet.gluon import HybridBlock

from trnet.tensor.backend import is_np_array, mx, tensorly_scope
from trnet.tensor.contraction import CONSTANT, TRAINING, Product, Step, contract
from trnet.tensor.factorization import is_integer

IMPLEMENTATIONS = ("fused", "tensorly")


class TensorBlock(HybridBlock):
    """A layer on tensors (batch, I1, …, IN) whose parameters are the factors of a weight.

    A layer names its parameters, gives their shapes once the input's is known, and computes with
    them in two ways: :meth:`_fused`, on arrays and symbols, and :meth:`_reference`, through
    TensorLy.

    A subclass sets what it needs and calls :meth:`_register` at the end of its ``__init__``.
    """

    def __init__(self, implementation: str, prefix: str | None, params) -> None:
        super().__init__(prefix=prefix, params=params)
        if implementation not in IMPLEMENTATIONS:
            self._refuse(f"implementation has to be 'fused' or 'tensorly'; got {implementation!r}")
        self._implementation = implementation

    def _register(
        self,
        n_modes: int,
        in_shape: tuple[int, ...] | None,
        use_bias: bool,
        weight_initializer,
        bias_initializer,
        dtype,
    ) -> None:
        """Register the factors and the bias of a layer on N input modes."""
        self._in_shape = (0,) * n_modes
        with self.name_scope():
            for name in self._factor_names():
                init = weight_initializer or FactorInitializer(self, name)
                self._register_one(name, init, dtype)
            if use_bias:
                self._register_one("bias", bias_initializer, dtype)
        if in_shape is not None:
            self._meet(in_shape)

    def _register_one(self, name: str, init, dtype) -> None:
        parameter = self.params.get(name, init=init, dtype=dtype, allow_deferred_init=True)
        setattr(self, name, parameter)

    @abstractmethod
    def _factor_names(self) -> list[str]:
        """Names of the factors, in the order of the formula."""

    @abstractmethod
    def _settle(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Take (I1, …, IN), and give the shapes of all parameters; ValueError where none fit."""

    @abstractmethod
    def _draw(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        """Initial values of a factor, in a network that ``initializer`` initialises."""

    @abstractmethod
    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        """What the contraction is made of, on arrays or symbols, in legacy operators."""

    def _drop(self, F, factors: dict) -> dict:
        """The factors of a training step, with what is left out of it; none is."""
        return factors

    @abstractmethod
    def _reference(self, tl, x, factors: dict, bias):
        """The layer through TensorLy, on NumPy-like arrays."""

    @property
    def in_shape(self) -> tuple[int, ...] | None:
        """(I1, …, IN), or None while it is not known."""
        return self._in_shape if all(self._in_shape) else None

    def folded(self) -> Folded:
        """The same layer for inference, in which what does not depend on the input is a constant.

        Kronecker products are made, and matrices multiplied where that leaves less to compute,
        once and not for every batch. It does not train.

        Raises
        ------
        ValueError
            Where the input's shape is not known yet.
        """
        return Folded(self)

    def infer_shape(self, x) -> None:
        """Take the shapes of the parameters from an input (batch, I1, …, IN)."""
        self._meet(x.shape[1:])

    def forward(self, x):
        if isinstance(x, mx.nd.NDArray):
            self._meet(x.shape[1:])
        elif self.in_shape is None:
            self._meet(self._shape_in_trace(x)[1:])
        return super().forward(x)

    def hybrid_forward(self, F, x, bias=None, **factors):
        numpy_semantics = is_np_array()
        # MXNet has no float16 products on a CPU: there they are computed in float32.
        is_half = np.dtype(self._reg_params[self._factor_names()[0]].dtype) == np.float16
        widen = is_half and mx.current_context().device_type == "cpu"

        def prepare(array):
            array = array.as_nd_ndarray()
            return F.Cast(array, dtype="float32") if widen else array

        x = prepare(x)
        bias = None if bias is None else prepare(bias)
        factors = {name: prepare(factors[name]) for name in self._factor_names()}
        factors = self._drop(F, factors)
        if self._implementation == "fused":
            out = contract(F, x, self._products(F, factors, TRAINING), bias)
        else:
            out = self._through_tensorly(F, x, factors, bias)
        out = F.Cast(out, dtype="float16") if widen else out
        return out.as_np_ndarray() if numpy_semantics else out

    def _through_tensorly(self, F, x, factors: dict, bias):
        if F is not mx.nd:
            self._refuse(
                "implementation='tensorly' cannot be traced (hybridized or exported); "
                "use implementation='fused', or leave the network as it is"
            )
        with tensorly_scope() as tl:
            factors = {name: array.as_np_ndarray() for name, array in factors.items()}
            bias = None if bias is None else bias.as_np_ndarray()
            return self._reference(tl, x.as_np_ndarray(), factors, bias).as_nd_ndarray()

    def _checked_shape(self, in_shape) -> tuple[int, ...] | None:
        is_shape = isinstance(in_shape, (tuple, list)) and len(in_shape) > 0
        if in_shape is None or (is_shape and all(is_integer(n) and n >= 0 for n in in_shape)):
            return in_shape
        self._refuse(f"in_shape has to be sizes, with 0 for unknown ones; got {in_shape!r}")

    def _meet(self, shape: tuple[int, ...]) -> None:
        """Check an input's shape (I1, …, IN), and take from it what is not known yet."""
        shape = tuple(shape)
        if shape == self._in_shape:
            return
        if len(shape) != len(self._in_shape):
            self._refuse(
                f"input has {len(shape)} modes behind the batch, {shape}, and "
                f"{len(self._in_shape)} would fit"
            )
        for mode, (size, known) in enumerate(zip(shape, self._in_shape), start=1):
            if known and size != known:
                self._refuse(f"mode {mode} of the input {shape} is {size}, and {known} would fit")
        if all(shape):
            self._settle_parameters(shape)
        self._in_shape = shape

    def _settle_parameters(self, shape: tuple[int, ...]) -> None:
        with self._refusing():
            shapes = self._settle(shape)
        for name, parameter in self._reg_params.items():
            # Loading leaves a deferred parameter's own shape unknown.
            held = parameter.shape if parameter._data is None else parameter.list_data()[0].shape
            if held is not None and held != shapes[name]:
                self._refuse(f"{name} is {held}, and an input {shape} needs {shapes[name]}")
            parameter.shape = shapes[name]
            if parameter._data is None and isinstance(parameter.init, FactorInitializer):
                parameter.init.layer = self  # of layers that share it, the first with a shape

    def _shape_in_trace(self, x) -> tuple[int, ...]:
        """The shape of a symbol in the trace under way.

        Gluon traces a hybridized network before it infers its deferred shapes, and tells a layer
        nothing of the arrays that the trace is for. A dense layer can wait, because its operator
        infers the weight; the plan of a contraction needs the sizes now. So they are looked up
        where Gluon holds them: in the frame of the trace.
        """
        frame = sys._getframe()
        while frame is not None and frame.f_code is not HybridBlock._get_graph.__code__:
            frame = frame.f_back
        known = {}
        if frame is not None:
            arrays = [a for a in frame.f_locals["flatten_args"] if a is not None]
            names = [symbol.name for symbol in frame.f_locals["symbol_inputs"]]
            needed = x.list_inputs()
            known = {n: array.shape for n, array in zip(names, arrays) if n in needed}
        _, (shape, *_), _ = x.infer_shape_partial(**known)
        if not shape or any(size < 1 for size in shape[1:]):
            self._refuse(
                "the shape of its input cannot be told from the symbol; give in_shape, or the "
                "symbol's variable a shape"
            )
        return shape

    def _from_tensorly(self, function):
        """An array that TensorLy makes of the parameters, on their context and in their dtype."""
        first = self._reg_params[self._factor_names()[0]]
        context = first.list_ctx()[0]
        factors = self._factors_on(context)
        with context, tensorly_scope() as tl:
            arrays = {name: array.as_np_ndarray() for name, array in factors.items()}
            result = function(tl, arrays).astype(first.dtype)
        return result if is_np_array() else result.as_nd_ndarray()

    def _factors_on(self, context) -> dict[str, mx.nd.NDArray]:
        """The factors' values on a context; float16, too coarse and not on a CPU, as float32."""
        factors = {}
        for name in self._factor_names():
            array = self._reg_params[name].data(context).as_nd_ndarray()
            factors[name] = array.astype("float32") if array.dtype == np.float16 else array
        return factors

    def _assign(self, parameter, values, contexts: list) -> None:
        """Give a parameter its values, and where it has no place yet, one on some contexts."""
        if parameter._data is None and not parameter._deferred_init:
            parameter.initialize(ctx=contexts)
        array = mx.nd.array(values, dtype=parameter.dtype)
        parameter.set_data(array.as_np_ndarray() if is_np_array() else array)

    def _known_in_shape(self) -> tuple[int, ...]:
        if self.in_shape is None:
            self._refuse("the input's shape is not known yet; give in_shape or run it once")
        return self._in_shape

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Name the layer in what the algebra below it refuses."""
        try:
            yield
        except ValueError as error:
            self._refuse(str(error))

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__} {self.name}: {why}") from None


class Folded(TensorBlock):
    """A tensor layer for inference, as :meth:`TensorBlock.folded` makes it.

    Parameters
    ----------
    layer : TensorBlock
        With parameters, on whose contexts this one will be.

    Attributes
    ----------
    matrix1, … : Parameter
        Constants: the matrix of each product.
    bias : Parameter
        The layer's, where it has one.

    Inputs:
        - **data**: as the layer's.

    Outputs:
        - **out**: as the layer's.
    """

    def __init__(self, layer: TensorBlock) -> None:
        super().__init__("fused", prefix=layer.prefix, params=None)
        in_shape, bias = layer._known_in_shape(), layer._reg_params.get("bias")
        first = layer._reg_params[layer._factor_names()[0]]
        contexts = first.list_ctx()
        products = layer._products(mx.nd, layer._factors_on(contexts[0]), CONSTANT)
        self._description = f"folded {layer!r}"
        self._pattern = [replace(product, matrix=None) for product in products]
        values = dict(zip(self._factor_names(), (product.matrix for product in products)))
        if bias is not None:
            values["bias"] = bias.data(contexts[0]).as_nd_ndarray()
        self._shapes = {name: array.shape for name, array in values.items()}
        self._register(len(in_shape), in_shape, bias is not None, "zeros", "zeros", first.dtype)
        for name, array in values.items():
            self._reg_params[name].grad_req = "null"
            self._assign(self._reg_params[name], array, contexts)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The products that it computes, for :func:`trnet.tensor.contraction.explain`."""
        return tuple(product.step for product in self._pattern)

    def _factor_names(self) -> list[str]:
        return [f"matrix{place}" for place in range(1, len(self._pattern) + 1)]

    def _settle(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        return [replace(p, matrix=matrix) for p, matrix in zip(self._pattern, factors.values())]

    def __repr__(self) -> str:
        return self._description


class FactorInitializer(mx.init.Initializer):
    """Starts a factor as its layer draws it, under the initializer of the whole network."""

    def __init__(self, layer: TensorBlock, name: str) -> None:
        super().__init__()
        self.layer, self._name = layer, name

    def _init_weight(self, desc, array) -> None:
        array[:] = self.layer._draw(self._name, desc.global_init).astype(array.dtype)


def dense_std(initializer: mx.init.Initializer, shape: tuple[int, int]) -> float:
    """Root mean square of a dense layer's weight (units, inputs) that an initializer draws."""
    if isinstance(initializer, mx.init.Uniform):
        return initializer.scale / np.sqrt(3)
    if isinstance(initializer, mx.init.Normal):
        return initializer.sigma
    if isinstance(initializer, mx.init.Xavier):
        units, inputs = shape
        fan = {"avg": (units + inputs) / 2, "in": inputs, "out": units}[initializer.factor_type]
        scale = np.sqrt(initializer.magnitude / fan)
        return scale / np.sqrt(3) if initializer.rnd_type == "uniform" else scale
    weight = mx.nd.zeros(shape)
    initializer._init_weight(mx.init.InitDesc("weight"), weight)
    return float(weight.square().mean().sqrt().asscalar())


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A shape for a layer's ``repr``: 512×7×7, or "?" while it is not known."""
    return "×".join(map(str, shape)) if shape else "?"
