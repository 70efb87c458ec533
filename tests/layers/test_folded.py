"""Layers for inference, with their constants multiplied once."""

from __future__ import annotations

import json
from collections import defaultdict
from math import prod
from typing import NamedTuple

import mxnet as mx
import pytest
from layers.helpers import IN_SHAPES, KINDS, build, close, normal, numpy_output, sample
from mxnet import autograd, gluon
from mxnet.gluon import nn

from trnet.layers import TCL, TRL, fold
from trnet.models import build_network


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
    shapes = [p.shape for name, p in folded.collect_params().items() if "product" in name]
    assert sorted(shapes) == sorted([(1, 49), (200, 2048), (1000, 200)])
    assert (
        sum(prod(s.before) * s.produced for s in folded.plan().steps)
        == 2048 * (49 + 200) + 200 * 1000
    )
    # A matrix that is transposed once is multiplied faster, which MXNet's `dot` is not.
    products = ["Reshape", "FullyConnected", "Flatten", "FullyConnected", "FullyConnected"]
    assert operators(folded) == products
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


def test_a_layer_without_values_is_not_folded(refusal):
    layer = TCL((4, 3), (6, 5))
    refusal(layer.folded, "TCL", layer.name, "have no values yet")


def test_fold_leaves_other_blocks_as_they_are():
    dense = nn.Dense(3)
    assert fold(dense) is dense


class Own(gluon.HybridBlock):
    """A block of one's own, with tensor layers wherever Python allows."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.bn = nn.BatchNorm(in_channels=6)
            self.tcl = TCL((4, 3, 3), (6, 5, 5))
            inner = nn.HybridSequential()
            inner.add(nn.Dropout(0.5), TCL((3, 3, 2), (4, 3, 3)))
            self.register_child(inner)
            self.stages = [inner, {"last": (TRL(7, (2, 2, 2, 3), (3, 3, 2)),)}]
            self.register_child(self.stages[1]["last"][0])
            self.shrink = self._shrink

    def _shrink(self, x):
        return self.tcl(x)

    def hybrid_forward(self, F, x):
        x = self.shrink(self.bn(x))
        return self.stages[1]["last"][0](self.stages[0](x))


class OwnSequential(nn.HybridSequential):
    """A subclass, whose code folding keeps."""

    def hybrid_forward(self, F, x):
        return 2 * super().hybrid_forward(F, x)


def tensor_layers(block):
    if isinstance(block, (TCL, TRL)):
        return [block]
    return [layer for child in block._children.values() for layer in tensor_layers(child)]


@pytest.mark.filterwarnings("ignore:All children of this Sequential")
@pytest.mark.parametrize("container", [nn.Sequential, nn.HybridSequential, OwnSequential])
@pytest.mark.parametrize("hybridized", [False, True])
def test_fold_reaches_layers_in_any_block(container, hybridized):
    net = container()
    net.add(Own(), nn.Dense(3))
    net.initialize()
    net.hybridize(hybridized)
    x = mx.nd.random.normal(shape=(2, 6, 5, 5))
    expected = net(x)
    folded = fold(net)
    assert type(folded) is container and not tensor_layers(folded) and len(tensor_layers(net)) == 3
    close(folded(x), expected, 1e-5)
    folded.hybridize()
    close(folded(x), expected, 1e-5)
    close(net(x), expected)
    assert folded[1] is net[1] and folded[0].bn is net[0].bn


def test_fold_keeps_the_kind_of_a_container():
    class Pair(NamedTuple):
        first: object
        second: object

    class Holding(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.pair = Pair(TRL(7, (2, 2, 2, 3), (3, 3, 2)), None)
            self.by_name = defaultdict(list, trl=self.pair.first)
            self.register_child(self.pair.first)

    net = Holding()
    net.initialize()
    folded = fold(net)
    assert isinstance(folded.pair, Pair) and folded.by_name.default_factory is list
    assert not tensor_layers(folded) and folded.by_name["trl"] is folded.pair.first
    assert isinstance(net.by_name["trl"], TRL)


def test_a_folded_copy_of_a_block_names_its_own_children():
    net = Own()
    net.initialize()
    folded = fold(net)
    with folded.name_scope():
        added = nn.Dense(2)
    assert added.prefix.startswith(net.prefix)
    assert folded.name_scope()._block is folded and net.name_scope()._block is net


def test_a_layer_that_is_used_twice_is_folded_once():
    tcl = TCL((6, 5, 5), (6, 5, 5))
    net = nn.HybridSequential()
    net.add(tcl, nn.Activation("relu"), tcl)
    net.initialize()
    folded, x = fold(net), mx.nd.random.normal(shape=(2, 6, 5, 5))
    assert folded[0] is folded[2]
    close(folded(x), net(x), 1e-5)


def test_a_layer_that_only_a_function_holds_is_refused(refusal):
    net = nn.HybridSequential()
    tcl = TCL((4, 3, 3), (6, 5, 5))
    net.add(tcl, nn.HybridLambda(lambda F, x: tcl(x)))
    net.initialize()
    refusal(lambda: fold(net), tcl.name, "which a function holds")


def test_a_folded_network_stays_as_it_is():
    net = nn.HybridSequential()
    net.add(TCL((4, 3, 3), (6, 5, 5)))
    net.initialize()
    folded = fold(net)
    assert fold(folded) is folded


# What folding makes of a layer, for batches of 1 and 32: its products' shapes.
@pytest.mark.parametrize(
    "layer, batch, shapes",
    [
        (TRL(10, (16, 3, 3, 10), (64, 7, 7)), 1, [(64, 7, 7), (10,)]),
        (TRL(10, (16, 3, 3, 10), (64, 7, 7)), 32, [(64, 7, 7), (10,)]),
        (TRL(10, 30, (32, 7, 7), "cp"), 1, [(32, 7, 7), (10,)]),
        (TRL(10, (10, 10, 8), (32, 7, 7), "tensor_train"), 32, [(32, 7, 7), (10,)]),
        (TRL(10, (3, 1, 1, 3), (192, 7, 7)), 8, [(192, 7, 7), (192, 1, 1), (10,)]),
        (TRL(1000, (50, 1, 1, 50), (512, 7, 7)), 1, [(512, 7, 7), (512, 1, 1), (50,), (1000,)]),
        # Too large to become one matrix, though that would be small.
        (TRL(10, (4, 1, 1, 4), (2048, 7, 7)), 1, [(2048, 7, 7), (2048, 1, 1), (10,)]),
        (TCL((64,), (50_000,)), 1, [(50_000,), (64,)]),
        (TCL((3, 2, 2), (8, 5, 5)), 1, [(8, 5, 5), (3, 2, 2)]),
        (TCL((50, 5, 5), (256, 7, 7)), 1, [(256, 7, 7), (256, 5, 5), (50, 5, 5)]),
    ],
)
def test_a_small_layer_becomes_one_matrix(layer, batch, shapes):
    layer.initialize()
    folded, x = layer.folded(batch), normal(3, *layer.in_shape).astype("float32")
    steps = folded.plan().steps
    assert [steps[0].before, *(step.after for step in steps)] == shapes
    close(folded(x), layer(x), 1e-5)
    folded.hybridize()
    close(folded(x), layer(x), 1e-5)
