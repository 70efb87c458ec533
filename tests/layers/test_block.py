"""What TCL and TRL do alike: implementations, gradients, and what Gluon asks of a block."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import (
    DEFERRED,
    IN_SHAPES,
    KINDS,
    RANKS,
    build,
    close,
    gradients,
    normal,
    numpy_output,
    parameters,
    sample,
    set_values,
    values,
)
from mxnet import autograd, gluon
from mxnet.gluon import HybridBlock, nn
from tensor.reference import FORMS

from trnet.layers import TCL, TRL, fold
from trnet.layers.block import TensorBlock
from trnet.tensor.plan import TRAINING

ONES = {"tcl": (1, 1, 1), "tucker": (1, 1, 1, 1), "cp": 1, "tensor_train": (1, 1, 1)}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=IN_SHAPES, ids="N={}".format)
def n_modes(request) -> int:
    return request.param


def ways(kind: str, n_modes: int, dtype: str = "float64") -> dict[str, TensorBlock]:
    """A layer in every way of running it, with the same parameters."""
    layers = {
        name: build(kind, n_modes, dtype=dtype, implementation=implementation)
        for name, implementation in [
            ("plain", "fused"),
            ("hybridized", "fused"),
            ("static", "fused"),
            ("reference", "tensorly"),
        ]
    }
    layers["hybridized"].hybridize()
    layers["static"].hybridize(static_alloc=True, static_shape=True)
    for layer in layers.values():
        set_values(layer, values(layers["plain"]))
    return layers


def network(*layers: HybridBlock) -> nn.HybridSequential:
    """Layers between a convolution and a dense layer, none of which knows its input."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, padding=1, activation="relu"), *layers, nn.Dense(2))
    net.initialize(mx.init.Xavier())
    net.cast("float64")
    return net


@pytest.mark.parametrize(
    "dtype, tolerance", [("float16", 2e-3), ("float32", 1e-5), ("float64", 1e-12)]
)
def test_every_way_of_running_is_the_formula(kind, n_modes, dtype, tolerance):
    x = sample(n_modes, dtype=dtype)
    for layer in ways(kind, n_modes, dtype).values():
        out = layer(x)
        assert out.dtype == np.dtype(dtype)
        close(out, numpy_output(kind, layer, x), tolerance)


def finite_differences(
    layer: TensorBlock, x: mx.nd.NDArray, head: mx.nd.NDArray, step: float = 1e-3
) -> dict[str, np.ndarray]:
    """Gradients of ⟨layer(x), head⟩ by central differences, an element at a time."""

    def differences(array: mx.nd.NDArray) -> np.ndarray:
        flat, found = array.reshape(-1), np.zeros(array.size)
        for k, value in enumerate(array.asnumpy().ravel()):
            for sign in (1, -1):
                flat[k] = value + sign * step
                found[k] += sign * (layer(x) * head).sum().asscalar()
            flat[k] = value
        return found.reshape(array.shape) / (2 * step)

    arrays = {"data": x, **{name: p.data() for name, p in parameters(layer).items()}}
    return {name: differences(array) for name, array in arrays.items()}


def test_gradients(kind, n_modes):
    layers, x = ways(kind, n_modes), sample(n_modes)
    head = normal(*layers["plain"](x).shape)
    expected = finite_differences(layers["plain"], x, head)
    assert all(np.abs(gradient).max() > 0 for gradient in expected.values())
    for layer in layers.values():
        for name, gradient in gradients(layer, x, head).items():
            close(gradient, expected[name], 1e-8)


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize("known", [DEFERRED, (0, 5, 0)])
def test_first_forward_tells_the_shape(kind, known, hybridized):
    layer = build(kind, in_shape=known)
    layer.hybridize(hybridized)
    assert layer.in_shape is None
    x = sample()
    close(layer(x), numpy_output(kind, layer, x))
    assert layer.in_shape == IN_SHAPES[3]
    shapes, expected = (
        {name: p.shape for name, p in parameters(block).items()} for block in (layer, build(kind))
    )
    assert shapes == expected


def assert_traces_as_it_runs(net: HybridBlock, *inputs) -> None:
    """Hybridized before the first forward a network gives what it gives as it is."""
    net.hybridize()
    traced = net(*inputs)
    net.hybridize(False)
    close(traced, net(*inputs))


@pytest.mark.parametrize(
    "kind, rank",
    [
        *((kind, ranks[3]) for kind, ranks in RANKS.items()),
        *((form, rank) for form in FORMS for rank in (0.3, "same")),
    ],
)
def test_hybridized_before_the_first_forward(kind, rank):
    layer = build(kind, rank=rank, in_shape=DEFERRED, initialize=False)
    assert_traces_as_it_runs(network(layer), normal(2, 3, 6, 5))
    assert layer.in_shape == (4, 6, 5)


