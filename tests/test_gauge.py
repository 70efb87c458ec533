"""The gauge of the factors: every hundred updates they are orthonormal again, and W is the same."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import close, values
from mxnet import autograd, gluon
from tensor.reference import FORMS, full_weight

from trnet import TRL, Trainer, optimize
from trnet.tensor.factorizations import FACTORIZATIONS
from trnet.tensor.scaling import mapped

IN_SHAPE, UNITS = (4, 5, 3), 3
RANKS = {"tucker": (3, 2, 2, 2), "cp": 3, "tensor_train": (3, 5, 2)}
PER_MODE = {
    "tucker": {1: (3, 2), 2: (2, 3, 2), 4: (2, 2, 1, 2, 3)},
    "cp": {1: 3, 2: 3, 4: 3},
    "tensor_train": {1: (3,), 2: (3, 3), 4: (2, 4, 4, 2)},
}
SHAPES = {1: (6,), 2: (5, 4), 3: IN_SHAPE, 4: (3, 4, 2, 3)}
SETTINGS = {"learning_rate": 0.02, "momentum": 0.9, "wd": 0.001}


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


def trl(form: str, dtype: str = "float64", devices=None, **arguments) -> TRL:
    mx.random.seed(3)
    layer = TRL(UNITS, RANKS[form], IN_SHAPE, form, dtype=dtype, **arguments)
    layer.initialize(mx.init.Xavier(), ctx=devices)
    return layer


def train(layer: TRL, trainer: gluon.Trainer, steps: int, devices=None) -> None:
    """Steps down the loss ⟨Y, Y⟩ / 2 − ⟨Y, T⟩ of batches that differ, the same in each call."""
    np.random.seed(0)
    devices, dtype = devices or [mx.cpu()], layer.collect_params(".*factor.*|.*core.*")
    dtype = next(iter(dtype.values())).dtype
    for _ in range(steps):
        x, target = (
            gluon.utils.split_and_load(mx.nd.array(np.random.normal(size=(8, *shape))), devices)
            for shape in (IN_SHAPE, (UNITS,))
        )
        with autograd.record():
            outs = [layer(part.astype(dtype)).astype("float64") for part in x]
            losses = [
                (out * out / 2 - out * part.astype("float64")).sum()
                for out, part in zip(outs, target)
            ]
        autograd.backward(losses)
        trainer.step(8)


def factors(layer: TRL) -> dict[str, np.ndarray]:
    return {name: value for name, value in values(layer).items() if name != "bias"}


def is_orthonormal(form: str, arrays: dict[str, np.ndarray], tolerance: float = 1e-6) -> bool:
    """Whether the columns of all parameters but the one of W's scale are; of CP, their lengths."""
    skipped = "core" if form == "tucker" else list(arrays)[-1]
    left = np.ones((1, 1))
    for name, array in arrays.items():
        if name == skipped:
            continue
        if form == "tensor_train":
            left = np.einsum("air,ab,bis->rs", array, left, array)
            gram = left
        else:
            gram = array.T @ array
        if form == "cp":
            gram = np.diag(np.diag(gram))
        if not np.allclose(gram, np.eye(len(gram)), atol=tolerance):
            return False
    return True


@pytest.mark.parametrize("n_modes", [1, 2, 3, 4])
def test_the_gauge_keeps_the_weight(form, n_modes):
    shape = (*SHAPES[n_modes], UNITS)
    rank = {3: RANKS[form], **PER_MODE[form]}[n_modes]
    made = FACTORIZATIONS[form](shape, rank)
    rng = np.random.default_rng(n_modes)
    arrays = {name: rng.normal(size=of) for name, of in made.parameter_shapes.items()}
    maps = made.gauge(arrays)
    fixed = {name: mapped(array, maps[name]) for name, array in arrays.items()}
    before = full_weight(form, list(arrays.values()))
    np.testing.assert_allclose(full_weight(form, list(fixed.values())), before, atol=1e-12)
    assert is_orthonormal(form, fixed, 1e-12) and not is_orthonormal(form, arrays)


def test_what_a_factor_does_not_span_stays(form):
    """A column of zeros, as a fit leaves it where the weight has a lower rank."""
    made = FACTORIZATIONS[form]((*IN_SHAPE, UNITS), RANKS[form])
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=of) for name, of in made.parameter_shapes.items()}
    name = next(name for name in arrays if name != "core")
    arrays[name][..., -1] = 0
    maps = made.gauge(arrays)
    fixed = {name: mapped(array, maps[name]) for name, array in arrays.items()}
    before = full_weight(form, list(arrays.values()))
    np.testing.assert_allclose(full_weight(form, list(fixed.values())), before, atol=1e-12)
    assert not fixed[name][..., -1].any()


def test_a_pooled_mode_stays_as_its_pooling():
    made = FACTORIZATIONS["tucker"]((4, 5, 3, UNITS), (3, 1, 1, 2), pooled_modes=(2, 3))
    arrays = {name: made.draw(name, 0.1) for name in made.parameter_shapes}
    maps = made.gauge(arrays)
    for name, array in arrays.items():
        np.testing.assert_allclose(mapped(array, maps[name]), array, atol=1e-12)


