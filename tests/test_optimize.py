"""The trainer: a step moves a TRL's weight as a dense layer's step does, projected on its form."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import close, normal, values
from mxnet import autograd, gluon
from mxnet.gluon import nn
from tensor.reference import FORMS, full_weight

from trnet import TCL, TRL, Trainer

IN_SHAPE, UNITS = (4, 5, 3), 3
RANKS = {"tucker": (3, 2, 2, 2), "cp": 4, "tensor_train": (3, 5, 2)}
PER_MODE = {  # the same for one to four modes
    "tucker": {1: (3, 2), 2: (2, 3, 2), 4: (2, 2, 1, 2, 3)},
    "cp": {1: 3, 2: 3, 4: 5},
    "tensor_train": {1: (3,), 2: (3, 3), 4: (2, 4, 4, 2)},
}
SHAPES = {1: (6,), 2: (5, 4), 3: IN_SHAPE, 4: (3, 4, 2, 3)}
# What one factor can make of W, another can make, too. Tucker and tensor train leave it to one of
# them; CP does so term by term only, and with one input mode all terms overlap.
TOLERANCES = {"tucker": 0.005, "cp": 0.3, "tensor_train": 0.02}
LONGEST = {"tucker": 1.0, "cp": 1.1, "tensor_train": 1.0}
RATE = 1e-6  # so small that a step is of first order


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


def trl(form: str, n_modes: int = 3, **arguments) -> TRL:
    arguments = {
        "rank": {3: RANKS[form], **PER_MODE[form]}[n_modes],
        "dtype": "float64",
        **arguments,
    }
    layer = TRL(UNITS, in_shape=SHAPES[n_modes], factorization=form, **arguments)
    layer.initialize(mx.init.Xavier())
    return layer


def factors(layer: TRL) -> dict[str, np.ndarray]:
    return {name: value for name, value in values(layer).items() if name != "bias"}


def backward(layer, x, head) -> None:
    with autograd.record():
        out = layer(x)
    out.backward(head)


def dense_gradient(x: mx.nd.NDArray, head: mx.nd.NDArray) -> np.ndarray:
    """∂W of ⟨out, head⟩, (I1, …, IN, O), which is also the step of a dense layer at a rate of 1."""
    return np.tensordot(x.asnumpy(), head.asnumpy(), axes=(0, 0))


def projected(form: str, arrays: dict, trained: list[str], gradient: np.ndarray) -> np.ndarray:
    """A gradient's projection on what small changes of the trained factors can make of W."""
    columns = []
    for name in trained:
        for place in np.ndindex(arrays[name].shape):
            unit = np.zeros(arrays[name].shape)
            unit[place] = 1  # W is linear in each factor
            columns.append(full_weight(form, list({**arrays, name: unit}.values())).ravel())
    basis, singular, _ = np.linalg.svd(np.array(columns).T, full_matrices=False)
    basis = basis[:, singular > 1e-9 * singular[0]]
    return (basis @ (basis.T @ gradient.ravel())).reshape(gradient.shape)


def step_of_weight(form: str, layer: TRL, trainer: gluon.Trainer) -> np.ndarray:
    """−ΔW / RATE of one step: (I1, …, IN, O)."""
    before = full_weight(form, list(factors(layer).values()))
    trainer.step(1)
    return (before - full_weight(form, list(factors(layer).values()))) / RATE


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize("n_modes", SHAPES, ids="N={}".format)
def test_a_step_is_the_dense_step_projected(form, n_modes, hybridized):
    layer = trl(form, n_modes)
    layer.hybridize(hybridized)
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": RATE})
    x, head = normal(8, *SHAPES[n_modes]), normal(8, UNITS)
    backward(layer, x, head)
    arrays = factors(layer)
    expected = projected(form, arrays, list(arrays), dense_gradient(x, head))
    got = step_of_weight(form, layer, trainer)
    if (form, n_modes) == ("cp", 1):
        assert np.linalg.norm(got) < 2 * np.linalg.norm(expected)
        assert np.sum(got * expected) > 0.8 * np.linalg.norm(got) * np.linalg.norm(expected)
    else:
        assert np.linalg.norm(got - expected) < TOLERANCES[form] * np.linalg.norm(expected)
        assert np.linalg.norm(got) < LONGEST[form] * np.linalg.norm(expected)


