"""Tensor lasso: components that are shrunk to zero, and layers without them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import close, normal, values
from mxnet import autograd, gluon
from tensor.reference import FORMS, full_weight

from trnet import TRL, Trainer
from trnet.optimize import shrink_components
from trnet.tensor.factorizations import FACTORIZATIONS

IN_SHAPE = (4, 5, 3)
RANKS = {"tucker": (4, 3, 2, 3), "cp": 5, "tensor_train": (4, 6, 3)}
LEFT = {"tucker": (2, 3, 2, 3), "cp": 3, "tensor_train": (2, 6, 3)}


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


def trl(form: str, units=3, rank=None, **arguments) -> TRL:
    starts = {"weight_initializer": mx.init.Normal(1.0), "bias_initializer": "normal"}
    arguments = {"dtype": "float64", **starts, **arguments}
    layer = TRL(units, rank or RANKS[form], IN_SHAPE, form, **arguments)
    layer.initialize()
    return layer


def lower(layer: TRL, form: str) -> None:
    """Make the weight's rank in the first mode, or the number of terms, two lower.

    In no direction of the parameters: two combinations of the first mode's components vanish.
    """
    name = {"tucker": "factor1", "cp": "factor1", "tensor_train": "core1"}[form]
    parameter = layer._reg_params[name]
    array = parameter.data().asnumpy()
    if form == "cp":
        array[:, [1, 4]] = 0
    else:
        mixing = np.random.default_rng(0).standard_normal((4, 2))
        array = array @ mixing @ np.linalg.pinv(mixing)
    parameter.set_data(mx.nd.array(array, dtype=array.dtype))


def weight(layer: TRL) -> np.ndarray:
    """W (I1, …, IN, O)."""
    return layer.to_dense_weight().asnumpy().T.reshape(*IN_SHAPE, -1)


def unfoldings(form: str, weight: np.ndarray) -> list[np.ndarray]:
    """Those whose ranks are the layer's."""
    if form == "tucker":
        return [np.moveaxis(weight, k, 0).reshape(size, -1) for k, size in enumerate(weight.shape)]
    return [weight.reshape(int(np.prod(weight.shape[:cut])), -1) for cut in range(1, weight.ndim)]


def term_norms(factors: dict[str, np.ndarray]) -> np.ndarray:
    return np.prod([np.linalg.norm(factor, axis=0) for factor in factors.values()], axis=0)


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_truncated_layer_computes_the_same(form, use_bias):
    layer = trl(form, use_bias=use_bias)
    lower(layer, form)
    less = layer.truncated()
    x = normal(6, *IN_SHAPE)
    assert less.rank == LEFT[form] and layer.rank == RANKS[form]
    close(less(x), layer(x))
    assert less.factorization.size < layer.factorization.size
    assert less.prefix == layer.prefix


def test_a_truncated_layer_trains_as_the_layer_does(form):
    layer = trl(form)
    lower(layer, form)
    first, *_, last = layer.collect_params().values()
    first.lr_mult, first.wd_mult, last.grad_req = 5.0, 0.5, "null"
    less_first, *_, less_last = layer.truncated().collect_params().values()
    assert (less_first.lr_mult, less_first.wd_mult, less_last.grad_req) == (5.0, 0.5, "null")


def test_a_layer_of_full_rank_stays(form):
    layer = trl(form)
    assert layer.truncated() is layer


def test_a_tolerance_is_a_share_of_the_largest_singular_value(form):
    layer = trl(form)
    tolerance, less = 0.3, layer.truncated(0.3)
    if form == "cp":
        norms = term_norms({n: v for n, v in values(layer).items() if n != "bias"})
        expected = int(np.sum(norms > tolerance * norms.max()))
    else:
        found = [np.linalg.svd(u, compute_uv=False) for u in unfoldings(form, weight(layer))]
        expected = tuple(int(np.sum(s > tolerance * s[0])) for s in found)
    assert less.rank == expected != layer.rank


def test_a_truncated_layer_goes_on_training(form):
    layer = trl(form)
    lower(layer, form)
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
    lower(layer, "tucker")
    less, x = layer.truncated(), normal(6, *IN_SHAPE)
    assert less.rank == (2, 3, 2, 2, 3) and less.units == (2, 3)
    close(less(x), layer(x))


def test_pooled_modes():
    layer = TRL(3, (3, 1, 1, 3), IN_SHAPE, pooled_modes=(2, 3), dtype="float64")
    layer.initialize(mx.init.Normal(1.0))
    dense = weight(layer).sum(axis=(1, 2))  # of the dense layer after the pooling
    expected = np.linalg.svd(dense, compute_uv=False)[:3] - 0.01
    shrink_components(layer.collect_params().values(), 0.01)
    found = np.linalg.svd(weight(layer).sum(axis=(1, 2)), compute_uv=False)[:3]
    # Each of the two modes with a rank shrinks them.
    assert (found < expected).all() and (found > expected - 0.03).all()


