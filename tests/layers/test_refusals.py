"""What TCL and TRL refuse: inputs, shapes and implementations, each with one line."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import KINDS, build, close, normal, numpy_output
from mxnet.gluon import nn

import trnet
from trnet import TCL, TRL


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize(
    "in_shape, shape, said",
    [
        ((4, 5, 3), (4, 6, 3), ["mode 2", "6", "expected 5"]),
        ((4, 5, 3), (8, 5, 3), ["mode 1", "8", "expected 4"]),
        ((4, 5, 3), (4, 15), ["got 2", "(4, 15)", "expected 3 modes"]),
        ((0, 5, 0), (4, 5, 3, 2), ["got 4", "expected 3 modes"]),
        ((0, 5, 0), (4, 3, 5), ["mode 2", "3", "expected 5"]),
    ],
)
def test_wrong_input(refusal, kind, in_shape, shape, said, hybridized):
    layer = build(kind, in_shape=in_shape)
    layer.hybridize(hybridized)
    refusal(lambda: layer(normal(2, *shape)), type(layer).__name__, layer.name, *said)
    x = normal(2, 4, 5, 3)  # and the layer is none the worse for it
    close(layer(x), numpy_output(kind, layer, x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 8, 5, 3), (2, 4, 5), (2, 3, 5, 4), (2, 60), (4, 5, 3)])
def test_wrong_input_to_a_traced_network(kind, shape, dtype):
    """Not a number comes out of what does not fit, neither at first nor later."""
    wrong = mx.nd.ones(shape, dtype=dtype)
    for first in (wrong, mx.nd.ones((2, 4, 5, 3), dtype=dtype)):
        net = nn.HybridSequential()
        net.add(build(kind, in_shape=(4, 5, 3), dtype=dtype))
        net.hybridize()
        if first is not wrong:
            net(first).wait_to_read()
        with pytest.raises((ValueError, mx.MXNetError)):
            net(wrong).wait_to_read()


@pytest.mark.parametrize("in_shape", [5, (4, -5, 3), (4, 5.0, 3), (4, "5", 3), (4, True, 3)])
def test_wrong_in_shape(refusal, kind, in_shape):
    message = refusal(lambda: build(kind, in_shape=in_shape), repr(in_shape))
    assert message.startswith(("TCL tcl", "TRL trl"))


@pytest.mark.parametrize("implementation", ["torch", None, "Fused"])
def test_wrong_implementation(refusal, kind, implementation):
    said = repr(implementation), "'fused'", "'tensorly'"
    message = refusal(lambda: build(kind, implementation=implementation), *said)
    assert message.startswith(("TCL tcl", "TRL trl"))


@pytest.mark.parametrize("make", [lambda: TRL(10, (3, 2, 2, 4)), lambda: TCL((3, 2, 2))])
@pytest.mark.parametrize("given", [np.zeros((2, 8, 4, 4), "float32"), [[1.0]], None])
def test_what_is_no_array_of_mxnet_is_named(make, given):
    """Before the shape is inferred, and after it."""
    layer = make()
    layer.initialize()
    said = rf"input: expected an NDArray, as mx.nd.array makes it, got {type(given).__name__}$"
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            layer(given)
        layer(mx.nd.zeros((2, 8, 4, 4)))


def test_no_dense_layer_is_named():
    layer = TRL(10, (3, 2, 2, 4), in_shape=(8, 4, 4))
    layer.initialize()
    with pytest.raises(ValueError, match=r"dense: expected a trained nn.Dense, got NoneType$"):
        layer.init_from_dense(None)
    tcl = TCL((3, 2, 2), in_shape=(8, 4, 4))
    with pytest.raises(ValueError, match=r"following: expected an nn.Dense, got str$"):
        tcl.init_from_dense(nn.Dense(3, in_units=128), "dense")


def test_a_deferred_layer_may_start_as_a_dense_one():
    layer, x = TRL(10, (8, 4, 4, 10)), mx.nd.random.normal(shape=(2, 8, 4, 4))
    layer.initialize()
    layer.infer_shape(x)
    dense = nn.Dense(10, in_units=128)
    dense.initialize(mx.init.Normal(1.0))
    assert layer.init_from_dense(dense).weight_error < 1e-5
    np.testing.assert_allclose(layer(x).asnumpy(), dense(x).asnumpy(), rtol=1e-4, atol=1e-4)


def test_a_mode_that_is_named_twice_is_pooled_once():
    layer = TRL(10, (3, 1, 4, 4), in_shape=(8, 4, 4))
    layer.initialize()
    dense = nn.Dense(10, in_units=32)
    dense.initialize()
    once, twice = (layer.init_from_dense(dense, pooled_modes=m) for m in ((2,), (2, 2)))
    assert once == twice


def test_a_refused_weight_leaves_a_layer_as_it_was():
    layer = TRL(10, (3, 1, 1, 4), in_shape=(8, 4, 4))
    layer.initialize()
    dense = nn.Dense(10, in_units=8)
    dense.initialize(mx.init.Constant(np.nan))
    form = layer.factorization
    with pytest.raises(ValueError, match="expected a weight of finite values"):
        layer.init_from_dense(dense, pooled_modes=(2, 3))
    assert layer.factorization is form


def test_ranks_as_tensorly_writes_them_are_explained():
    with pytest.raises(ValueError, match=r"inner ranks without TensorLy's 1 at both ends: 3 int"):
        TRL(10, (1, 3, 4, 5, 1), in_shape=(8, 4, 4), factorization="tensor_train")


def test_completion_lists_the_layers():
    assert {"TCL", "TRL", "Trainer", "fold", "export_onnx"} <= set(dir(trnet))
