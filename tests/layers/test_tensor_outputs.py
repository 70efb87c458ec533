"""Tensor regression layers whose outputs are tensors: W (I1, …, IN, O1, …, OM)."""

from __future__ import annotations

from math import prod

import mxnet as mx
import numpy as np
import pytest
from extension.low_rank import LowRank
from hypothesis import given
from hypothesis import strategies as st
from layers.helpers import close, gradients, normal, numpy_output, values
from mxnet import autograd, gluon
from mxnet.gluon import nn
from tensor.reference import FORMS, generators, largest_rank, parameter_shapes, ranks, sizes

from trnet import TRL, Trainer, fold
from trnet.tensor.factorizations import FACTORIZATIONS

IN_SHAPE, UNITS = (4, 5, 3), (3, 4)
RANKS = {"tucker": (3, 2, 2, 2, 3), "cp": 4, "tensor_train": (3, 5, 4, 2)}


@pytest.fixture(params=FORMS, scope="module")
def form(request) -> str:
    return request.param


def trl(form: str, **arguments) -> TRL:
    arguments = {"rank": RANKS[form], "bias_initializer": "normal", "dtype": "float64", **arguments}
    layer = TRL(UNITS, in_shape=IN_SHAPE, factorization=form, **arguments)
    layer.initialize(mx.init.Xavier())
    return layer


@given(st.data())
def test_forward(form, data):
    shapes = st.lists(sizes, min_size=1, max_size=2).map(tuple)
    in_shape, units = data.draw(shapes), data.draw(shapes)
    rank = data.draw(ranks(form, (*in_shape, *units)))
    known = in_shape if form == "cp" or data.draw(st.booleans()) else None
    layer = TRL(units, rank, known, form, bias_initializer="normal", dtype="float64")
    layer.initialize(mx.init.Normal(1))
    layer.hybridize(data.draw(st.booleans()))
    array = data.draw(generators).standard_normal((data.draw(sizes), *in_shape))
    out = layer(mx.nd.array(array, dtype="float64"))
    assert out.shape == (len(array), *units)
    close(out, numpy_output(form, layer, mx.nd.array(array, dtype="float64")))
    assert [value.shape for value in values(layer).values()] == [
        *parameter_shapes(form, (*in_shape, *units), rank),
        units,
    ]
    assert layer.units == (units if len(units) > 1 else units[0])


@pytest.mark.parametrize("units", [(1, 3), (3, 1), (1, 1), (2, 3, 2), (1, 1, 3), (3, 1, 1)])
def test_hybridized_with_modes_of_one(form, units):
    shape = (4, 3, *units)
    rank = largest_rank(form, shape)
    layer = TRL(units, rank, (4, 3), form, bias_initializer="normal", dtype="float64")
    layer.initialize(mx.init.Normal(1))
    layer.hybridize()
    x = normal(5, 4, 3)
    out = layer(x)
    assert out.shape == (5, *units)
    close(out, numpy_output(form, layer, x))


@pytest.mark.parametrize("hybridized", [False, True])
def test_gradients_are_those_of_the_reference(form, hybridized):
    layer = trl(form)
    reference = trl(form, implementation="tensorly")
    for own, other in zip(layer.collect_params().values(), reference.collect_params().values()):
        other.set_data(own.data())
    layer.hybridize(hybridized)
    x, head = normal(6, *IN_SHAPE), normal(6, *UNITS)
    expected = gradients(reference, x, head)
    for name, got in gradients(layer, x, head).items():
        close(got, expected[name])


def test_full_rank_takes_over_a_dense_layer(form):
    dense = nn.Dense(prod(UNITS), in_units=prod(IN_SHAPE), dtype="float64", bias_initializer="one")
    dense.initialize(mx.init.Xavier())
    layer = trl(form, rank=largest_rank(form, (*IN_SHAPE, *UNITS)))
    fit = layer.init_from_dense(dense)
    x = normal(6, *IN_SHAPE)
    close(layer(x).reshape((6, -1)), dense(x).asnumpy(), 1e-5)
    close(layer.to_dense_weight(), dense.weight.data().asnumpy(), 1e-5)
    assert fit.weight_error < 1e-6


