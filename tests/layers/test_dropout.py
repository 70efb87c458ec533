"""Tensor dropout: what it drops, that the expected weight stays, and that evaluation has none."""

from __future__ import annotations

from math import prod

import mxnet as mx
import numpy as np
import pytest
from layers.helpers import RANKS, build, close, gradients, normal, sample, set_values, values
from mxnet import autograd
from mxnet.gluon import SymbolBlock

from trnet.layers import TRL

FORMS = ("tucker", "cp", "tensor_train")
RATE = 0.4


def weights_drawn(layer: TRL, count: int) -> np.ndarray:
    """Weights (count, I1·…·IN, units) that a layer without bias has in so many training steps."""
    inputs = prod(layer.in_shape)
    basis = mx.nd.array(np.eye(inputs).reshape(inputs, *layer.in_shape), dtype="float64")
    drawn = []
    for _ in range(count):
        with autograd.train_mode():
            drawn.append(layer(basis).asnumpy())
    return np.array(drawn)


def wide(form: str, **arguments) -> TRL:
    """A layer of which every latent mode has a rank of 4 or more."""
    rank = {"tucker": (5, 4, 6), "cp": 7, "tensor_train": (5, 6)}[form]
    arguments = {"use_bias": False, "dtype": "float64", "dropout": RATE, **arguments}
    layer = TRL(6, rank, (5, 4), form, **arguments)
    layer.initialize(mx.init.Normal(1))
    return layer


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_expected_weight_is_kept(form, hybridized):
    layer = wide(form)
    layer.hybridize(hybridized, static_alloc=True, static_shape=True)
    drawn = weights_drawn(layer, 4000)
    error = np.abs(drawn.mean(axis=0) - layer.to_dense_weight().asnumpy().T)
    spread = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert spread.min() > 0 and (error / spread).max() < 5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("implementation", ["fused", "tensorly"])
def test_evaluation_drops_nothing(form, implementation):
    layer = build(form, dropout=0.0)
    dropping = build(form, dropout=RATE, implementation=implementation)
    set_values(dropping, values(layer))
    x = sample()
    close(dropping(x), layer(x))
    with autograd.record(train_mode=False):
        close(dropping(x), layer(x))


def test_tucker_drops_whole_components_of_every_mode():
    """With unit factors the weight is the core, whose entries tell which components are there."""
    layer = TRL(6, (5, 4, 6), (5, 4), use_bias=False, dropout=RATE, dtype="float64")
    layer.initialize()
    units = {f"factor{mode}": np.eye(size) for mode, size in enumerate((5, 4, 6), start=1)}
    core = np.random.uniform(1, 2, (5, 4, 6))
    set_values(layer, {"core": core, **units})
    kept = weights_drawn(layer, 2000).reshape(-1, 5, 4, 6) / core
    scale = (1 - RATE) ** -3
    np.testing.assert_allclose(kept[kept > 0], scale)
    there = kept > 0
    by_mode = [there.any(axis=axes) for axes in ((2, 3), (1, 3), (1, 2))]
    joint = np.einsum("ni,nj,nk->nijk", *by_mode)
    np.testing.assert_array_equal(there, joint)
    # Of the draws in which any entry is left, a component is there as often as it should be.
    any_left = there.any(axis=(1, 2, 3))
    for mask, rank in zip(by_mode, (5, 4, 6)):
        expected = (1 - RATE) / (1 - RATE**rank)
        assert abs(mask[any_left].mean() - expected) < 0.02


def test_cp_drops_whole_terms():
    layer = TRL(6, 5, (5, 4), "cp", use_bias=False, dropout=RATE, dtype="float64")
    layer.initialize(mx.init.Normal(1))
    set_values(layer, {**values(layer), "factor1": np.eye(5)})  # each row of pixels is one term
    drawn = weights_drawn(layer, 2000).reshape(-1, 5, 4 * 6)
    full = layer.to_dense_weight().asnumpy().T.reshape(5, 4 * 6)
    share = drawn / full
    np.testing.assert_allclose(share, np.broadcast_to(share[..., :1], share.shape), atol=1e-9)
    np.testing.assert_allclose(share[share > 0.5], 1 / (1 - RATE))
    terms = share[..., 0] > 0.5
    assert abs(terms.mean() - (1 - RATE)) < 5 * np.sqrt(RATE * (1 - RATE) / terms.size)
    assert abs(np.corrcoef(terms.T) - np.eye(5)).max() < 0.1