def test_a_chain_hybridized_before_the_first_forward():
    layers = nn.BatchNorm(), TCL((3, 2, 2)), nn.MaxPool2D((2, 1)), TRL(5, (2, 1, 2, 3))
    assert_traces_as_it_runs(network(*layers), normal(2, 3, 6, 5))
    assert [layers[1].in_shape, layers[3].in_shape] == [(4, 6, 5), (3, 1, 2)]


class Towers(HybridBlock):
    """Two inputs in a list, one beside it and one left out; a layer for each way they meet."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        with self.name_scope():
            self.stem = nn.Conv2D(4, 3, padding=1)
            self.left, self.right, self.both = (
                build(kind, in_shape=DEFERRED, initialize=False) for _ in range(3)
            )
            self.head = nn.Dense(2)

    def hybrid_forward(self, F, x, pair, missing=None):
        second, third = pair
        features = self.stem(x)
        outs = [self.left(features), self.right(second)]
        outs.append(self.both(F.concat(features, F.relu(third), dim=1)))
        return self.head(F.concat(*map(F.flatten, outs), dim=1))


def test_hybridized_with_several_inputs(kind):
    net = Towers(kind)
    net.initialize()
    net.cast("float64")
    inputs = normal(2, 3, 5, 4), [normal(2, 6, 3, 4), normal(2, 7, 5, 4)]
    assert_traces_as_it_runs(net, *inputs)
    layers = (net.left, net.right, net.both)
    assert [layer.in_shape for layer in layers] == [(4, 5, 4), (6, 3, 4), (11, 5, 4)]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: TCL((384, 5, 5), (512, 7, 7)),
        lambda: TRL(64, (64, 7, 7, 64), (64, 7, 7)),
        lambda: TRL(64, 64, (64, 7, 7), "cp"),
        lambda: TRL(64, (64, 32, 64), (64, 7, 7), "tensor_train"),
    ],
    ids=KINDS,
)
def test_parameters_stay_what_they_are(layer):
    """Of sizes for which oneDNN changes the layout of weights in place when nothing is recorded."""
    layer = layer()
    layer.initialize(mx.init.Xavier())
    x, before = normal(1, *layer.in_shape, dtype="float32"), values(layer)
    out = layer(x)
    for again in (layer, layer.folded()):
        close(again(x), out, 1e-5)
        again.hybridize(static_alloc=True, static_shape=True)
        close(again(x), out, 1e-5)
    with autograd.record():
        close(layer(x), out, 1e-5)
    assert all(np.array_equal(before[name], array) for name, array in values(layer).items())


def test_symbols(refusal, kind):
    known, unknown = build(kind), build(kind, in_shape=DEFERRED)
    refusal(lambda: unknown(mx.sym.var("data")), unknown.name, "in_shape")
    x = sample(batch=5)
    for layer, variable in [
        (known, mx.sym.var("data")),
        (unknown, mx.sym.var("data", shape=(0, *IN_SHAPES[3]))),
    ]:
        symbol = layer(variable)
        arrays = {layer.prefix + name: p.data() for name, p in parameters(known).items()}
        assert set(symbol.list_arguments()) == {"data", *arrays}
        (out,) = symbol.bind(mx.cpu(), {"data": x, **arrays}).forward()
        close(out, known(x), 1e-12)


def test_export_and_import(kind, tmp_path):
    net = network(build(kind, in_shape=DEFERRED, initialize=False))
    net.hybridize()
    net(normal(2, 3, 6, 5))
    net.export(str(tmp_path / "net"))
    files = str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    imported = gluon.SymbolBlock.imports(*files)
    for batch in (1, 7):
        x = normal(batch, 3, 6, 5)
        close(imported(x), net(x), 1e-12)


@pytest.mark.parametrize("flags", [{}, {"static_alloc": True, "static_shape": True}])
def test_a_graph_of_its_own_copies_no_input(kind, n_modes, flags, tmp_path):
    """In inference it takes views, at any batch; what is exported takes inputs as they are."""
    plain, layer = build(kind, n_modes), build(kind, n_modes)
    set_values(layer, values(plain))
    layer.hybridize(**flags)
    for batch in (2, 5, 2):
        expected, x = sample(n_modes, batch), sample(n_modes, batch)
        x[:] = expected
        for block, array in ((plain, expected), (layer, x)):
            array.attach_grad()
            with autograd.record():
                out = block(array)
            out.backward(mx.nd.ones_like(out))
        close(layer(x), plain(x), 1e-12)
        close(x.grad, expected.grad, 1e-12)
    first = layer._products(mx.nd, layer._factors_on(mx.cpu()), TRAINING)[0]
    assert layer._viewing._view == first.takes and not layer._children
    layer.export(str(tmp_path / "layer"))
    files = str(tmp_path / "layer-symbol.json"), ["data"], str(tmp_path / "layer-0000.params")
    close(gluon.SymbolBlock.imports(*files)(x), plain(x), 1e-12)
    layer.hybridize(False)
    close(layer(x), plain(x), 1e-12)


class Flipped(TRL):
    """A layer of somebody's own, which looks at the input's modes."""

    def hybrid_forward(self, F, x, **parameters):
        return super().hybrid_forward(F, F.flip(x, axis=1), **parameters)


def test_a_layer_of_ones_own_takes_inputs_as_they_are():
    layer = Flipped(2, (2, 1, 1, 2), (4, 3, 3))
    layer.initialize(mx.init.Normal(1.0))
    x = normal(2, 4, 3, 3, dtype="float32")
    expected = layer(x)
    layer.hybridize()
    close(layer(x), expected, 1e-5)


def test_inference_after_all_that_changes_a_graph(kind):
    """In a recorded scope, after a cast, other parameters, and on a folded layer."""
    plain, layer = build(kind), build(kind)
    set_values(layer, values(plain))
    layer.hybridize()
    x = sample()
    close(layer(x), plain(x), 1e-12)
    with autograd.record():
        with autograd.pause():
            close(layer(x), plain(x), 1e-12)
        close(layer(x), plain(x), 1e-12)
    set_values(layer, {name: 2 * value for name, value in values(plain).items()})
    set_values(plain, values(layer))
    close(layer(x), plain(x), 1e-12)
    for block in (plain, layer):
        block.cast("float32")
    x = x.astype("float32")
    close(layer(x), plain(x), 1e-4)
    folded = fold(layer)
    folded.hybridize()
    close(folded(x), plain(x), 1e-4)
    close(layer(x), plain(x), 1e-4)


def test_save_and_load(kind, tmp_path):
    file = str(tmp_path / "layer.params")
    saved, x = build(kind), sample()
    saved.save_parameters(file)
    for target in (
        build(kind),
        build(kind, initialize=False),
        build(kind, in_shape=DEFERRED),
        build(kind, in_shape=DEFERRED, initialize=False),
    ):
        target.load_parameters(file, ctx=mx.cpu())
        close(target(x), saved(x), 0)


@pytest.mark.parametrize("shape", [(9, 5, 3), (4, 5, 3)])
def test_loaded_parameters_that_do_not_fit(refusal, kind, shape, tmp_path):
    """Known only when the input is: of another input's size, or of another rank."""
    file = str(tmp_path / "layer.params")
    build(kind).save_parameters(file)
    rank = {} if shape[0] == 9 else {"rank": ONES[kind]}
    layer = build(kind, in_shape=DEFERRED, initialize=False, **rank)
    layer.load_parameters(file, ctx=mx.cpu())
    refusal(lambda: layer(normal(2, *shape)), layer.name, str(shape))


