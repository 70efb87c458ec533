"""The tensor regression layer against its formula, how it starts, and what it takes over."""

from __future__ import annotations

from math import prod

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers.helpers import (
    INITIALIZERS,
    close,
    dense_power,
    gradients,
    initial_power,
    normal,
    numpy_output,
    values,
)
from mxnet import autograd, gluon
from mxnet.gluon import nn
from tensor.reference import (
    FORMS,
    full_weight,
    generators,
    in_shapes,
    largest_rank,
    parameter_shapes,
    ranks,
    sizes,
)

from trnet import TRL, Trainer

IN_SHAPE, UNITS = (6, 4, 5), 3


@pytest.fixture(params=FORMS, scope="module")
def form(request) -> str:
    return request.param


@given(st.data())
def test_forward(form, data):
    in_shape, units = data.draw(in_shapes), data.draw(sizes)
    rank = data.draw(ranks(form, (*in_shape, units)))
    known = in_shape if form == "cp" or data.draw(st.booleans()) else None
    layer = TRL(units, rank, known, form, bias_initializer="normal", dtype="float64")
    layer.initialize(mx.init.Normal(1))
    layer.hybridize(data.draw(st.booleans()))
    array = data.draw(generators).standard_normal((data.draw(sizes), *in_shape))
    x = mx.nd.array(array, dtype="float64")
    out = layer(x)
    assert out.shape == (x.shape[0], units)
    close(out, numpy_output(form, layer, x))
    assert layer.rank == layer.factorization.rank == rank and layer.in_shape == in_shape
    assert [value.shape for value in values(layer).values()] == [
        *parameter_shapes(form, (*in_shape, units), rank),
        (units,),
    ]


def test_rank_is_exact_once_the_shape_is_known(form):
    layer = TRL(UNITS, 0.5, (0, 0, 0), form)
    assert layer.rank == 0.5 and layer.factorization is None and "?" in repr(layer)
    layer.infer_shape(mx.nd.zeros((1, *IN_SHAPE)))
    assert layer.rank == TRL(UNITS, 0.5, IN_SHAPE, form).rank != 0.5
    assert f"6×4×5 -> 3, {form}, rank {layer.rank}" in repr(layer)
    assert layer.factorization.size == sum(
        prod(p.shape) for name, p in layer.collect_params().items() if "bias" not in name
    )


# How it starts


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize("in_shape, units", [((300,), 20), ((24, 5, 5), 10), ((9, 4, 5, 3), 12)])
@pytest.mark.parametrize("size", ["ones", "small", "fraction", "largest"])
def test_initial_variance_is_that_of_a_dense_layer(form, initializer, in_shape, units, size):
    largest = largest_rank(form, (*in_shape, units))
    rank = {
        "ones": 1 if form == "cp" else (1,) * len(largest),
        "small": 4 if form == "cp" else tuple(min(3, bound) for bound in largest),
        "fraction": 0.1,
        "largest": min(largest, 100) if form == "cp" else largest,
    }[size]
    layer, x = TRL(units, rank, in_shape, form), normal(2000, *in_shape, dtype="float32")
    expected = dense_power(initializer, units, prod(in_shape))
    for _ in range(3):
        assert initial_power(layer, initializer, x) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize("rank", [(5, 1, 1, 3), (4, 3, 2, 2), (1, 1, 1, 1)])
def test_pooled_modes_start_as_pooling_and_dense(initializer, rank):
    layer = TRL(10, rank, (24, 5, 4), pooled_modes=(2, 3), dtype="float64")
    x = normal(2000, 24, 5, 4)
    power = initial_power(layer, initializer, x)
    assert power == pytest.approx(dense_power(initializer, 10, 24) / 20, rel=0.25)
    weight = layer.to_dense_weight().reshape((10, 24, 20)).sum(axis=2)
    close(layer(x), mx.nd.dot(x.mean(axis=(2, 3)), weight, transpose_b=True))


def test_pooled_modes_learn_to_differ_from_pooling():
    """Entries of the core that start at zero, off the average, have a gradient."""
    layer = TRL(4, (5, 3, 2, 3), (6, 4, 5), pooled_modes=(2, 3), dtype="float64")
    layer.initialize()
    core = gradients(layer, normal(3, 6, 4, 5), normal(3, 4))["core"]
    assert np.abs(core).min() > 1e-6


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "factorization, rank, pooled_modes",
    [
        ("tucker", (8, 4, 4, 4), ()),
        ("tucker", (6, 1, 1, 4), ()),
        ("tucker", (6, 1, 1, 4), (2, 3)),
        ("tucker", (6, 2, 1, 4), (2, 3)),
        ("cp", 6, ()),
        ("tensor_train", (4, 6, 4), ()),
    ],
)
def test_trains(factorization, rank, pooled_modes, seed):
    """At a dense layer's rate, after pooling or not: no NaN, no dead start."""
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    labels = np.arange(64) % 4
    classes = rng.standard_normal((4, 3, 9, 9)) + 0.5 * rng.standard_normal((4, 3, 1, 1))
    images = classes[labels] + 0.5 * rng.standard_normal((64, 3, 9, 9))
    x, y = mx.nd.array(images), mx.nd.array(labels)

    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(16, 3, use_bias=False),
        nn.BatchNorm(),
        nn.Activation("relu"),
        TRL(4, rank, (0, 0, 0), factorization, pooled_modes=pooled_modes),
    )
    net.initialize("xavier")
    net.hybridize()
    momentum = {"learning_rate": 0.1, "momentum": 0.9}
    trainer = Trainer(net.collect_params(), "sgd", momentum)
    cross_entropy, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    for _ in range(30):
        with autograd.record():
            loss = cross_entropy(net(x), y)
        loss.backward()
        trainer.step(len(labels))
        losses.append(loss.mean().asscalar())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