def test_tensor_train_drops_at_every_cut():
    layer = TRL(6, (5, 6), (5, 4), "tensor_train", use_bias=False, dropout=RATE, dtype="float64")
    layer.initialize(mx.init.Normal(1))
    first, second = np.eye(5)[None], np.random.uniform(1, 2, (5, 4, 6))
    set_values(layer, {"core1": first, "core2": second, "core3": np.eye(6)[..., None]})
    kept = weights_drawn(layer, 1000).reshape(-1, 5, 4, 6) / second
    np.testing.assert_allclose(kept[kept > 0], (1 - RATE) ** -2)
    there = kept > 0
    by_cut = [there.any(axis=(2, 3)), there.any(axis=(1, 2))]
    np.testing.assert_array_equal(there, np.einsum("ni,nk->nik", *by_cut)[:, :, None] & there)
    assert {tuple(mask) for mask in by_cut[0]} != {(True,) * 5}


@pytest.mark.parametrize(
    "form, rank, pooled",
    [
        ("tucker", (3, 2, 3), ()),
        ("tucker", (3, 4, 3), (2,)),
        ("cp", 3, ()),
        ("tensor_train", (3, 3), ()),
    ],
)
def test_small_and_pooled_modes_are_spared(form, rank, pooled):
    layer = TRL(6, rank, (5, 4), form, dropout=0.9, pooled_modes=pooled, dtype="float64")
    layer.initialize()
    x = normal(3, 5, 4)
    with autograd.train_mode():
        close(layer(x), layer(x))
    expected = layer(x)
    with autograd.train_mode():
        close(layer(x), expected)


def test_what_is_dropped_learns_nothing():
    """A term that is left out has no gradient, in any of its factors, and the others have one."""
    layer = wide("cp")
    x, head = normal(2, 5, 4), normal(2, 6)
    learns = []
    for _ in range(100):
        gradient = gradients(layer, x, head)
        of_factors = [gradient[name].any(axis=0) for name in ("factor1", "factor2", "factor3")]
        np.testing.assert_array_equal(of_factors, of_factors[:1] * 3)
        learns.append(of_factors[0])
    assert abs(np.mean(learns) - (1 - RATE)) < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_a_static_graph_trains_as_the_loop_runs_it(form):
    """Forward and backward see the same masks, on each of two devices its own."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    layer = wide(form)
    layer.collect_params().reset_ctx(contexts)
    layer.hybridize(static_alloc=True, static_shape=True)
    weight = next(iter(layer.collect_params().values()))
    x = normal(3, 5, 4)
    outputs = []
    for _ in range(5):
        parts = [x.as_in_context(context) for context in contexts]
        with autograd.record():
            scores = [layer(part) for part in parts]
        autograd.backward(scores)
        for context, out in zip(contexts, scores):
            # A parameter that the scores are linear in: its gradient and values give them back.
            product = (weight.grad(context) * weight.data(context)).sum().asscalar()
            assert product == pytest.approx(out.sum().asscalar(), rel=1e-6, abs=1e-9)
            outputs.append(out.asnumpy())
    assert len({out.tobytes() for out in outputs}) > 5


def test_float16_is_dropped_as_float32_is():
    half, whole = wide("cp", dtype="float16"), wide("cp", dtype="float32")
    set_values(whole, {name: value.astype("float32") for name, value in values(half).items()})
    x = normal(3, 5, 4, dtype="float16")
    outputs = []
    for layer, data in ((half, x), (whole, x.astype("float32"))):
        mx.random.seed(3)
        with autograd.train_mode():
            outputs.append(layer(data).astype("float32"))
    close(*outputs, tolerance=1e-2)


@pytest.mark.parametrize("form", FORMS)
def test_both_implementations_drop_alike(form):
    fused, reference = wide(form), wide(form, implementation="tensorly")
    set_values(reference, values(fused))
    x = normal(3, 5, 4)
    for seed in range(5):
        outputs = []
        for layer in (fused, reference):
            mx.random.seed(seed)
            with autograd.train_mode():
                outputs.append(layer(x))
        close(*outputs)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_and_a_folded_layer_drop_nothing(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = wide(form, dtype="float32")
    layer.hybridize()
    x = normal(3, 5, 4, dtype="float32")
    expected = layer(x)
    layer.export("head")
    imported = SymbolBlock.imports("head-symbol.json", ["data"], "head-0000.params")
    close(imported(x), expected, 1e-5)
    folded = layer.folded()
    with autograd.train_mode():
        close(folded(x), expected, 1e-5)


def test_a_layer_tells_its_dropout():
    assert "dropout 0.4" in repr(wide("cp")) and "dropout" not in repr(build("cp"))


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, "half", None, True, float("nan")])
def test_what_is_no_probability_is_refused(dropout, refusal):
    refusal(lambda: TRL(3, RANKS["cp"][3], (4, 5, 3), "cp", dropout=dropout), "dropout")
