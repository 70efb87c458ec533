"""Weight-normalised factors: a TRL whose columns have their lengths as parameters."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import close, gradients, normal, values
from mxnet.gluon import nn
from tensor.reference import FORMS, full_weight, regress

from trnet import TRL, Trainer
from trnet.models import attach_head, count_head, make_backbone

SHAPES = {1: (6,), 2: (5, 4), 3: (4, 5, 3), 4: (3, 4, 2, 3)}


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


def trl(form: str, n_modes: int = 3, **arguments) -> TRL:
    layer = TRL(3, 0.5, SHAPES[n_modes], form, weight_norm=True, dtype="float64", **arguments)
    layer.initialize(mx.init.Xavier())
    return layer


def weight(form: str, layer: TRL, stored: dict[str, np.ndarray]) -> np.ndarray:
    factors = []
    for name in layer.factorization.parameter_shapes:
        factor = stored[name]
        if name != "core":
            columns = factor.reshape(-1, factor.shape[-1])
            unit = factor / np.linalg.norm(columns, axis=0)
            factor = unit * stored[f"{name}_length"]
        factors.append(factor)
    return full_weight(form, factors)


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize("n_modes", SHAPES, ids="N={}".format)
def test_forward_and_gradients(form, n_modes, hybridized):
    layer, x, head = trl(form, n_modes), normal(4, *SHAPES[n_modes]), normal(4, 3)
    for name, value in values(layer).items():
        parameter = layer.collect_params()[layer.prefix + name]
        parameter.set_data(mx.nd.array(value + 0.1 * np.random.standard_normal(value.shape)))
    layer.hybridize(hybridized)
    stored = values(layer)
    close(layer(x), regress(x.asnumpy(), weight(form, layer, stored)) + stored["bias"])
    close(layer.to_dense_weight(), weight(form, layer, stored).reshape(-1, 3).T)
    close(layer.folded()(x), layer(x).asnumpy())
    got = gradients(layer, x, head)
    for name, value in stored.items():
        for place in ((0,) * value.ndim, tuple(size - 1 for size in value.shape)):
            ends = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[place] += step
                scores = regress(x.asnumpy(), weight(form, layer, {**stored, name: moved}))
                bias = moved if name == "bias" else stored["bias"]
                ends.append(np.sum((scores + bias) * head.asnumpy()))
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(got[name][place], slope, atol=1e-5 * max(1, abs(slope)))


def test_starts_as_without(form):
    mx.random.seed(3)
    plain = TRL(3, 0.5, SHAPES[3], form, dtype="float64")
    plain.initialize(mx.init.Xavier())
    power = plain(normal(50, *SHAPES[3])).square().mean().asscalar()
    got = trl(form)(normal(50, *SHAPES[3])).square().mean().asscalar()
    assert 0.3 * power < got < 3 * power


def test_takes_over_a_dense_layer(form):
    dense = nn.Dense(3, in_units=60, dtype="float64")
    dense.initialize(mx.init.Normal(1))
    rank = {"tucker": (4, 5, 3, 3), "cp": 20, "tensor_train": (4, 9, 3)}[form]
    layer = TRL(3, rank, SHAPES[3], form, weight_norm=True, dtype="float64")
    layer.init_from_dense(dense)
    x = normal(4, *SHAPES[3])
    close(layer(x), dense(x).asnumpy(), 1e-6)


def test_the_trainer_scales_nothing(form):
    layer = trl(form)
    assert not any(hasattr(p, "tensor_layer") for p in layer.collect_params().values())
    Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1})


def test_a_head_of_the_authors():
    head = {"type": "trl", "rank": [4, 2, 2, 6], "norm": True, "weight_norm": True}
    network = attach_head(make_backbone("small_vgg2", (1, 28, 28), 10), head, (1, 28, 28), 10)
    kinds = [type(block) for block in network.output]
    assert kinds == [nn.BatchNorm, TRL, nn.BatchNorm]
    network.initialize()
    assert network(mx.nd.zeros((2, 1, 28, 28))).shape == (2, 10)
    plain = attach_head(
        make_backbone("small_vgg2", (1, 28, 28), 10),
        {"type": "trl", "rank": [4, 2, 2, 6]},
        (1, 28, 28),
        10,
    )
    counts = [count_head(net, (1, 28, 28)) for net in (network, plain)]
    assert counts[0].weights == counts[1].weights
    assert counts[0].normalisation == 4 * 32 + 4 * 10 + 4 + 2 + 2 + 6


@pytest.mark.parametrize("form, rank", [("cp", 5), ("tensor_train", (2, 3)), ("tucker", (2, 2, 3))])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_component_of_length_zero_has_a_direction(form, rank, weight):
    """Of a dense layer of zeros, and of more CP terms than the weight has."""
    layer, x = TRL(3, rank, (2, 2), form, weight_norm=True), mx.nd.random.normal(shape=(4, 2, 2))
    dense = nn.Dense(3, in_units=4)
    dense.initialize(mx.init.Normal(weight) if weight else mx.init.Zero())
    assert layer.init_from_dense(dense).weight_error < 1e-5
    np.testing.assert_allclose(layer(x).asnumpy(), dense(x).asnumpy(), rtol=1e-4, atol=1e-5)