def test_shared_parameters(kind):
    layer, x = build(kind), sample()
    twin = build(kind, params=layer.params, initialize=False)
    close(twin(x), layer(x), 0)
    assert list(twin.collect_params()) == list(layer.collect_params())


def test_shared_parameters_are_drawn_by_the_layer_that_runs_first(kind):
    first = build(kind, in_shape=DEFERRED)
    twin = build(kind, in_shape=DEFERRED, params=first.params, initialize=False)
    x = sample()
    close(twin(x), first(x), 0)


def test_summary(kind, capsys):
    layer = build(kind, in_shape=DEFERRED)
    network(layer).summary(normal(2, 3, 6, 5))
    size = sum(value.size for value in values(layer).values())
    (row,) = (line for line in capsys.readouterr().out.splitlines() if type(layer).__name__ in line)
    assert row.split()[-1] == str(size)


@pytest.mark.parametrize("implementation", ["fused", "hybridized", "tensorly"])
def test_several_contexts(kind, implementation):
    contexts = [mx.cpu(0), mx.cpu(1)]
    how = "tensorly" if implementation == "tensorly" else "fused"
    layer = build(kind, in_shape=DEFERRED, implementation=how, initialize=False)
    layer.initialize(mx.init.Xavier(), ctx=contexts)
    layer.hybridize(implementation == "hybridized")
    x = sample(batch=6)
    with autograd.record():
        outs = [layer(part) for part in gluon.utils.split_and_load(x, contexts)]
    assert [out.context for out in outs] == contexts
    expected = numpy_output(kind, layer, x)
    close(np.concatenate([out.asnumpy() for out in outs]), expected)
    autograd.backward(outs)
    assert layer.to_dense_weight().context == contexts[0]

    whole = build(kind)
    set_values(whole, values(layer))
    head = mx.nd.ones(expected.shape, dtype="float64")
    expected = gradients(whole, x, head)
    for name, parameter in parameters(layer).items():
        close(sum(gradient.asnumpy() for gradient in parameter.list_grad()), expected[name])