def test_starts_as_pooling_and_a_dense_layer():
    dense = nn.Dense(prod(UNITS), in_units=4, dtype="float64")
    dense.initialize(mx.init.Xavier())
    layer = trl("tucker", rank=(4, 1, 1, 3, 4), pooled_modes=(2, 3))
    layer.init_from_dense(dense)
    x = normal(6, *IN_SHAPE)
    close(layer(x).reshape((6, -1)), dense(x.mean(axis=(2, 3))).asnumpy(), 1e-6)


@pytest.mark.parametrize("form", ["tucker", "tensor_train"])  # the terms of CP overlap
def test_a_step_at_full_rank_is_the_dense_step(form):
    layer = trl(form, rank=largest_rank(form, (*IN_SHAPE, *UNITS)))
    before = layer.to_dense_weight().asnumpy()
    x, head = normal(8, *IN_SHAPE), normal(8, *UNITS)
    gradients(layer, x, head)
    Trainer(layer.collect_params(), "sgd", {"learning_rate": 1e-6}).step(1)
    got = (before - layer.to_dense_weight().asnumpy()) / 1e-6
    expected = mx.nd.dot(head.reshape((8, -1)), x.reshape((8, -1)), transpose_a=True).asnumpy()
    assert np.linalg.norm(got - expected) < 0.06 * np.linalg.norm(expected)


def test_learns_a_tensor(form):
    target = trl(form)
    layer = trl(form, rank=RANKS[form])
    loss = gluon.loss.L2Loss()
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 1.0, "momentum": 0.5})
    losses = []
    for _ in range(150):
        x = normal(64, *IN_SHAPE)
        with autograd.record():
            error = loss(layer(x), target(x))
        error.backward()
        trainer.step(64)
        losses.append(error.mean().asscalar())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("weight_norm", [False, True])
def test_options(form, dropout, weight_norm):
    layer = trl(form, dropout=dropout, weight_norm=weight_norm)
    x = normal(6, *IN_SHAPE)
    with autograd.record():
        out = layer(x)
    assert out.shape == (6, *UNITS)
    folded = fold(layer)
    close(folded(x), layer(x).asnumpy(), 1e-6)


@pytest.mark.parametrize("units", [(), (3, 0), (3, 2.5), "34", None, True, (True, 3)])
def test_wrong_units(refusal, units):
    refusal(lambda: TRL(units, 4, IN_SHAPE, "cp"), "units: expected an integer ≥ 1", repr(units))


@pytest.mark.parametrize(
    "form, rank", [("tucker", (3, 2, 2, 12)), ("tensor_train", (3, 5, 4)), ("cp", (4, 2))]
)
def test_a_rank_for_one_output_mode(refusal, form, rank):
    refusal(lambda: TRL(UNITS, rank, IN_SHAPE, form), "rank: expected", repr(rank))


def test_a_form_for_one_output_mode_only(refusal, monkeypatch):
    monkeypatch.setitem(FACTORIZATIONS, "low_rank", LowRank)
    refusal(lambda: TRL(UNITS, 2, IN_SHAPE, "low_rank"), "units: expected an integer", "shape")


def test_no_fit_to_data(refusal):
    layer, dense = trl("tucker"), nn.Dense(12, in_units=60)
    dense.initialize()
    refusal(
        lambda: layer.init_from_dense(dense, data=[normal(6, *IN_SHAPE)]),
        "data: expected none",
        "tensors",
    )


@pytest.mark.parametrize(
    "form, rank", [("cp", 3), ("tucker", (2,) * 7), ("tensor_train", (2,) * 6)]
)
def test_the_dense_weight_of_seven_modes(form, rank):
    """Which MXNet does not transpose."""
    x = mx.nd.random.normal(shape=(3, 2, 2, 2, 2))
    layer = TRL((2, 2, 2), rank, (2, 2, 2, 2), form, use_bias=False)
    layer.initialize(mx.init.Xavier())
    dense = mx.nd.dot(x.reshape((3, -1)), layer.to_dense_weight(), transpose_b=True)
    np.testing.assert_allclose(
        layer(x).asnumpy().reshape(3, -1), dense.asnumpy(), rtol=1e-4, atol=1e-6
    )


def test_more_modes_than_tensorly_has_on_mxnet_are_refused(refusal):
    layer = TRL((2, 2, 2), 3, (2, 2, 2, 2), "cp", implementation="tensorly")
    layer.initialize()
    refusal(lambda: layer(mx.nd.ones((3, 2, 2, 2, 2))), "implementation='tensorly'", "6 dimensions")
