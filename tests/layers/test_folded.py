"""Layers for inference, with their constants multiplied once."""

from __future__ import annotations

import json
from math import prod

import mxnet as mx
import pytest
from layers.helpers import IN_SHAPES, KINDS, build, close, normal, numpy_output, sample
from mxnet import autograd, gluon
from mxnet.gluon import nn

from trnet.layers import TCL, TRL
from trnet.models import build_network, fold


def operators(block: gluon.HybridBlock) -> list[str]:
    """Names of the operators in a block's graph."""
    nodes = json.loads(block(mx.sym.var("data")).tojson())["nodes"]
    return [node["op"] for node in nodes if node["op"] != "null"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_modes", IN_SHAPES)
@pytest.mark.parametrize(
    "dtype, tolerance", [("float16", 2e-3), ("float32", 1e-5), ("float64", 1e-12)]
)
def test_folded_is_the_formula(kind, n_modes, dtype, tolerance, tmp_path):
    """Plain, hybridized, and exported and imported again."""
    layer, x = build(kind, n_modes, dtype=dtype), sample(n_modes, batch=3, dtype=dtype)
    folded = layer.folded()
    expected = numpy_output(kind, layer, x)
    close(folded(x).astype("float64"), expected, tolerance)
    folded.hybridize()
    close(folded(x).astype("float64"), expected, tolerance)
    path = str(tmp_path / "folded")
    folded.export(path)
    imported = gluon.SymbolBlock.imports(f"{path}-symbol.json", ["data"], f"{path}-0000.params")
    close(imported(x).astype("float64"), expected, tolerance)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_without_a_bias_and_in_numpy_semantics(kind, use_bias):
    layer, x = build(kind, use_bias=use_bias), sample()
    expected = layer(x)
    with mx.util.np_shape(True), mx.util.np_array(True):
        out = layer.folded()(x.as_np_ndarray())
    assert isinstance(out, mx.np.ndarray)
    close(out.as_nd_ndarray(), expected)


def test_folded_is_on_the_contexts_of_the_layer():
    contexts = [mx.cpu(0), mx.cpu(1)]
    layer = build("tucker", initialize=False)
    layer.initialize(ctx=contexts)
    x = sample()
    for context in contexts:
        out = layer.folded()(x.as_in_context(context))
        assert out.context == context
        close(out, layer(x.as_in_context(context)))


def test_published_layers_have_a_constant_for_each_product():
    """Nothing is multiplied or transposed but the input; the core disappears in its neighbour."""
    trl = TRL(1000, (200, 1, 1, 200), (2048, 7, 7))
    trl.initialize()
    folded = trl.folded()
    shapes = [p.shape for name, p in folded.collect_params().items() if "matrix" in name]
    assert sorted(shapes) == sorted([(1, 49), (2048, 200), (1000, 200)])
    assert (
        sum(prod(s.before) * s.produced for s in folded.plan().steps)
        == 2048 * (49 + 200) + 200 * 1000
    )
    assert operators(folded) == ["Reshape", "FullyConnected", "Flatten", "dot", "FullyConnected"]
    tcl = TCL((384, 5, 5), (512, 7, 7))
    tcl.initialize()
    assert operators(tcl.folded()) == ["Reshape", "FullyConnected", "Reshape", "Convolution"]


@pytest.mark.parametrize("kind", KINDS)
def test_folded_is_constant(kind):
    layer, x = build(kind), sample()
    folded, before = layer.folded(), layer(x)
    x.attach_grad()
    with autograd.record():
        out = folded(x)
    out.backward()
    assert x.grad.abs().sum().asscalar() > 0
    assert all(p.grad_req == "null" for p in folded.collect_params().values())
    for parameter in layer.collect_params().values():
        parameter.set_data(parameter.data() + 1)
    close(folded(x), before)


def test_a_layer_that_knows_no_shape_is_not_folded(refusal):
    layer = TCL((2, 2, 2))
    layer.initialize()
    refusal(layer.folded, "TCL", layer.name, "not known yet")


@pytest.mark.parametrize(
    "head",
    [
        {"type": "tcl", "rank": [6, 4, 4]},
        {"type": "trl", "rank": [6, 3, 3, 8]},
        {"type": "trl", "rank": 30, "factorization": "cp"},
        {"type": "dense"},
    ],
    ids=lambda head: head["type"],
)
def test_fold_a_network(head):
    """The backbone's parameters are shared, and the output is the same."""
    net = build_network("small_vgg2", head, (1, 28, 28), 10)
    net.initialize(mx.init.Xavier())
    x = normal(2, 1, 28, 28, dtype="float32")
    expected = net(x)
    folded = fold(net)
    folded.hybridize(static_alloc=True, static_shape=True)
    close(folded(x), expected, 1e-5)
    backbone = net.features.collect_params()
    assert backbone.keys() <= folded.collect_params().keys()
    assert all(folded.collect_params()[name] is parameter for name, parameter in backbone.items())


def test_fold_leaves_other_blocks_as_they_are():
    dense = nn.Dense(3)
    assert fold(dense) is dense
