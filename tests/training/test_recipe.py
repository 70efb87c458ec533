"""Controls of a recipe: clipped gradients, accumulated batches, frozen parts, a head's rate."""

from __future__ import annotations

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn
from training.helpers import CONFIG, CPU, parameters, recipe, run, small_network

from trnet import TRL, config, experiment
from trnet.errors import ConfigError, Diverged
from trnet.models import attach_head, make_backbone
from trnet.optimize import shrink_components
from trnet.training import loop
from trnet.training.devices import Compute
from trnet.training.freezing import freeze
from trnet.training.optimizers import all_finite, clip_gradients
from trnet.training.progress import Progress
from trnet.training.saving import nothing

TWO = Compute([mx.cpu(0), mx.cpu(1)])


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_gradients_are_clipped_by_their_norm_together(limit, dtype):
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (5,), (2, 3, 2, 2)]
    made = [gluon.Parameter(f"p{k}", shape=s, dtype=dtype) for k, s in enumerate(shapes)]
    made.append(gluon.Parameter("frozen", shape=(2,), grad_req="null"))
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    for parameter in made:
        parameter.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    for parameter, array in zip(made, arrays):
        for gradient in parameter.list_grad():
            gradient[:] = array
    clip_gradients(made, limit)
    norm = np.sqrt(sum(np.sum(np.square(a, dtype="float64")) for a in arrays))
    for parameter, array in zip(made, arrays):
        for gradient in parameter.list_grad():
            expected = array * min(1, limit / norm)
            tolerance = 2e-3 if dtype == "float16" else 1e-6
            np.testing.assert_allclose(gradient.asnumpy(), expected, rtol=tolerance)


@pytest.mark.parametrize("changes", [{}, {"clip_gradient": 0.02}], ids=str)
def test_a_step_is_the_mean_over_all_of_its_images(changes):
    """By hand, for a dense layer: five batches, held one at a time, in steps of 2, 2 and 1."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((5, 4, 3)).astype("float32")
    network = nn.Dense(2, in_units=3, use_bias=False)
    network.initialize(mx.init.One())
    weight, rates = np.ones((2, 3)), [0.1, 0.2, 0.3]
    settings = recipe(batch_size=4, accumulate=2, momentum=0.0, **changes)
    for rate, group in zip(rates, (inputs[:2], inputs[2:4], inputs[4:])):
        images = group.reshape(-1, 3)
        gradient = 2 * (images @ weight.T).T @ images / len(images)
        norm = np.linalg.norm(gradient)
        weight -= rate * gradient * min(1, settings.clip_gradient / norm if changes else 1)
    drawn, computed = [], []

    def batches():
        for batch in inputs:
            drawn.append(batch)
            yield mx.nd.array(batch), mx.nd.zeros(4)

    def loss(scores, labels):
        computed.append(scores)
        assert len(drawn) == len(computed)
        return scores.square().sum(axis=1)

    network.weight.grad_req = "add"
    trainer = loop.make_trainer(network, settings)
    progress = Progress("test", 1, 20, show=False)
    loop.train_epoch(
        network, trainer, loss, batches(), iter(rates), 4, CPU, progress, settings, nothing()
    )
    np.testing.assert_allclose(network.weight.data().asnumpy(), weight, rtol=1e-5)
    assert len(drawn) == 5


@pytest.mark.parametrize("compute", [CPU, TWO], ids=["one device", "two devices"])
def test_a_clipped_step_is_no_longer_than_the_bound(blobs, tmp_path, compute):
    """With SGD at a rate of 1; of the TRL's gradients, before they are scaled."""
    moved = {}
    for limit in (None, 0.01):
        network = small_network()
        settings = recipe(
            epochs=1, batch_size=40, learning_rate=1.0, momentum=0.0, clip_gradient=limit
        )
        start = small_network()
        loop.initialize(start, (1, 4, 4), 0, CPU)
        run(network, blobs, tmp_path / str(limit), settings, compute=compute)
        steps = [a - b for a, b in zip(parameters(network), parameters(start))]
        moved[limit] = np.sqrt(sum(np.sum(step**2) for step in steps))
    assert moved[0.01] < moved[None]


