"""Decompositions that meet a dense layer's outputs, for the inputs that it sees."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from trnet import TCL, TRL

IN_SHAPE, UNITS = (12, 4, 3), 5
FORMS = {
    "tucker": (4, 2, 2, 3),
    "cp": 6,
    "tensor_train": (4, 5, 4),
}
FULL = {"tucker": (12, 4, 3, 5), "cp": 144, "tensor_train": (12, 15, 5)}


def activations(batches: int = 6) -> list[np.ndarray]:
    """Rectified features: correlated in every mode, with a mean, and a channel that is dead."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((12, 12)) * np.exp(-np.arange(12) / 3)
    mixing[-1] = 0
    noise = rng.standard_normal((batches, 50, 12, 4, 3)) + 0.3
    noise[..., 1:, :] += noise[..., :-1, :]
    return [np.maximum(0, np.einsum("cd,bdhw->bchw", mixing, batch)) for batch in noise]


def dense_layer(inputs: int, use_bias: bool = True) -> nn.Dense:
    dense = nn.Dense(UNITS, in_units=inputs, use_bias=use_bias)
    dense.initialize(mx.init.Normal(0.3))
    if use_bias:
        dense.bias.set_data(mx.nd.random.normal(shape=UNITS))
    return dense


def outputs(layer, batches: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([layer(mx.nd.array(batch)).asnumpy() for batch in batches])


def error(trl: TRL, dense: nn.Dense, batches, pooled: bool = False) -> float:
    expected = outputs(dense, [b.mean(axis=(2, 3)) for b in batches] if pooled else batches)
    spread = np.sum((expected - expected.mean(axis=0)) ** 2)
    return np.sqrt(np.sum((outputs(trl, batches) - expected) ** 2) / spread)


@pytest.mark.parametrize("weigh_classes", [False, True])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", FORMS)
def test_the_outputs_are_met_better_than_by_the_weight(kind, use_bias, weigh_classes):
    batches, dense = activations(), dense_layer(144, use_bias)
    data = [mx.nd.array(batch) for batch in batches]
    plain = TRL(UNITS, FORMS[kind], IN_SHAPE, kind, use_bias=use_bias)
    fitted = TRL(UNITS, FORMS[kind], IN_SHAPE, kind, use_bias=use_bias)
    by_weight = plain.init_from_dense(dense)
    fit = fitted.init_from_dense(dense, data=data, weigh_classes=weigh_classes)
    assert error(fitted, dense, batches) < 0.95 * error(plain, dense, batches)
    assert np.isnan(by_weight.output_error)
    assert fit.output_error == pytest.approx(error(fitted, dense, batches), rel=1e-3)
    weights = dense.weight.data().asnumpy(), fitted.to_dense_weight().asnumpy()
    relative = np.linalg.norm(weights[0] - weights[1]) / np.linalg.norm(weights[0])
    assert fit.weight_error == pytest.approx(relative, rel=1e-4)
    assert by_weight.weight_error < fit.weight_error
    if use_bias:
        mean = outputs(dense, batches).mean(axis=0)
        np.testing.assert_allclose(outputs(fitted, batches).mean(axis=0), mean, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_pooled_head_is_the_reduced_rank_regression(rank, use_bias):
    """The best of all weights of that rank: the error is that of the singular values cut off."""
    batches, dense = activations(), dense_layer(12, use_bias)
    trl = TRL(UNITS, (rank, 1, 1, rank), IN_SHAPE, pooled_modes=(2, 3), use_bias=use_bias)
    fit = trl.init_from_dense(dense, data=[mx.nd.array(batch) for batch in batches])
    x = np.concatenate([batch.mean(axis=(2, 3)) for batch in batches])
    y = x @ dense.weight.data().asnumpy().T.astype("float64")
    spread = np.sum((y - y.mean(axis=0)) ** 2)
    if use_bias:
        y = y - y.mean(axis=0)
    best = np.sqrt(np.sum(np.linalg.svd(y, compute_uv=False)[rank:] ** 2) / spread)
    assert fit.output_error == pytest.approx(best, rel=1e-3)
    assert error(trl, dense, batches, pooled=True) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("weigh_classes", [False, True])
@pytest.mark.parametrize("kind", FULL)
def test_exact_at_full_rank(kind, weigh_classes):
    batches, dense = activations(1), dense_layer(144)  # fewer samples than latent features
    trl = TRL(UNITS, FULL[kind], IN_SHAPE, kind)
    data = [mx.nd.array(batch) for batch in batches]
    fit = trl.init_from_dense(dense, data=data, weigh_classes=weigh_classes)
    assert error(trl, dense, batches) < 1e-4
    assert fit.output_error < 1e-4 and fit.weight_error < 1e-3


def test_classes_are_weighed_as_the_softmax_sees_them():
    batches, dense = activations(), dense_layer(12)
    dense.weight.set_data(3 * dense.weight.data())
    data, change = [mx.nd.array(batch) for batch in batches], []
    for weigh_classes in (False, True):
        trl = TRL(UNITS, (2, 1, 1, 2), IN_SHAPE, pooled_modes=(2, 3))
        trl.init_from_dense(dense, data=data, weigh_classes=weigh_classes)
        expected = outputs(dense, [batch.mean(axis=(2, 3)) for batch in batches])
        p = mx.nd.softmax(mx.nd.array(expected)).asnumpy()
        wrong = outputs(trl, batches) - expected
        change.append(np.mean(np.sum(p * wrong**2, axis=1) - np.sum(p * wrong, axis=1) ** 2))
    assert change[1] < change[0]


def test_a_layer_on_a_mode_of_its_own_and_with_weight_norm():
    rng = np.random.default_rng(0)
    batches, dense = [rng.standard_normal((40, 7)) for _ in range(3)], dense_layer(7)
    for kind, rank in (("tucker", (3, 3)), ("cp", 3), ("tensor_train", (3,))):
        trl = TRL(UNITS, rank, (7,), kind, weight_norm=True)
        fit = trl.init_from_dense(dense, data=[mx.nd.array(batch) for batch in batches])
        assert fit.output_error == pytest.approx(error(trl, dense, batches), rel=1e-3)


def test_what_is_no_data_is_refused(refusal):
    trl, dense = TRL(UNITS, FORMS["cp"], IN_SHAPE, "cp"), dense_layer(144)
    wrong = [mx.nd.zeros((2, 12, 3, 4))]
    refusal(lambda: trl.init_from_dense(dense, data=wrong), trl.name, "data", "(12, 3, 4)")
    refusal(lambda: trl.init_from_dense(dense, data=[]), trl.name, "data", "at least one batch")


def test_data_are_taken_as_a_network_gives_them():
    """Pooling on a CPU leaves its output in oneDNN's own layout."""
    features = nn.HybridSequential()
    features.add(nn.Conv2D(16, 3, in_channels=3), nn.MaxPool2D())
    features.initialize()
    data = [features(mx.nd.random.normal(shape=(8, 3, 10, 10))) for _ in range(2)]
    trl, dense = TRL(UNITS, (4, 2, 2, 3), (16, 4, 4)), dense_layer(256)
    fit = trl.init_from_dense(dense, data=data)
    batches = [batch.asnumpy() for batch in data]
    assert fit.output_error == pytest.approx(error(trl, dense, batches), rel=1e-3)


def contracted(rank: tuple[int, ...], **arguments) -> tuple[TCL, nn.Dense]:
    """A TCL and the dense layer on what it gives."""
    following = nn.Dense(UNITS, in_units=int(np.prod(rank)), use_bias=arguments.pop("dense_bias"))
    return TCL(rank, IN_SHAPE, **arguments), following


@pytest.mark.parametrize("dense_bias", [False, True])
@pytest.mark.parametrize("with_data", [False, True])
def test_a_tcl_and_a_dense_layer_start_as_one(with_data, dense_bias):
    batches, dense = activations(), dense_layer(144, dense_bias)
    data = [mx.nd.array(batch) for batch in batches] if with_data else None
    tcl, following = contracted(IN_SHAPE, dense_bias=dense_bias, use_bias=True)
    fit = tcl.init_from_dense(dense, following, data=data)
    both = nn.HybridSequential()
    both.add(tcl, following)
    assert error(both, dense, batches) < 1e-4
    assert fit.weight_error < 1e-3


def test_a_tcl_meets_outputs_better_with_data():
    batches, dense = activations(), dense_layer(144)
    data, found = [mx.nd.array(batch) for batch in batches], {}
    for given in (None, data):
        tcl, following = contracted((5, 2, 2), dense_bias=True)
        fit = tcl.init_from_dense(dense, following, data=given)
        both = nn.HybridSequential()
        both.add(tcl, following)
        found[given is None] = error(both, dense, batches)
        weight = following.weight.data().asnumpy() @ tcl.to_dense_weight().asnumpy()
        trained = dense.weight.data().asnumpy()
        relative = np.linalg.norm(weight - trained) / np.linalg.norm(trained)
        assert fit.weight_error == pytest.approx(relative, rel=1e-4)
    assert fit.output_error == pytest.approx(found[False], rel=1e-3)
    assert found[False] < 0.8 * found[True]


@pytest.mark.parametrize(
    ("dense", "following", "said"),
    [
        ((143, True), (20, True), ("dense", "(5, 144)", "(5, 143)")),
        ((144, True), (21, True), ("following", "(5, 20)", "(5, 21)")),
        ((144, True), (20, False), ("dense, following", "a bias in both or in neither")),
    ],
)
def test_dense_layers_that_do_not_fit_a_tcl_are_refused(dense, following, said, refusal):
    tcl = TCL((5, 2, 2), IN_SHAPE)
    layers = dense_layer(*dense), dense_layer(*following)
    refusal(lambda: tcl.init_from_dense(*layers), tcl.name, *said)