def test_factors_are_orthonormal_after_a_hundred_updates(form):
    layer = trl(form)
    trainer = Trainer(layer.collect_params(), "sgd", SETTINGS)
    train(layer, trainer, 99)
    assert not is_orthonormal(form, factors(layer))
    train(layer, trainer, 1)
    assert is_orthonormal(form, factors(layer))


@pytest.mark.parametrize("optimizer", ["sgd", "nag"])
def test_the_weight_and_its_momentum_stay(form, optimizer, monkeypatch):
    """The weight is the same with and without the gauge, and after the step of momentum, too."""
    weights = []
    for updates in (100, 1000):
        monkeypatch.setattr(optimize, "_UPDATES_PER_GAUGE", updates)
        layer = trl(form)
        trainer = Trainer(layer.collect_params(), optimizer, SETTINGS)
        train(layer, trainer, 100)
        fixed = layer.to_dense_weight().asnumpy()
        with autograd.record():
            out = layer(mx.nd.zeros((8, *IN_SHAPE), dtype="float64"))
        out.backward(mx.nd.zeros_like(out))
        trainer.set_learning_rate(1e-3)  # of first order
        trainer.step(8)
        weights.append((fixed, layer.to_dense_weight().asnumpy() - fixed))
    close(weights[0][0], weights[1][0], 1e-6)
    step = weights[1][1]
    assert np.linalg.norm(weights[0][1] - step) < 0.05 * np.linalg.norm(step)
    assert np.linalg.norm(step) > 0


def test_several_devices_and_copies_in_float32_agree(form):
    expected = trl(form, "float32")
    train(expected, Trainer(expected.collect_params(), "sgd", SETTINGS), 101)
    devices = [mx.cpu(0), mx.cpu(1)]
    layer = trl(form, "float32", devices)
    layer.cast("float16")
    settings = {**SETTINGS, "multi_precision": True}
    trainer = Trainer(layer.collect_params(), "sgd", settings)
    train(layer, trainer, 100, devices)
    assert is_orthonormal(form, factors(layer), 0.01)
    train(layer, trainer, 1, devices)
    wanted = expected.to_dense_weight().asnumpy()
    difference = layer.to_dense_weight().asnumpy().astype("float64") - wanted
    assert np.linalg.norm(difference) < 0.15 * np.linalg.norm(wanted)
    for parameter in layer.collect_params().values():
        np.testing.assert_array_equal(*(array.asnumpy() for array in parameter.list_data()))


@pytest.mark.parametrize("frozen", ["factor2", "core"])
def test_where_a_factor_is_frozen_all_keep_their_gauge(frozen):
    layer = trl("tucker")
    layer.collect_params(f".*{frozen}").setattr("grad_req", "null")
    before = factors(layer)[frozen]
    train(layer, Trainer(layer.collect_params(), "sgd", SETTINGS), 100)
    np.testing.assert_array_equal(factors(layer)[frozen], before)
    assert not is_orthonormal("tucker", factors(layer))


def test_states_that_no_map_can_move_stay():
    layer = trl("tucker")
    train(layer, Trainer(layer.collect_params(), "adam", {"learning_rate": 0.01}), 100)
    assert not is_orthonormal("tucker", factors(layer))


def test_a_diverged_layer_is_left_to_the_training():
    layer = trl("tucker")
    layer.factor1.set_data(mx.nd.full(layer.factor1.shape, np.nan, dtype="float64"))
    train(layer, Trainer(layer.collect_params(), "sgd", SETTINGS), 100)
    assert not np.isfinite(factors(layer)["core"]).all()


def test_arrays_of_numpy_semantics(form, run_python):
    """In a program that chose them, the same factors after the gauge as in one that did not."""
    script = """
        import hashlib, mxnet as mx, numpy as np
        from mxnet import autograd
        from trnet import TRL, Trainer
        if {numpy}:
            mx.npx.set_np()
        array = mx.np.array if {numpy} else mx.nd.array
        mx.random.seed(0)
        layer = TRL({units}, {rank}, {in_shape}, "{form}")
        layer.initialize(mx.init.Xavier())
        trainer = Trainer(layer.collect_params(), "sgd", {{"learning_rate": 0.01, "momentum": 0.9}})
        x = array(np.random.default_rng(0).normal(size=(8, *{in_shape})), dtype="float32")
        for _ in range(101):
            with autograd.record():
                loss = (layer(x) ** 2).sum()
            loss.backward()
            trainer.step(8)
        values = [p.data().asnumpy() for p in layer.collect_params().values()]
        print(hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest())
    """
    made = {"units": UNITS, "rank": RANKS[form], "in_shape": IN_SHAPE, "form": form}
    ours, numpys = (run_python(script.format(numpy=numpy, **made)) for numpy in (False, True))
    assert ours == numpys