def test_two_devices_clip_as_one(blobs, tmp_path):
    networks, settings = [small_network(), small_network()], recipe(epochs=1, clip_gradient=0.05)
    for network, compute in zip(networks, (CPU, TWO)):
        run(network, blobs, tmp_path / str(len(compute.devices)), settings, compute=compute)
    for one, other in zip(*map(parameters, networks)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_frozen_part_of_the_head_needs_no_baseline(tmp_path):
    """The head that is compared with then is the network's own, which lacks that part."""
    changes = ["baseline=null", "train.freeze=[output.factor1]", "train.epochs=1"]
    chosen = config.load(CONFIG, [*changes, "dataset.samples=100"])
    result = experiment.train(chosen, None, tmp_path, CPU.devices, show=False)
    assert result["baseline_head_weights"] == 32 * 7 * 7 * 512 + 512 * 512 + 512 * 10


def test_clipping_that_changes_nothing_is_exact(blobs, tmp_path):
    networks = [small_network(), small_network()]
    for network, limit in zip(networks, (None, 1e9)):
        run(network, blobs, tmp_path / str(limit), recipe(clip_gradient=limit))
    for one, other in zip(*map(parameters, networks)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("lasso", [0.0, 1.0])
def test_a_lasso_shrinks_the_components_of_a_trl(blobs, tmp_path, lasso):
    """To zero, where the penalty is far larger than what the loss gains."""
    network = nn.HybridSequential()
    layer = TRL(3, (1, 3, 3, 3), (1, 4, 4))
    network.add(layer)
    run(network, blobs, tmp_path, recipe(lasso=lasso, momentum=0.0, epochs=20))
    norm = layer.to_dense_weight().norm().asscalar()
    assert norm < 1e-3 if lasso else norm > 0.1


def test_a_lasso_shrinks_by_the_rate_times_its_weight(blobs, tmp_path):
    """In one step, after the gradient's."""
    networks = []
    for lasso in (0.0, 5.0):
        network = nn.HybridSequential()
        network.add(TRL(3, (1, 3, 3, 3), (1, 4, 4)))
        settings = recipe(epochs=1, batch_size=40, learning_rate=0.01, momentum=0.0, lasso=lasso)
        run(network, blobs, tmp_path / str(lasso), settings)
        networks.append(network)
    plain, shrunk = networks
    shrink_components(plain.collect_params().values(), 5.0 * 0.01)
    for one, other in zip(parameters(plain), parameters(shrunk)):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_labels_are_smoothed(blobs, tmp_path):
    losses = []
    for smoothing in (0.0, 0.5):
        settings = recipe(epochs=1, label_smoothing=smoothing)
        metrics = run(small_network(), blobs, tmp_path / str(smoothing), settings)
        losses.append(metrics[0]["train_loss"])
    assert losses[1] != pytest.approx(losses[0], rel=0.01)


def test_the_last_step_takes_the_batches_that_are_left(blobs, tmp_path, monkeypatch):
    """Of 40 images in batches of 8, three a step."""
    taken, step = [], loop._step

    def noting(trainer, images, *rest):
        taken.append(images)
        return step(trainer, images, *rest)

    monkeypatch.setattr(loop, "_step", noting)
    run(small_network(), blobs, tmp_path, recipe(batch_size=8, accumulate=3, epochs=1))
    assert taken == [24, 16]


def test_a_lasso_is_for_float32():
    changes = ["train.lasso=0.1", "train.dtype=float16"]
    with pytest.raises(ConfigError, match=r"train\.lasso: expected 0 with train\.dtype"):
        config.load(CONFIG, changes)


@pytest.mark.parametrize("batches, size", [(2, 10), (4, 5), (3, 8)])
def test_accumulated_batches_are_one_large_batch(blobs, tmp_path, batches, size):
    """Of 40 images: three batches of 8 leave two for the last step, which is their mean."""
    networks, metrics = [small_network(), small_network()], []
    for network, settings in zip(
        networks,
        (
            recipe(batch_size=size, accumulate=batches, epochs=1),
            recipe(batch_size=size * batches, epochs=1),
        ),
    ):
        metrics.append(run(network, blobs, tmp_path / str(settings.batch_size), settings))
    if 40 % (size * batches) == 0:
        for one, other in zip(*map(parameters, networks)):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert np.isfinite(metrics[0][0]["train_loss"])


def test_what_is_frozen_does_not_move(tmp_path):
    """Neither weights nor the statistics of batch normalisation; the head does."""
    changes = ["train.epochs=1", "dataset.samples=400", "train.freeze=backbone"]
    chosen = config.load(CONFIG, changes)
    dataset = experiment.find_dataset(chosen)
    network = experiment.build(chosen, dataset)
    loop.initialize(network, dataset.shape, 0, CPU)
    before = {n: p.data().asnumpy() for n, p in network._collect_params_with_prefix().items()}
    experiment.train(chosen, None, tmp_path, CPU.devices, show=False)
    checkpoint = next(tmp_path.rglob("network.params"))
    after = mx.nd.load(str(checkpoint))
    moved = {name for name in before if not np.array_equal(before[name], after[name].asnumpy())}
    assert moved == {name for name in before if name.startswith("output")}
    assert any("running_mean" in name for name in before)


def test_frozen_by_pattern():
    network = attach_head(
        make_backbone("small_vgg2", (1, 28, 28), 10),
        {"type": "trl", "rank": [4, 2, 2, 6]},
        (1, 28, 28),
        10,
    )
    freeze(network, ["features.0.*", "features.5.gamma", "output.core"])
    frozen = {
        name for name, p in network._collect_params_with_prefix().items() if p.grad_req == "null"
    }
    statistics = {name for name in frozen if "running" in name}
    assert frozen - statistics == {"features.0.weight", "features.5.gamma", "output.core"}
    norms = [block for block in network.features if isinstance(block, nn.BatchNorm)]
    assert not any(block._kwargs["use_global_stats"] for block in norms)
    freeze(network, ["features.1.*"])
    assert [block._kwargs["use_global_stats"] for block in norms] == [True, False]
    freeze(network, ["features.5.beta", "features.5.gamma"])
    assert all(block._kwargs["use_global_stats"] for block in norms)


@pytest.mark.parametrize(
    "frozen, said",
    [
        ("[features.99.*]", "expected a pattern of parameters' names, such as features.0.weight"),
        ("['*']", "expected something left to train"),
    ],
)
def test_what_cannot_be_frozen_is_named(tmp_path, frozen, said):
    chosen = config.load(CONFIG, [f"train.freeze={frozen}"])
    with pytest.raises(ConfigError, match=r"^mnist/vgg_trl_8: train\.freeze: ") as caught:
        experiment.train(chosen, None, tmp_path, CPU.devices, show=False)
    assert said in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "head",
    [
        {"type": "dense", "hidden": []},
        {"type": "tcl", "rank": [4, 2, 2]},
        {"type": "trl", "rank": 0.1},
    ],
)
def test_a_heads_rate(head):
    """Multiplied with what its parameters have, and no others."""
    network = attach_head(
        make_backbone("small_vgg2", (1, 28, 28), 10), {**head, "lr_mult": 0.25}, (1, 28, 28), 10
    )
    rates = {n: p.lr_mult for n, p in network._collect_params_with_prefix().items()}
    assert {rate for name, rate in rates.items() if name.startswith("output")} == {0.25}
    assert {rate for name, rate in rates.items() if name.startswith("features")} == {1.0}


def test_new_keys_at_their_defaults_leave_the_hashes_of_earlier_results():
    earlier = config.load(CONFIG, ["train.learning_rate=0.05"])  # before it was tuned
    assert earlier.hash == "4d17614c72a9"
    changed = config.load(CONFIG, ["model.head.lr_mult=0.5"])
    assert changed.hash != config.load(CONFIG).hash
    assert changed.model_hash == config.load(CONFIG).model_hash


def test_a_gradient_of_zero_is_clipped_to_zero():
    network = nn.Dense(2, in_units=3)
    network.initialize()
    with autograd.record():
        loss = (network(mx.nd.ones((1, 3))) * 0).sum()
    loss.backward()
    clip_gradients(network.collect_params().values(), 1.0)
    assert not network.weight.grad().asnumpy().any()


def test_the_norm_of_many_gradients_loses_none():
    """Added up one by one in float32, so many squares would lose some percent."""
    parameter = gluon.Parameter("many", shape=(2**25,))
    parameter.initialize(mx.init.Zero())
    parameter.grad()[:] = 1.1
    clip_gradients([parameter], 1.0)
    assert parameter.grad()[0].asscalar() == pytest.approx(2**-12.5, rel=5e-3)


@pytest.mark.parametrize("compute", [CPU, TWO], ids=["one device", "two devices"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_that_are_not_finite_are_skipped_and_counted(blobs, tmp_path, compute, accumulate):
    """A batch with a NaN changes nothing: the network is that of a training without it."""

    def with_nan(batch_size, seed):
        for number, (images, labels) in enumerate(blobs.train(batch_size, seed)):
            if number // accumulate == 1:
                images = images.copy()
                images[0] = np.nan
            yield images, labels

    def without(batch_size, seed):
        for number, batch in enumerate(blobs.train(batch_size, seed)):
            if number // accumulate != 1:
                yield batch

    networks, metrics = [small_network(), small_network()], []
    for network, train in zip(networks, (with_nan, without)):
        settings = recipe(
            epochs=1,
            batch_size=4,
            momentum=0.9,
            accumulate=accumulate,
            nonfinite="skip",
            schedule={"type": "step", "milestones": [9]},
        )
        folder = tmp_path / train.__name__
        metrics += run(network, replace(blobs, train=train), folder, settings, compute=compute)
    for one, other in zip(*map(parameters, networks)):
        np.testing.assert_array_equal(one, other)
    assert [row["skipped"] for row in metrics] == [1, 0]
    assert np.isfinite([row["train_loss"] for row in metrics]).all()


def test_any_number_of_arrays_of_any_type_is_found_finite():
    """MXNet's operator takes 200 of one type, and crashes with more."""
    arrays = [mx.nd.ones((2,), dtype=("float16", "float32")[i % 2]) for i in range(801)]
    assert all_finite(arrays) and all_finite(iter(arrays)) and all_finite([])
    for place in (0, 401, 800):
        bad = list(arrays)
        bad[place] = arrays[place] * np.inf
        assert not all_finite(bad)


def test_statistics_of_every_device_have_to_be_finite(blobs, tmp_path):
    network = small_network()
    network.add(nn.BatchNorm(in_channels=3))

    def train(batch_size, seed):
        network[-1].running_mean.data(TWO.devices[1])[:] = np.nan
        yield from blobs.train(batch_size, seed)

    with pytest.raises(Diverged, match="no longer finite"):
        run(network, replace(blobs, train=train), tmp_path, compute=TWO)


def test_a_divergence_is_noticed_within_some_steps(blobs, tmp_path):
    seen = []

    def train(batch_size, seed):
        for number in range(500):
            for images, labels in blobs.train(4, seed):
                seen.append(number)
                yield images * (np.nan if len(seen) == 30 else 1), labels

    source = replace(blobs, train=train, train_size=4 * 5000)
    said = (
        r"^[^\n]*no longer finite in step 30 of epoch 1, with train\.learning_rate 0\.1 and "
        r"train\.weight_decay 0; [^\n]*no checkpoint yet$"
    )
    with pytest.raises(Diverged, match=said):
        run(nn.Dense(3), source, tmp_path, recipe(batch_size=4))
    assert len(seen) < 30 + 2 * 16 + 1


def test_weights_that_are_not_finite_are_not_saved(blobs, tmp_path):
    """oneDNN's ReLU makes 0 of NaN: the loss stays finite where the weights are not."""

    def train(batch_size, seed):
        for images, labels in blobs.train(batch_size, seed):
            yield images * np.nan, labels

    network = small_network()
    with pytest.raises(Diverged, match="the weights are no longer finite"):
        run(network, replace(blobs, train=train), tmp_path)
    assert any(np.isnan(values).any() for values in parameters(network))
    assert not list(tmp_path.glob("checkpoints/*"))
