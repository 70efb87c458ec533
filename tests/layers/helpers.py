"""Layers of every kind to test, and arrays and values for them."""

from __future__ import annotations

from functools import cache

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from tensor.reference import contract, full_weight, regress

from trnet.layers import TCL, TRL
from trnet.layers.block import TensorBlock

UNITS = 3
IN_SHAPES = {1: (6,), 2: (5, 4), 3: (4, 5, 3), 4: (3, 4, 2, 3)}
RANKS = {
    "tcl": {n: (3, 2, 2, 2)[:n] for n in IN_SHAPES},
    "tucker": {n: (*(3, 2, 2, 2)[:n], 2) for n in IN_SHAPES},
    "cp": dict.fromkeys(IN_SHAPES, 4),
    "tensor_train": {1: (2,), 2: (4, 3), 3: (3, 5, 2), 4: (2, 4, 5, 3)},
}
KINDS = tuple(RANKS)
DEFERRED = (0, 0, 0)
INITIALIZERS = ("uniform", "xavier", "normal", "msraprelu", "orthogonal")


def build(kind: str, n_modes: int = 3, initialize: bool = True, **arguments) -> TensorBlock:
    """A TCL, or a TRL of the form that ``kind`` names, with a bias, in float64."""
    arguments = {
        "rank": RANKS[kind][n_modes],
        "in_shape": IN_SHAPES[n_modes],
        "use_bias": True,
        "bias_initializer": "normal",
        "dtype": "float64",
        **arguments,
    }
    layer = TCL(**arguments) if kind == "tcl" else TRL(UNITS, factorization=kind, **arguments)
    if initialize:
        layer.initialize(mx.init.Xavier())
    return layer


def normal(*shape: int, dtype: str = "float64") -> mx.nd.NDArray:
    """Standard normal values, from NumPy's generator."""
    return mx.nd.array(np.random.standard_normal(shape), dtype=dtype)


def sample(n_modes: int = 3, batch: int = 2, dtype: str = "float64") -> mx.nd.NDArray:
    """An input for the layers that :func:`build` makes."""
    return normal(batch, *IN_SHAPES[n_modes], dtype=dtype)


def parameters(block: gluon.Block) -> dict[str, gluon.Parameter]:
    """The parameters by name, without the block's prefix."""
    return {name[len(block.prefix) :]: p for name, p in block.collect_params().items()}


def values(block: gluon.Block) -> dict[str, np.ndarray]:
    """The parameters' values, on the first of their contexts."""
    return {n: p.data(p.list_ctx()[0]).asnumpy() for n, p in parameters(block).items()}


def numpy_output(kind: str, layer: TensorBlock, x: mx.nd.NDArray) -> np.ndarray:
    """What a layer with a bias has to give, by its formula in NumPy and float64."""
    x, *factors, bias = (v.astype("float64") for v in (x.asnumpy(), *values(layer).values()))
    out = contract(x, factors) if kind == "tcl" else regress(x, full_weight(kind, factors))
    return out + bias


def set_values(block: gluon.Block, arrays: dict[str, np.ndarray]) -> None:
    """Set what :func:`values` gives."""
    for name, parameter in parameters(block).items():
        parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))


def gradients(block: gluon.Block, x: mx.nd.NDArray, head: mx.nd.NDArray) -> dict[str, np.ndarray]:
    """Gradients of ⟨block(x), head⟩, of the input as ``data`` and of the parameters by name."""
    x = x.copy()
    x.attach_grad()
    with autograd.record():
        out = block(x)
    out.backward(head)
    arrays = {"data": x, **{n: p.data() for n, p in parameters(block).items()}}
    return {name: array.grad.asnumpy() for name, array in arrays.items()}


def close(got, expected, tolerance: float = 1e-9) -> None:
    """Assert the same shape, and values that are close for their scale."""
    got, expected = (
        array.asnumpy() if isinstance(array, mx.nd.NDArray) else array for array in (got, expected)
    )
    assert got.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(scale, 1e-30))


def initial_power(block: gluon.Block, initializer: str, x: mx.nd.NDArray) -> float:
    """Mean square of a block's outputs as an initializer starts it."""
    block.initialize(initializer, force_reinit=True)
    return block(x).square().mean().asscalar()


@cache
def dense_power(initializer: str, units: int, in_units: int) -> float:
    """Mean square of a dense layer's outputs on standard normal inputs, as it starts."""
    dense, x = gluon.nn.Dense(units), normal(1000, in_units, dtype="float32")
    return float(np.mean([initial_power(dense, initializer, x) for _ in range(10)]))