# What it takes over


def dense_layer(in_units: int, units: int = UNITS, **arguments) -> nn.Dense:
    arguments = {"dtype": "float64", "bias_initializer": "normal", **arguments}
    dense = nn.Dense(units, in_units=in_units, **arguments)
    dense.initialize(mx.init.Normal(1))
    return dense


@pytest.mark.parametrize("in_shape", [(7,), (4, 6), (6, 4, 5), (3, 4, 2, 3)])
@pytest.mark.parametrize("initialized", [False, True])
def test_full_rank_takes_over_a_dense_layer(form, in_shape, initialized):
    dense, x = dense_layer(prod(in_shape)), normal(8, *in_shape)
    rank = largest_rank(form, (*in_shape, UNITS))
    layer = TRL(UNITS, rank, in_shape, form, dtype="float64")
    if initialized:
        layer.initialize()
    layer.init_from_dense(dense)
    close(layer(x), dense(x), 1e-6)
    close(layer.to_dense_weight(), dense.weight.data(), 1e-6)
    layer.hybridize()
    close(layer(x), dense(x), 1e-6)


@pytest.mark.parametrize("rank", [(6, 1, 1, 3), (6, 4, 5, 3), (6, 2, 1, 3)])
def test_full_rank_takes_over_pooling_and_dense(rank):
    dense, x = dense_layer(IN_SHAPE[0]), normal(8, *IN_SHAPE)
    layer = TRL(UNITS, rank, IN_SHAPE, dtype="float64")
    layer.init_from_dense(dense, pooled_modes=(2, 3))
    close(layer(x), dense(nn.GlobalAvgPool2D()(x)), 1e-8)


@pytest.mark.parametrize(
    "factorization, rank, tolerance",
    [
        ("tucker", (2, 3, 2, 2), 1e-6),
        ("tensor_train", (2, 3, 2), 1e-6),
        ("cp", 2, 0.02),
        ("cp", 5, 0.05),  # above the size of two modes
    ],
)
def test_a_dense_weight_of_low_rank_is_recovered(factorization, rank, tolerance):
    shapes = parameter_shapes(factorization, (*IN_SHAPE, UNITS), rank)
    weight = full_weight(factorization, [np.random.standard_normal(s) for s in shapes])
    dense, x = dense_layer(prod(IN_SHAPE)), normal(8, *IN_SHAPE)
    dense.weight.set_data(mx.nd.array(weight.reshape(-1, UNITS).T, dtype="float64"))
    layer = TRL(UNITS, rank, IN_SHAPE, factorization, dtype="float64")
    layer.init_from_dense(dense)
    close(layer(x), dense(x), tolerance)


