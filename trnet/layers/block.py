"""What the tensor layers share: the forward pass, two implementations, and deferred shapes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import NoReturn

import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock, nn

from trnet.errors import lines_of
from trnet.layers.tracing import shape_in_trace
from trnet.tensor.backend import as_numpy, is_np_array, mx, tensorly_scope
from trnet.tensor.contraction import Product, contract, shortened
from trnet.tensor.factorizations import is_integer
from trnet.tensor.plan import CONSTANT, TRAINING, Plan, Step

IMPLEMENTATIONS = ("fused", "tensorly")


class TensorBlock(HybridBlock):
    """A layer on tensors (batch, I1, …, IN) whose parameters are the factors of a weight.

    A layer names its factors, gives their shapes once the input's is known, and computes with them
    in two ways: by :meth:`_products`, on arrays and symbols, and by :meth:`_tensorly_forward`.

    A subclass sets what it needs and calls :meth:`_register` at the end of its ``__init__``.
    """

    _checks = True  # in graphs, the sizes of an input's modes
    # A copy of the layer, for inference, whose graph takes samples as the first product does.
    _viewing: TensorBlock | None = None
    _traces_view = False  # whether this is that copy
    _view: tuple[int, ...]  # and the shape

    def forward(self, x):
        if not isinstance(x, (mx.nd.NDArray, mx.sym.Symbol)):
            made = "as mx.nd.array makes it"
            self._error(f"input: expected an NDArray, {made}, got {type(x).__name__}")
        if isinstance(x, mx.nd.NDArray):
            self._infer_in_shape(x.shape[1:])
        elif self.in_shape is None:
            shape = shape_in_trace(x)
            if shape is None:
                self._error(
                    "in_shape: expected the input's shape, which cannot be inferred from its "
                    "symbol; give in_shape, or give the symbol's variable a shape"
                )
            self._infer_in_shape(shape[1:])
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
        stored = {name: prepare(factors[name]) for name in self._stored_names()}
        factors = self._apply_dropout(F, self._factors(F, stored))
        if self._implementation == "fused":
            products = self._products(F, factors, TRAINING)
            if self._traces_view:
                self._view = products[0].takes
            out = contract(F, x, products, bias, checks=self._checks, is_viewed=self._traces_view)
        else:
            out = self._through_tensorly(F, x, factors, bias)
        out = F.Cast(out, dtype="float16") if widen else out
        return out.as_np_ndarray() if numpy_semantics else out

    def _call_cached_op(self, x):
        # A graph copies an input of its own that it reshapes; a view of an array copies nothing.
        # Its gradient would be copied, so only inference takes views.
        is_own = type(self).hybrid_forward is TensorBlock.hybrid_forward
        is_watched = self._backend is not None or self._callback is not None
        if autograd.is_recording() or is_watched or not is_own or x.stype != "default":
            return super()._call_cached_op(x)
        if self._cached_op is None:
            self._build_cache(x)  # of inputs as they are: it is exported
        if self._viewing is None:
            viewing = copy(self)
            viewing._clear_cached_op()
            viewing._traces_view = True
            viewing._build_cache(x)
            vars(self)["_viewing"] = viewing  # not as a child
        shape = self._viewing._view
        if x.shape[1:] == shape:
            return super()._call_cached_op(x)
        view = x.as_nd_ndarray().reshape((-1, *shape))  # a NumPy array's reshape is a copy
        view = view.as_np_ndarray() if isinstance(x, mx.np.ndarray) else view
        return super(TensorBlock, self._viewing)._call_cached_op(view)  # which views no more

    def _clear_cached_op(self) -> None:
        vars(self)["_viewing"] = None
        super()._clear_cached_op()

    def _through_tensorly(self, F, x, factors: dict, bias):
        if F is not mx.nd:
            self._error(
                "implementation='tensorly' cannot be traced (hybridized or exported); "
                "use implementation='fused', or do not hybridize the network"
            )
        with tensorly_scope() as tl:
            factors = {name: array.as_np_ndarray() for name, array in factors.items()}
            bias = None if bias is None else bias.as_np_ndarray()
            try:
                return self._tensorly_forward(tl, x.as_np_ndarray(), factors, bias).as_nd_ndarray()
            except mx.base.MXNetError as error:  # of more modes than MXNet transposes
                self._error(f"implementation='tensorly': {lines_of(error)[-1]}")

    @abstractmethod
    def _factor_names(self) -> list[str]:
        """Names of the factors, in the order of the formula."""

    @abstractmethod
    def _parameter_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters for an input (I1, …, IN); ValueError where it is impossible."""

    @abstractmethod
    def _initial_values(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        """Initial values of a stored parameter, in a network that ``initializer`` initialises."""

    @abstractmethod
    def _steps(self) -> tuple[Step, ...]:
        """The steps of :meth:`_products`, from the shapes alone."""

    @abstractmethod
    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        """The products of the contraction, on arrays or symbols, in legacy operators."""

    @abstractmethod
    def _tensorly_forward(self, tl, x, factors: dict, bias):
        """The layer through TensorLy, on NumPy-like arrays."""

    def _stored_names(self) -> list[str]:
        """Names of the parameters that the factors are made of; by default the factors."""
        return self._factor_names()

    def _factors(self, F, stored: dict) -> dict:
        """The factors, made of those parameters."""
        return stored

    def _apply_dropout(self, F, factors: dict) -> dict:
        """The factors of a training step, after dropout; by default there is none."""
        return factors

    def _undecayed(self) -> list[str]:
        """Factors that start without weight decay; by default none do."""
        return []

    def __init__(self, implementation: str, prefix: str | None, params) -> None:
        super().__init__(prefix=prefix, params=params)
        if implementation not in IMPLEMENTATIONS:
            self._error(f"implementation: expected 'fused' or 'tensorly', got {implementation!r}")
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
        initializers = {
            name: weight_initializer or FactorInitializer(self, name)
            for name in self._stored_names()
        }
        if use_bias:
            initializers["bias"] = bias_initializer
        with self.name_scope():
            for name, init in initializers.items():
                is_shared = self.params.prefix + name in (self.params._shared or {})
                parameter = self.params.get(name, init=init, dtype=dtype, allow_deferred_init=True)
                if not is_shared and name in self._undecayed():
                    parameter.wd_mult = 0.0
                setattr(self, name, parameter)
        if in_shape is not None:
            self._infer_in_shape(in_shape)

    @property
    def in_shape(self) -> tuple[int, ...] | None:
        """(I1, …, IN), or None while it is not known."""
        return self._in_shape if all(self._in_shape) else None

    def plan(self, batch: int = 1, itemsize: int = 4) -> Plan:
        """The products that the layer computes; ``print`` shows them as a table.

        Parameters
        ----------
        batch : int
        itemsize : int
            Bytes per element.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            While the input's shape is not known.
        """
        self._known_in_shape()
        return Plan(self._steps(), batch, itemsize)

    def folded(self, batch: int = 1) -> Folded:
        """The same layer for inference, with everything that the input does not enter folded.

        Kronecker products are made, and matrices multiplied where that is faster, once instead of
        once per batch. A small layer becomes one dense matrix. It does not train.

        Parameters
        ----------
        batch : int
            Samples at a time, for which it is to be fast. It takes any other number, too.

        Raises
        ------
        ValueError
            While the input's shape is not known, or the parameters have no values.
        """
        self._known_in_shape()
        mx.nd.waitall()  # oneDNN may still be changing the layout of weights in place
        if any(parameter._data is None for parameter in self._reg_params.values()):
            self._error("its parameters have no values yet; initialize or load them")
        return Folded(self, batch)

    def infer_shape(self, x) -> None:
        """Infer the shapes of the parameters from an input (batch, I1, …, IN)."""
        self._infer_in_shape(x.shape[1:])

    def _infer_in_shape(self, shape: tuple[int, ...]) -> None:
        """Check an input's shape (I1, …, IN), and take from it what is not known yet."""
        shape = tuple(shape)
        if shape == self._in_shape:
            return
        if len(shape) != len(self._in_shape):
            self._error(
                f"input: expected {len(self._in_shape)} modes after the batch, got {len(shape)}: "
                f"{shape}"
            )
        for mode, (size, known) in enumerate(zip(shape, self._in_shape), start=1):
            if known and size != known:
                self._error(f"input: expected {known} for mode {mode}, got {size} of {shape}")
        if all(shape):
            self._set_parameter_shapes(shape)
        self._in_shape = shape

    def _set_parameter_shapes(self, shape: tuple[int, ...]) -> None:
        with self._naming_layer():
            shapes = self._parameter_shapes(shape)
        for name, parameter in self._reg_params.items():
            # Loading leaves a deferred parameter's own shape unknown.
            held = parameter.shape if parameter._data is None else parameter.list_data()[0].shape
            if held is not None and held != shapes[name]:
                self._error(f"{name}: expected {shapes[name]} for an input {shape}, got {held}")
            parameter.shape = shapes[name]
            if parameter._data is None and isinstance(parameter.init, FactorInitializer):
                parameter.init.layer = self  # of layers that share it, the first with a shape

    def _checked_in_shape(self, in_shape) -> tuple[int, ...] | None:
        is_shape = isinstance(in_shape, (tuple, list)) and len(in_shape) > 0
        if in_shape is None or (is_shape and all(is_integer(n) and n >= 0 for n in in_shape)):
            return in_shape
        self._error(f"in_shape: expected integers ≥ 0, with 0 for unknown sizes, got {in_shape!r}")

    def _known_in_shape(self) -> tuple[int, ...]:
        if self.in_shape is None:
            self._error("the input's shape is not known yet; give in_shape or run the layer once")
        return self._in_shape

    def _from_tensorly(self, function, backend: str = "mxnet"):
        """An array that TensorLy makes of the parameters, on their context and in their dtype."""
        first = self._reg_params[self._factor_names()[0]]
        context = first.list_ctx()[0]
        factors = self._factors_on(context)
        own = mx.nd.NDArray.as_np_ndarray if backend == "mxnet" else as_numpy
        with context, tensorly_scope(backend) as tl:
            result = function(tl, {name: own(array) for name, array in factors.items()})
            result = result if backend == "mxnet" else mx.np.array(result, dtype=result.dtype)
            result = result.astype(first.dtype)
        return result if is_np_array() else result.as_nd_ndarray()

    def _factors_on(self, context) -> dict[str, mx.nd.NDArray]:
        """The factors' values on a context; float16, too coarse and not on a CPU, as float32."""
        stored = {}
        for name in self._stored_names():
            array = self._reg_params[name].data(context).as_nd_ndarray()
            stored[name] = array.astype("float32") if array.dtype == np.float16 else array
        return self._factors(mx.nd, stored)

    def _assign(self, parameter, values, contexts: list) -> None:
        """Give a parameter its values; one without memory gets it on ``contexts``."""
        if parameter._data is None and not parameter._deferred_init:
            parameter.initialize(ctx=contexts)
        array = mx.nd.array(values, dtype=parameter.dtype)
        parameter.set_data(array.as_np_ndarray() if is_np_array() else array)
        parameter._finish_deferred_init()  # which has a shape by now

    def _checked_samples(self, data: Sequence) -> Iterator[np.ndarray]:
        """Inputs of the layer, in batches (batch, I1, …, IN)."""
        for batch in data:
            if tuple(batch.shape[1:]) != self._in_shape:
                raise ValueError(
                    f"data: expected batches of {self._in_shape}, got one of {batch.shape[1:]}"
                )
            yield as_numpy(batch)

    def _finite_weight(self, dense: nn.Dense) -> np.ndarray:
        """A trained dense layer's weight (O, I)."""
        matrix = values_of(dense.weight)
        if not np.isfinite(matrix).all():
            self._error("dense: expected a weight of finite values, got NaN or infinity")
        return matrix

    @contextmanager
    def _naming_layer(self) -> Iterator[None]:
        """Name the layer in an error of the algebra."""
        try:
            yield
        except ValueError as error:
            self._error(str(error))

    def _error(self, why: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__} {self.name}: {why}") from None


class Folded(TensorBlock):
    """A tensor layer for inference, as :meth:`TensorBlock.folded` makes it.

    Where it became one dense matrix, a graph of it compares as little as one of ``nn.Dense``: only
    how many elements a sample has.

    Parameters
    ----------
    layer : TensorBlock
        With parameters; the folded layer is on their contexts.
    batch : int
        Samples at a time, for which it is to be fast.

    Attributes
    ----------
    product1_weight, … : Parameter
        Constants: the matrix of each product.
    bias : Parameter
        The layer's, where it has one.

    Inputs
    ------
    - **data**: as the layer's.

    Outputs
    -------
    - **out**: as the layer's.
    """

    _checks = False

    def __init__(self, layer: TensorBlock, batch: int) -> None:
        super().__init__("fused", prefix=layer.prefix, params=None)
        in_shape, bias = layer._known_in_shape(), layer._reg_params.get("bias")
        first = layer._reg_params[layer._factor_names()[0]]
        contexts = first.list_ctx()
        products = layer._products(mx.nd, layer._factors_on(contexts[0]), CONSTANT)
        products = shortened(mx.nd, products, batch)
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

    def _steps(self) -> tuple[Step, ...]:
        return tuple(product.step for product in self._pattern)

    def _products(self, F, factors: dict, reuse: float) -> list[Product]:
        return [replace(p, matrix=matrix) for p, matrix in zip(self._pattern, factors.values())]

    def _factor_names(self) -> list[str]:
        # MXNet's quantisation finds weights by the end of their names.
        return [f"product{place}_weight" for place in range(1, len(self._pattern) + 1)]

    def _parameter_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def _initial_values(self, name: str, initializer: mx.init.Initializer) -> np.ndarray:
        return np.zeros(self._shapes[name])

    def _tensorly_forward(self, tl, x, factors: dict, bias):
        self._error("a folded layer has no implementation through TensorLy")

    def __repr__(self) -> str:
        return self._description


class FactorInitializer(mx.init.Initializer):
    """Starts a factor as its layer draws it, given the initializer of the whole network."""

    def __init__(self, layer: TensorBlock, name: str) -> None:
        super().__init__()
        self.layer, self._name = layer, name

    def dumps(self) -> str:
        """What a graph says of the factor's start, for MXNet without trnet: an own initializer."""
        return mx.init.Xavier().dumps()

    def _init_weight(self, desc, array) -> None:
        values = self.layer._initial_values(self._name, desc.global_init)
        array[:] = values.astype(array.dtype)


def values_of(parameter) -> np.ndarray:
    """A parameter's values, shared where they can be; float16, too coarse, as float32."""
    # oneDNN changes the weight's layout in place, in a forward pass that may still be running.
    mx.nd.waitall()
    array = parameter.data(parameter.list_ctx()[0])
    return as_numpy(array.astype("float32") if array.dtype == np.float16 else array)


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A shape for a layer's ``repr``: 512×7×7, or "?" while it is not known."""
    return "×".join(map(str, shape)) if shape else "?"