@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_the_step_of_the_weight_depends_on_the_weight_alone(form, scale):
    """Not on how its scale is spread over the factors, which is what makes plain SGD diverge."""
    layer = trl(form)
    scaled = layer.factorization.scale_name(3)
    for name, value in factors(layer).items():
        parameter = layer.collect_params()[layer.prefix + name]
        if name != scaled:
            parameter.set_data(mx.nd.array(2 * value, dtype="float64"))
        else:
            parameter.set_data(mx.nd.array(scale * value, dtype="float64"))
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": RATE})
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    backward(layer, x, head)
    arrays = factors(layer)
    expected = projected(form, arrays, list(arrays), dense_gradient(x, head))
    got = step_of_weight(form, layer, trainer)
    assert np.linalg.norm(got - expected) < TOLERANCES[form] * np.linalg.norm(expected)


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_step_turns_a_factor_far(form, momentum, dtype):
    """At a rate of 100 as at a low one, but by 0.3 rad, less what momentum will add."""
    x, head = normal(8, *IN_SHAPE, dtype=dtype), normal(8, UNITS, dtype=dtype)
    moved = {}
    for rate in (1e-4, 100):
        mx.random.seed(0)
        layer = trl(form, dtype=dtype)
        settings = {"learning_rate": rate, "momentum": momentum}
        before = factors(layer)
        backward(layer, x, head)
        Trainer(layer.collect_params(), "sgd", settings).step(8)
        moved[rate] = {name: value - before[name] for name, value in factors(layer).items()}
    for name, slow in moved[1e-4].items():
        fast, length = moved[100][name], np.linalg.norm(before[name])
        expected = np.linalg.norm(slow) * 1e6
        if name != layer.factorization.scale_name(3):
            assert expected > length
            expected = 0.3 * (1 - momentum) * length
        assert np.linalg.norm(fast) == pytest.approx(expected, rel=2e-3)
        cosine = np.sum(fast * slow) / np.linalg.norm(fast) / np.linalg.norm(slow)
        assert cosine == pytest.approx(1, abs=1e-4)


def test_the_limit_follows_a_users_multiplier(form):
    layer = trl(form)
    layer.collect_params().setattr("lr_mult", 50)
    before = factors(layer)
    backward(layer, 100 * normal(8, *IN_SHAPE), normal(8, UNITS))
    Trainer(layer.collect_params(), "sgd", {"learning_rate": 2}).step(8)
    name = next(name for name in before if name != layer.factorization.scale_name(3))
    turn = np.linalg.norm(factors(layer)[name] - before[name]) / np.linalg.norm(before[name])
    assert turn == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_steps_of_other_optimizers_are_not_limited(optimizer):
    """They do not grow with the gradient, and the limit of its step says nothing of theirs."""
    moved = []
    for size in (1, 1e6):
        mx.random.seed(0)
        layer = trl("tucker", dtype="float32")
        before = factors(layer)
        x, head = normal(8, *IN_SHAPE, dtype="float32"), normal(8, UNITS, dtype="float32")
        backward(layer, size * x, head)
        Trainer(layer.collect_params(), optimizer, {"learning_rate": 1.0}).step(8)
        moved.append(np.linalg.norm(factors(layer)["factor1"] - before["factor1"]))
    assert moved[1] == pytest.approx(moved[0], rel=0.01) and moved[0] > 0.5


def test_a_factor_of_zero_learns(form):
    layer = trl(form)
    name = next(iter(set(factors(layer)) - {layer.factorization.scale_name(3)}))
    parameter = layer.collect_params()[layer.prefix + name]
    parameter.set_data(mx.nd.zeros_like(parameter.data()))
    backward(layer, normal(8, *IN_SHAPE), normal(8, UNITS))
    Trainer(layer.collect_params(), "sgd", {"learning_rate": 10}).step(8)
    assert 0.01 < np.linalg.norm(parameter.data().asnumpy()) < 0.31


def test_pooled_modes_step_as_pooling_and_a_dense_layer():
    layer = trl("tucker", rank=(4, 1, 1, 3), pooled_modes=(2, 3))  # full rank after the pooling
    pooled = nn.Dense(UNITS, in_units=4, dtype="float64")
    pooled.initialize()
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    means = x.mean(axis=(2, 3))
    backward(layer, x, head)
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": RATE})
    got = step_of_weight("tucker", layer, trainer)
    # The part of the step that average pooling leaves: the mean over pixels, at every pixel
    got = got.sum(axis=(1, 2))
    expected = dense_gradient(means, head)
    assert np.linalg.norm(got - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("frozen", [["core"], ["factor1"], ["core", "factor4"], ["factor2"]])
def test_frozen_factors_stay_and_the_others_still_move_the_weight_down(frozen):
    layer = trl("tucker")
    for name in frozen:
        layer.collect_params(f".*{name}").setattr("grad_req", "null")
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": RATE})
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    backward(layer, x, head)
    before, gradient = factors(layer), dense_gradient(x, head)
    trained = [name for name in before if name not in frozen]
    expected = projected("tucker", before, trained, gradient)
    got = step_of_weight("tucker", layer, trainer)
    after = factors(layer)
    assert [name for name in before if np.array_equal(before[name], after[name])] == frozen
    assert np.sum(got * expected) > 0.7 * np.linalg.norm(got) * np.linalg.norm(expected)
    assert np.linalg.norm(got) < 1.5 * np.linalg.norm(expected)


def test_freezing_after_a_step():
    layer = trl("tucker")
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.01})
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    backward(layer, x, head)
    trainer.step(1)
    layer.factor1.grad_req = "null"
    before = factors(layer)
    backward(layer, x, head)
    trainer.step(1)
    assert [n for n, v in factors(layer).items() if np.array_equal(v, before[n])] == ["factor1"]