def test_shrinking_is_the_proximal_step_of_one_unfolding(form):
    """Of the first mode, cut, or all terms; W's other modes are shrunk after it."""
    made = FACTORIZATIONS[form]((*IN_SHAPE, 3), RANKS[form])
    rng = np.random.default_rng(0)
    before = {n: rng.standard_normal(shape) for n, shape in made.parameter_shapes.items()}
    if form == "cp":
        after = made.shrunk(before, 0.7)
        norms, expected = (
            np.prod([np.linalg.norm(U, axis=0) for U in p.values()], axis=0)
            for p in (after, before)
        )
        np.testing.assert_allclose(norms, np.maximum(expected - 0.7, 0), atol=1e-9)
        return
    only_first = type("Form", (type(made),), {"bonds": property(lambda self: made.bonds[:1])})
    one = only_first((*IN_SHAPE, 3), RANKS[form])
    W, shrunk = (
        unfoldings(form, full_weight(form, list(p.values())))[0]
        for p in (before, one.shrunk(before, 5.0))
    )
    U, s, V = np.linalg.svd(W, full_matrices=False)
    np.testing.assert_allclose(shrunk, U * np.maximum(s - 5.0, 0) @ V, atol=1e-9)


def test_a_far_larger_penalty_leaves_nothing(form):
    layer = trl(form)
    shrink_components(layer.collect_params().values(), 1e6)
    assert not weight(layer).any() and all(np.isfinite(v).all() for v in values(layer).values())
    less = layer.truncated()
    assert np.prod(less.rank) == 1
    close(less(normal(6, *IN_SHAPE)), layer(normal(6, *IN_SHAPE)))


def test_a_diverged_layer_is_left_to_the_training(form):
    layer = trl(form)
    parameter = layer._reg_params[layer._factor_names()[0]]
    parameter.set_data(parameter.data() * float("nan"))
    before = values(layer)
    shrink_components(layer.collect_params().values(), 0.1)
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_multiplier_and_what_is_left_alone(form):
    half, whole, frozen, normed = (trl(form) for _ in range(4))
    plain = gluon.nn.Dense(2, in_units=3, prefix="plain_")
    plain.initialize()
    normed = trl(form, weight_norm=True)
    layers = [half, whole, frozen, normed, plain]
    for parameter in half.collect_params().values():
        parameter.lr_mult = 0.5
    next(iter(frozen.collect_params().values())).grad_req = "null"
    before = [values(layer) for layer in layers]
    shrink_components([p for layer in layers for p in layer.collect_params().values()], 0.2)
    for layer, old in zip(layers[2:], before[2:]):
        for name, value in values(layer).items():
            np.testing.assert_array_equal(value, old[name])
    expected = trl(form)
    for name, parameter in expected._reg_params.items():
        parameter.set_data(mx.nd.array(before[0][name], dtype="float64"))
    shrink_components(expected.collect_params().values(), 0.1)
    for name, value in values(half).items():
        np.testing.assert_allclose(value, values(expected)[name], atol=1e-12)


@pytest.mark.parametrize("devices", [[mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]], ids=len)
def test_the_lasso_finds_the_components_that_are_there(form, devices):
    """Inputs whose first mode matters in one direction only, in that of no coordinate."""
    mx.random.seed(0)
    np.random.seed(0)
    rank = {"tucker": (4, 5, 3, 2), "cp": 12, "tensor_train": (4, 6, 2)}[form]
    layer = TRL(2, rank, IN_SHAPE, form)
    layer.initialize(mx.init.Xavier(), ctx=devices)
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.05, "momentum": 0.5})
    loss = gluon.loss.L2Loss()
    direction = np.array([0.5, -1.0, 0.7, 0.3])
    weight = np.multiply.outer(direction, np.random.standard_normal((5, 3, 2)))
    for step in range(600):
        trainer.set_learning_rate(0.05 * (1 - step / 600))
        x = np.random.standard_normal((32, *IN_SHAPE))
        y = np.tensordot(x, weight, axes=3)
        parts = [gluon.utils.split_and_load(mx.nd.array(array), devices) for array in (x, y)]
        with autograd.record():
            losses = [loss(layer(a), b) for a, b in zip(*parts)]
        autograd.backward(losses)
        trainer.step(32)
        shrink_components(layer.collect_params().values(), trainer.learning_rate * 0.05)
    less = layer.truncated(0.01)
    assert less.rank < 12 if form == "cp" else less.rank[0] == 1
    x = np.random.standard_normal((200, *IN_SHAPE))
    y, out = np.tensordot(x, weight, axes=3), less(mx.nd.array(x, ctx=devices[0])).asnumpy()
    assert np.linalg.norm(out - y) < 0.2 * np.linalg.norm(y)
    arrays = layer.collect_params().values()
    for first, *others in (parameter.list_data() for parameter in arrays):
        assert all((first.asnumpy() == other.asnumpy()).all() for other in others)


@pytest.mark.parametrize("tolerance", [-0.1, 1, "0.1", True])
def test_a_tolerance_that_is_no_share_is_refused(refusal, tolerance):
    refusal(lambda: trl("cp").truncated(tolerance), "tolerance: expected a share", repr(tolerance))


def test_weight_norm_is_refused(refusal):
    refusal(lambda: trl("cp", weight_norm=True).truncated(), "truncation: expected a layer without")