def test_takes_over_what_is_trained_on_then(form):
    """From the dense layer's contexts, in the layer's own type, without a bias as with one."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    dense = nn.Dense(UNITS, in_units=prod(IN_SHAPE), use_bias=False)
    dense.initialize(mx.init.Normal(1), ctx=contexts)
    layer = TRL(UNITS, 0.5, IN_SHAPE, form, dtype="float64", bias_initializer="ones")
    layer.init_from_dense(dense)
    assert all(p.list_ctx() == contexts for p in layer.collect_params().values())
    assert {value.dtype for value in values(layer).values()} == {np.dtype("float64")}
    assert not values(layer)["bias"].any()
    trainer = gluon.Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1})
    before = values(layer)
    with autograd.record():
        losses = [
            layer(part).square().sum()
            for part in gluon.utils.split_and_load(normal(4, *IN_SHAPE), contexts)
        ]
    autograd.backward(losses)
    trainer.step(4)
    assert [name for name, v in values(layer).items() if np.array_equal(v, before[name])] == []


def test_pooled_modes_of_the_constructor_are_the_default():
    rank = (6, 1, 1, 3)
    layer = TRL(UNITS, rank, in_shape=IN_SHAPE, pooled_modes=(2, 3), dtype="float64")
    dense = dense_layer(6, UNITS)
    layer.init_from_dense(dense)
    x = normal(2, *IN_SHAPE)
    np.testing.assert_allclose(layer(x).asnumpy(), dense(x.mean(axis=(2, 3))).asnumpy())
    with pytest.raises(ValueError, match="expected a weight"):
        layer.init_from_dense(dense, pooled_modes=())


@pytest.mark.parametrize(
    "dense, arguments, pooled_modes, said",
    [
        ((120, 4), {}, (), ["(4, 120)", "(3, 120)", "(6, 4, 5)"]),
        ((60, 3), {}, (), ["(3, 60)", "(3, 120)"]),
        ((120, 3), {}, (2, 3), ["(3, 120)", "(3, 6)", "(2, 3)"]),
        ((6, 3), {}, (2, 4), ["pooled_modes", "(2, 4)", "3"]),
        ((6, 3), {}, (0, 2), ["pooled_modes", "(0, 2)", "from 1"]),
        ((120, 3), {"use_bias": False}, (), ["bias", "use_bias=True"]),
        ((120, 3), {"in_shape": (0, 0, 0)}, (), ["in_shape"]),
        ((6, 3), {"factorization": "cp", "rank": 2}, (2, 3), ["pooled_modes", "'cp'"]),
        ((30, 3), {"factorization": "tensor_train", "rank": 0.5}, (2,), ["pooled_modes"]),
    ],
)
def test_wrong_dense_layer(refusal, dense, arguments, pooled_modes, said):
    layer = TRL(**{"units": UNITS, "rank": (6, 1, 1, 3), "in_shape": IN_SHAPE, **arguments})
    message = refusal(lambda: layer.init_from_dense(dense_layer(*dense), pooled_modes), *said)
    assert message.startswith(f"TRL {layer.name}: ")


# What it refuses


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"units": 0}, ["units", "0", "an integer ≥ 1"]),
        ({"units": 2.0}, ["units", "2.0", "integer"]),
        ({"units": True}, ["units", "True"]),
        ({"factorization": "tt"}, ["'tt'", "'tucker', 'cp', 'tensor_train'"]),
        ({"factorization": None}, ["None", "'tucker', 'cp', 'tensor_train'"]),
        ({"factorization": ["cp"]}, ["['cp']", "'tucker', 'cp', 'tensor_train'"]),
        ({"pooled_modes": (4,)}, ["pooled_modes", "4", "3"]),
        ({"pooled_modes": (0,)}, ["pooled_modes", "0", "from 1"]),
        ({"pooled_modes": 2}, ["pooled_modes", "2"]),
        ({"pooled_modes": (2,), "factorization": "cp", "rank": 2}, ["pooled_modes", "'cp'"]),
        ({"rank": (0, 1, 1, 1)}, ["mode 1", "0", "1 to 6"]),
        ({"rank": (7, 1, 1, 1)}, ["mode 1", "7", "1 to 6"]),
        ({"rank": (1, -5, 1, 1)}, ["mode 2", "-5", "1 to 4"]),
        ({"rank": (1, 1, True, 1)}, ["mode 3", "True", "1 to 5"]),
        ({"rank": (1, 1, 1, 4)}, ["the output", "4", "1 to 3"]),
        ({"rank": 1.5}, ["1.5", "(0, 1]"]),
        ({"rank": "full"}, ["'full'", "'same'"]),
        ({"rank": (1, 16, 1), "factorization": "tensor_train"}, ["mode 2", "16", "1 to 15"]),
        ({"rank": 0, "factorization": "cp"}, ["0", "an integer ≥ 1"]),
        ({"rank": (2, 2), "factorization": "cp"}, ["(2, 2)", "an integer ≥ 1"]),
    ],
)
@pytest.mark.parametrize("way", ["known", "deferred", "hybridized"])
def test_wrong_arguments(refusal, arguments, said, way):
    def run() -> None:
        in_shape = IN_SHAPE if way == "known" else (0, 0, 0)
        layer = TRL(**{"units": 3, "rank": (6, 1, 1, 3), "in_shape": in_shape, **arguments})
        layer.initialize()
        layer.hybridize(way == "hybridized")
        layer(mx.nd.ones((2, *IN_SHAPE)))

    assert refusal(run, *said).startswith("TRL trl")


@pytest.mark.parametrize("factorization, rank", [("cp", 2), *((form, 0.5) for form in FORMS)])
def test_a_rank_that_does_not_tell_the_order(refusal, factorization, rank):
    message = refusal(lambda: TRL(UNITS, rank, factorization=factorization), "(0, 0, 0)", str(rank))
    assert message.startswith("TRL trl")


def test_a_train_whose_cores_are_joined_learns_as_its_formula_does():
    """Gradients of all cores, where the first two contract their modes at once."""
    layers = [
        TRL(60, (60, 3, 60), (200, 5, 9), "tensor_train", implementation=i, dtype="float64")
        for i in ("fused", "tensorly")
    ]
    assert [step.last for step in layers[0].plan().steps] == [2, 1]
    for layer in layers:
        layer.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=(4, 200, 5, 9), dtype="float64")
    gradients = []
    for layer in layers:
        for own, first in zip(layer.collect_params().values(), layers[0].collect_params().values()):
            own.set_data(first.data())
        x.attach_grad()
        with mx.autograd.record():
            out = (layer(x) ** 2).sum()
        out.backward()
        arrays = [x.grad, *(p.grad() for p in layer.collect_params().values())]
        gradients.append([array.asnumpy() for array in arrays])
    for fused, reference in zip(*gradients):
        np.testing.assert_allclose(fused, reference, rtol=1e-9, atol=1e-9)