def test_gradients_stay_as_backward_left_them(form):
    layer, x, head = trl(form), normal(8, *IN_SHAPE), normal(8, UNITS)
    layer.collect_params().setattr("grad_req", "add")
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.0})
    backward(layer, x, head)
    once = {name: p.grad().asnumpy() for name, p in layer.collect_params().items()}
    trainer.step(1)
    backward(layer, x, head)
    for name, parameter in layer.collect_params().items():
        close(parameter.grad(), 2 * once[name])


def test_several_devices_step_as_one(form):
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    weights = []
    for devices in ([mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]):
        mx.random.seed(3)
        layer = TRL(UNITS, RANKS[form], IN_SHAPE, form, dtype="float64")
        layer.initialize(mx.init.Xavier(), ctx=devices)
        trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
        for _ in range(3):
            parts = [gluon.utils.split_and_load(array, devices) for array in (x, head)]
            with autograd.record():
                losses = [(layer(a) * b).sum() for a, b in zip(*parts)]
            autograd.backward(losses)
            trainer.step(8)
        weights.append(layer.to_dense_weight())
    close(weights[1], weights[0].asnumpy(), 1e-6)


def test_allreduce_and_update_is_a_step(form):
    x, head, weights = normal(8, *IN_SHAPE), normal(8, UNITS), []
    for steps in (lambda t: t.step(8), lambda t: (t.allreduce_grads(), t.update(8))):
        mx.random.seed(3)
        layer = trl(form)
        backward(layer, x, head)
        steps(Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1}))
        weights.append(layer.to_dense_weight().asnumpy())
    np.testing.assert_array_equal(*weights)


def test_half_precision_with_copies_in_float32(form):
    x, head, weights = normal(8, *IN_SHAPE), normal(8, UNITS), []
    for dtype in ("float32", "float16"):
        mx.random.seed(3)
        layer = trl(form, dtype="float32")
        layer.cast(dtype)
        settings = {"learning_rate": 0.1, "momentum": 0.9, "multi_precision": True}
        trainer = Trainer(layer.collect_params(), "sgd", settings)
        for _ in range(3):
            backward(layer, x.astype(dtype), head.astype(dtype))
            trainer.step(8)
        weights.append(layer.to_dense_weight().astype("float64").asnumpy())
    close(weights[1], weights[0], 0.01)


def test_numpy_semantics(form):
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    weights = []
    for semantics in (False, True):
        mx.npx.set_np(shape=semantics, array=semantics)
        try:
            mx.random.seed(3)
            layer = trl(form)
            trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1})
            inputs = (a.as_np_ndarray() if semantics else a.as_nd_ndarray() for a in (x, head))
            backward(layer, *inputs)
            trainer.step(8)
            weights.append(layer.to_dense_weight().asnumpy())
        finally:
            mx.npx.reset_np()
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-6)  # other draws would differ more


def test_deferred_shapes_and_shared_parameters():
    net = nn.HybridSequential()
    net.add(TRL(UNITS, RANKS["tucker"], dtype="float64"))
    twin = TRL(UNITS, RANKS["tucker"], params=net[0].params, dtype="float64")
    net.initialize()
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": RATE})
    x, head = normal(8, *IN_SHAPE), normal(8, UNITS)
    with autograd.record():
        out = net(x) + twin(x)
    out.backward(head)
    arrays = factors(net[0])
    expected = projected("tucker", arrays, list(arrays), 2 * dense_gradient(x, head))
    got = step_of_weight("tucker", net[0], trainer)
    assert np.linalg.norm(got - expected) < 0.005 * np.linalg.norm(expected)


