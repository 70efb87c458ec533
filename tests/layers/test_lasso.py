"""Tensor lasso: lengths that are shrunk to zero, and layers without what they belonged to."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import close, normal, values
from mxnet import autograd, gluon
from tensor.reference import FORMS

from trnet import TRL, Trainer
from trnet.optimize import shrink_lengths

IN_SHAPE = (4, 5, 3)
RANKS = {"tucker": (4, 3, 2, 3), "cp": 5, "tensor_train": (4, 6, 3)}
LEFT = {"tucker": (3, 3, 2, 2), "cp": 3, "tensor_train": (3, 6, 2)}
ZEROS = {  # places of lengths that are zero
    "tucker": {"factor1": [2], "factor4": [0]},
    "cp": {"factor1": [2], "factor3": [0, 2]},
    "tensor_train": {"core1": [0], "core3": [1]},
}


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


def trl(form: str, units=3, rank=None, **arguments) -> TRL:
    arguments = {"weight_norm": True, "dtype": "float64", "bias_initializer": "normal", **arguments}
    layer = TRL(units, rank or RANKS[form], IN_SHAPE, form, **arguments)
    layer.initialize(mx.init.Xavier())
    return layer


def set_zeros(layer: TRL, places: dict[str, list[int]]) -> None:
    for name, zeros in places.items():
        parameter = layer.collect_params()[f"{layer.prefix}{name}_length"]
        array = parameter.data().asnumpy()
        array[..., zeros] = 0
        parameter.set_data(mx.nd.array(array, dtype=array.dtype))


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_truncated_layer_computes_the_same(form, use_bias):
    layer = trl(form, use_bias=use_bias)
    set_zeros(layer, ZEROS[form])
    less = layer.truncated()
    x = normal(6, *IN_SHAPE)
    assert less.rank == LEFT[form]
    close(less(x), layer(x).asnumpy())
    assert less.factorization.size < layer.factorization.size
    assert layer.rank == RANKS[form]


def test_a_folded_layer_has_no_dead_components(form):
    layer, x = trl(form), normal(6, *IN_SHAPE)
    set_zeros(layer, ZEROS[form])
    folded = layer.folded()
    close(folded(x), layer(x))
    assert f"rank {LEFT[form]}" in repr(folded) and folded.prefix == layer.prefix


def test_a_truncated_layer_goes_on_training(form):
    layer = trl(form)
    set_zeros(layer, ZEROS[form])
    less, x = layer.truncated(), normal(6, *IN_SHAPE)
    trainer = Trainer(less.collect_params(), "sgd", {"learning_rate": 0.1})
    before = values(less)
    with autograd.record():
        out = less(x)
    out.backward()
    trainer.step(6)
    assert all((value != before[name]).any() for name, value in values(less).items())


def test_outputs_that_are_tensors():
    layer = trl("tucker", (2, 3), (4, 3, 2, 2, 3))
    set_zeros(layer, {"factor1": [1], "factor5": [0, 2]})
    less, x = layer.truncated(), normal(6, *IN_SHAPE)
    assert less.rank == (3, 3, 2, 2, 1) and less.units == (2, 3)
    close(less(x), layer(x).asnumpy())


def test_a_mode_keeps_one_component(form):
    layer = trl(form)
    name = next(name for name in values(layer) if name.endswith("_length"))
    set_zeros(layer, {name[: -len("_length")]: list(range(9))[: values(layer)[name].size]})
    less, x = layer.truncated(), normal(6, *IN_SHAPE)
    assert 1 in (less.rank if isinstance(less.rank, tuple) else (less.rank,))
    close(less(x), layer(x).asnumpy())


def test_lengths_shrink_to_zero_and_nothing_else_does(form):
    layer = trl(form)
    before = values(layer)
    shrink_lengths(layer.collect_params().values(), 0.7)
    for name, value in values(layer).items():
        expected = before[name]
        if name.endswith("_length"):
            expected = np.sign(expected) * np.maximum(np.abs(expected) - 0.7, 0)
        np.testing.assert_allclose(value, expected, atol=1e-12)


def test_a_multiplier_and_frozen_lengths():
    layer = trl("tucker")
    layer.factor1_length.lr_mult, layer.factor2_length.grad_req = 0.5, "null"
    before = values(layer)
    shrink_lengths(layer.collect_params().values(), 0.2)
    after = values(layer)
    np.testing.assert_allclose(after["factor1_length"], before["factor1_length"] - 0.1, atol=1e-9)
    np.testing.assert_array_equal(after["factor2_length"], before["factor2_length"])


@pytest.mark.parametrize("devices", [[mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]], ids=len)
def test_the_lasso_finds_the_components_that_are_there(devices):
    """Inputs whose first mode matters in one direction only, seen by a layer of rank 4 in it."""
    mx.random.seed(0)
    np.random.seed(0)
    layer = TRL(2, (4, 5, 3, 2), IN_SHAPE, weight_norm=True)
    layer.initialize(mx.init.Xavier(), ctx=devices)
    settings = {"learning_rate": 0.01, "momentum": 0.5, "wd": 0.01}
    trainer = Trainer(layer.collect_params(), "sgd", settings)
    loss = gluon.loss.L2Loss()
    weight = np.zeros((*IN_SHAPE, 2))
    weight[1] = np.random.standard_normal((5, 3, 2))
    for _ in range(600):
        x = np.random.standard_normal((32, *IN_SHAPE))
        y = np.tensordot(x, weight, axes=3)
        parts = [gluon.utils.split_and_load(mx.nd.array(array), devices) for array in (x, y)]
        with autograd.record():
            losses = [loss(layer(a), b) for a, b in zip(*parts)]
        autograd.backward(losses)
        trainer.step(32)
        shrink_lengths(layer.collect_params().values(), 0.01 * 0.2)
    less = layer.truncated()
    assert less.rank[0] <= 2  # two of them may point in the same direction
    x = np.random.standard_normal((200, *IN_SHAPE))
    y, out = np.tensordot(x, weight, axes=3), less(mx.nd.array(x, ctx=devices[0])).asnumpy()
    assert np.linalg.norm(out - y) < 0.2 * np.linalg.norm(y)


def test_lengths_are_needed(refusal):
    refusal(lambda: trl("cp", weight_norm=False).truncated(), "truncation: expected weight_norm")