@pytest.mark.parametrize("hybridized", [False, True])
def test_cast(kind, hybridized):
    layer, x = build(kind, dtype="float32"), sample()
    layer.hybridize(hybridized)
    for dtype, tolerance in [("float32", 1e-5), ("float16", 2e-3), ("float64", 1e-12)]:
        layer.cast(dtype)
        got = layer(x.astype(dtype))
        assert got.dtype == layer.to_dense_weight().dtype == np.dtype(dtype)
        close(got, numpy_output(kind, layer, x.astype(dtype)), tolerance)
        assert all(np.isfinite(g).all() for g in gradients(layer, x.astype(dtype), got).values())


@pytest.mark.parametrize("rank", ["usual", "one"])
def test_a_step_changes_every_parameter(kind, rank):
    layer = build(kind, **({"rank": ONES[kind]} if rank == "one" else {}))
    trainer = gluon.Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1})
    before, x = values(layer), sample(batch=4)
    with autograd.record():
        loss = (layer(x) ** 2).mean()
    loss.backward()
    trainer.step(1)
    assert [name for name, v in values(layer).items() if np.array_equal(v, before[name])] == []


def test_initialisation_is_reproducible(kind):
    def drawn(seed: int, **arguments) -> dict[str, np.ndarray]:
        mx.random.seed(seed)
        layer = build(kind, **arguments)
        layer(sample())
        return values(layer)

    first, again, later, other = drawn(1), drawn(1), drawn(1, in_shape=DEFERRED), drawn(2)
    for name, value in first.items():
        assert np.array_equal(value, again[name]) and np.array_equal(value, later[name])
        assert not np.array_equal(value, other[name])


def test_explicit_initializer_is_taken_as_it_stands(kind):
    layer = build(kind, weight_initializer=mx.init.Constant(0.5), bias_initializer="ones")
    assert {name: set(v.ravel()) for name, v in values(layer).items()} == {
        name: {1.0 if name == "bias" else 0.5} for name in values(layer)
    }


def test_without_bias(kind):
    layer, x = build(kind, use_bias=False), sample()
    assert "bias" not in values(layer)
    twin = build(kind)
    set_values(twin, {**values(layer), "bias": np.zeros_like(values(twin)["bias"])})
    close(layer(x), twin(x), 1e-12)
    layer.hybridize()
    close(layer(x), twin(x), 1e-12)


def test_equal_dense_weight(kind, n_modes):
    layer, x = build(kind, n_modes), sample(n_modes)
    weight = layer.to_dense_weight()
    assert weight.context == mx.cpu() and weight.dtype == np.float64
    flat = mx.nd.dot(x.reshape((x.shape[0], -1)), weight, transpose_b=True)
    out = layer(x)
    close(flat.reshape(out.shape) + layer.bias.data().expand_dims(0), out)


@pytest.mark.parametrize("nested", [False, True])
def test_the_reference_cannot_be_traced(refusal, kind, nested):
    layer = build(kind, implementation="tensorly", in_shape=DEFERRED)
    net = network(layer) if nested else layer
    net.hybridize()
    refusal(lambda: net(normal(2, 4, 5, 3)), layer.name, "'tensorly'", "'fused'")


@pytest.mark.parametrize("size", [(9,), (5, 4), (4, 4, 4), (3, 4, 2)], ids=str)
def test_after_a_convolution_of_any_order(kind, size):
    rank = (8, *[2] * len(size))
    ranks = {"tcl": rank, "tucker": (*rank, 3), "cp": 9, "tensor_train": (*rank[:-1], 2, 3)[1:]}
    convolution = {1: nn.Conv1D, 2: nn.Conv2D, 3: nn.Conv3D}[len(size)]
    in_shape = (32, *size)  # 32 channels: oneDNN leaves these in a layout of its own
    net = nn.HybridSequential()
    net.add(
        convolution(32, 3, padding=1, activation="relu"),
        build(kind, initialize=False, dtype="float32", rank=ranks[kind], in_shape=in_shape),
    )
    net.initialize(mx.init.Xavier())
    x = normal(2, 16, *size, dtype="float32")
    expected = net(x)
    head = mx.nd.ones_like(expected)
    wanted = gradients(net, x, head)
    for flags in ({}, {"static_alloc": True, "static_shape": True}):
        net.hybridize(**flags)
        for name, gradient in gradients(net, x, head).items():
            close(gradient, wanted[name], 1e-4)
        close(net(x), expected, 1e-5)
    folded = fold(net)
    folded.hybridize()
    close(folded(x), expected, 1e-5)