def test_other_parameters_step_as_by_gluon():
    x, results = normal(4, 3, 6, 5, dtype="float32"), []
    for make in (gluon.Trainer, Trainer):
        mx.random.seed(3)
        net = nn.HybridSequential()
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), TCL((2, 3, 2)), nn.Dense(3))
        net.initialize(mx.init.Xavier())
        net(x)
        trainer = make(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
        for _ in range(2):
            backward(net, x, mx.nd.ones((4, 3)))
            trainer.step(4)
        results.append(list(values(net).values()))
    for got, expected in zip(*results):
        np.testing.assert_array_equal(got, expected)


def test_weight_decay_is_the_dense_weight_decay(form):
    layer = trl(form)
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1, "wd": 0.5})
    weight = layer.to_dense_weight().asnumpy()
    backward(layer, normal(8, *IN_SHAPE), mx.nd.zeros((8, UNITS), dtype="float64"))
    trainer.step(1)
    close(layer.to_dense_weight(), weight * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("attribute", ["lr_mult", "wd_mult"])
def test_a_users_multipliers_stay(form, attribute, tmp_path):
    """Set before the first input, and kept by it, by loading, and by a dense layer's weights."""
    layer = TRL(UNITS, RANKS[form], (0, 0, 0), form, dtype="float64")
    layer.collect_params().setattr(attribute, 0.25)
    layer.initialize()
    layer(normal(2, *IN_SHAPE))
    layer.save_parameters(str(tmp_path / "layer.params"))
    layer.load_parameters(str(tmp_path / "layer.params"))
    dense = nn.Dense(UNITS, in_units=60, dtype="float64")
    dense.initialize()
    layer.init_from_dense(dense)
    TRL(UNITS, RANKS[form], IN_SHAPE, form, dtype="float64", params=layer.params)
    assert {getattr(p, attribute) for p in layer.collect_params().values()} == {0.25}


@pytest.mark.parametrize("factor", [0.0, 1e-20, np.inf, np.nan])
def test_weights_that_cannot_be_scaled_raise_nothing(form, factor):
    """A weight of zero stays trainable; one that is not finite shows in the loss, as elsewhere."""
    layer = trl(form, dtype="float32")
    for parameter in layer.collect_params().values():
        parameter.set_data(parameter.data() * factor)
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1})
    for _ in range(3):
        backward(layer, normal(8, *IN_SHAPE, dtype="float32"), mx.nd.ones((8, UNITS)))
        trainer.step(8)
    finite = np.isfinite(layer.to_dense_weight().asnumpy()).all()
    assert finite == np.isfinite(factor)


def test_a_weight_of_zero_learns(form):
    """As a head does that starts from nothing."""
    layer = trl(form)
    scaled = layer.collect_params(f".*{layer.factorization.scale_name(3)}$")
    for parameter in scaled.values():
        parameter.set_data(mx.nd.zeros_like(parameter.data()))
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.02})
    x, target = normal(8, *IN_SHAPE), normal(8, UNITS)
    losses = []
    for _ in range(20):
        with autograd.record():
            loss = (layer(x) - target).square().sum()
        loss.backward()
        trainer.step(60)
        losses.append(loss.asscalar())
    assert losses[-1] < 0.8 * losses[0]


def test_momentum_is_saved_and_loaded(form, tmp_path):
    x, head, weights = normal(8, *IN_SHAPE), normal(8, UNITS), []
    settings = {"learning_rate": 0.1, "momentum": 0.9}
    for interrupted in (False, True):
        mx.random.seed(3)
        layer = trl(form)
        trainer = Trainer(layer.collect_params(), "sgd", settings)
        for step in range(4):
            if interrupted and step == 2:
                trainer.save_states(str(tmp_path / "states"))
                trainer = Trainer(layer.collect_params(), "sgd", settings)
                trainer.load_states(str(tmp_path / "states"))
            backward(layer, x, head)
            trainer.step(8)
        weights.append(layer.to_dense_weight().asnumpy())
    np.testing.assert_array_equal(*weights)


def test_servers_cannot_update(refusal):
    layer = trl("tucker")
    refusal(
        lambda: Trainer(layer.collect_params(), "sgd", update_on_kvstore=True),
        "update_on_kvstore: expected False",
        "True",
    )


def test_stale_gradients_are_noticed_as_by_gluon():
    layer = trl("tucker")
    trainer = Trainer(layer.collect_params(), "sgd", {"learning_rate": 0.1})
    backward(layer, normal(8, *IN_SHAPE), normal(8, UNITS))
    gradients = [p.grad() for p in layer.collect_params().values()]
    trainer.step(1)
    with pytest.raises(UserWarning, match="has not been updated"):
        trainer.step(1)
    for parameter, gradient in zip(layer.collect_params().values(), gradients):
        assert parameter.grad() is gradient
