"""The loop: what it trains, on one device and on several, and how far it runs ahead."""

import csv
import json
from collections.abc import Iterator

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from tensorboardX.proto.event_pb2 import Event
from training.helpers import CPU, parameters, recipe, run, small_network

from trnet.data import Request
from trnet.data.arrays import Part, from_arrays, shift_and_flip
from trnet.errors import Diverged, UserError
from trnet.models import build_network
from trnet.training import checkpoint, loop
from trnet.training.devices import Compute
from trnet.training.evaluation import evaluate
from trnet.training.metrics import tensorboard
from trnet.training.saving import nothing


def test_label_smoothing_is_cross_entropy_against_smoothed_labels():
    scores, labels = np.random.randn(5, 4), np.array([0, 3, 1, 2, 2])
    targets = np.full((5, 4), 0.1 / 4) + 0.9 * np.eye(4)[labels]
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    loss = loop.make_loss(0.1, 4)(mx.nd.array(scores), mx.nd.array(labels))
    np.testing.assert_allclose(loss.asnumpy(), -(targets * logs).sum(1), rtol=1e-5)


@pytest.mark.parametrize("side, ahead", [(4, 2 * 16), (1024, 2)])
def test_steps_run_ahead_of_what_is_waited_for(side, ahead):
    """Far with small images; with a batch of large ones only the next is under way."""
    network = nn.HybridSequential()
    network.add(nn.GlobalAvgPool2D(), nn.Dense(3, in_units=1))
    network.initialize()
    trainer = loop.make_trainer(network, recipe())
    begun, waited, most, rates = [], 0, 0, []
    images = mx.nd.zeros((2, 1, side, side))

    def batches():
        nonlocal most
        for number in range(50):
            begun.append(number)
            most = max(most, len(begun) - waited)
            yield images, mx.nd.array([number, number + 1])

    def loss(scores, labels):
        rates.append(trainer.learning_rate)
        return labels + 0 * scores.sum(axis=1)

    class Counting:
        def advance(self, n_images, learning_rate):
            nonlocal waited
            assert n_images % 4 == 0  # batches of all workers
            waited += n_images // 4

    done = nothing()
    loop.train_epoch(
        network, trainer, loss, batches(), map(float, range(60)), 4, CPU, Counting(), recipe(), done
    )
    assert begun == list(range(50)) and waited == 50
    assert most == ahead
    assert rates[1:] == list(range(49))
    assert (done["images"], done["loss"]) == (100, 2 * sum(range(50)) + 50)


def test_training_learns(blobs, tmp_path):
    metrics = run(small_network(), blobs, tmp_path, recipe(epochs=12))
    assert metrics[-1]["top1"] > 0.9 > 0.5 > metrics[-1]["train_loss"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics
    assert [row["epoch"] for row in metrics] == list(range(1, 13))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{key: float(value) for key, value in row.items()} for row in rows] == metrics


def test_metrics_are_logged_for_tensorboard(blobs, tmp_path):
    with tensorboard(tmp_path) as log:
        metrics = run(small_network(), blobs, tmp_path, recipe(epochs=2), log=log)
    (path,) = (tmp_path / "tensorboard").iterdir()
    logged = {
        (value.tag, event.step): value.simple_value
        for event in events(path.read_bytes())
        for value in event.summary.value
    }
    expected = {
        (name, row["epoch"]): pytest.approx(value)
        for row in metrics
        for name, value in row.items()
        if name != "epoch"
    }
    assert logged == expected


def events(content: bytes) -> Iterator[Event]:
    """The records of a log: a length of 8 bytes and its checksum, an event and its checksum."""
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12:end])
        content = content[end + 4 :]


@pytest.mark.parametrize("n_devices, batch_size", [(2, 7), (3, 8)])
def test_several_devices_do_what_one_does(blobs, tmp_path, n_devices, batch_size):
    networks = [small_network(), small_network()]
    settings = recipe(batch_size=batch_size)
    run(networks[0], blobs, tmp_path / "one", settings)
    several = Compute([mx.cpu(i) for i in range(n_devices)])
    run(networks[1], blobs, tmp_path / "several", settings, compute=several)
    for one, other in zip(*map(parameters, networks)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_batch_has_an_image_for_each_device(blobs, tmp_path):
    with pytest.raises(
        UserError, match=r"train\.batch_size: expected at least 3 images, .*, got 2"
    ):
        three = Compute([mx.cpu(i) for i in range(3)])
        run(small_network(), blobs, tmp_path, recipe(batch_size=2), compute=three)


def test_devices_share_running_statistics(blobs, tmp_path):
    """What is scored is the network that is saved, though each device normalises its own images."""
    network = small_network()
    network.add(nn.BatchNorm())
    metrics = run(network, blobs, tmp_path, compute=Compute([mx.cpu(0), mx.cpu(1)]))
    for parameter in network.collect_params(".*running").values():
        first, second = (array.asnumpy() for array in parameter.list_data())
        assert (first == second).all() and first.any()
    saved = small_network()
    saved.add(nn.BatchNorm())
    checkpoint.load_network(checkpoint.latest(tmp_path / "checkpoints"), saved, CPU.devices)
    assert evaluate(saved, blobs, 3, 8, CPU).loss == pytest.approx(metrics[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "nag", "adam"])
def test_every_run_saves_the_same_network(optimizer, tmp_path):
    """Though steps are under way when an epoch ends, and oneDNN lays out weights when it likes."""
    rng = np.random.default_rng(0)
    parts = [
        Part(rng.integers(0, 256, (n, 3, 32, 32)).astype("uint8"), np.arange(n) % 3)
        for n in (69, 20)
    ]
    request = Request(None, augment=False, classes=3, shape=(3, 32, 32))
    source = from_arrays(request, *parts, mean=[0.5], std=[0.3], augmentation=shift_and_flip)
    head = {"type": "trl", "rank": [3, 1, 1, 3]}
    runs = []
    for number in range(4):
        network = build_network("small_resnet20", head, request.shape, 3)
        settings = recipe(epochs=2, learning_rate=0.01, weight_decay=0.01, optimizer=optimizer)
        run(network, source, tmp_path / str(number), settings, request.shape)
        runs.append(parameters(network))
    assert all(np.isfinite(array).all() for array in runs[0])
    for other in runs[1:]:
        for one, same in zip(runs[0], other):
            np.testing.assert_array_equal(one, same)


def test_a_loss_that_is_no_longer_finite_stops_the_run(blobs, tmp_path):
    with pytest.raises(UserError, match=r"with train\.learning_rate 1e\+30 and "):
        run(small_network(), blobs, tmp_path, recipe(learning_rate=1e30))
    assert checkpoint.latest(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("way", ["loss", "factors"])
def test_a_divergence_is_named_in_one_line(way, blobs, tmp_path, monkeypatch):
    """By a loss that is not finite, or by factors whose Gram matrix has no inverse."""

    def broken(self, ignore_stale_grad=False):
        bias = self._params[-1]
        rows = mx.nd.full((2, 2), np.nan) if way == "loss" else mx.nd.zeros((2, 2))
        bias.set_data(bias.data() + mx.nd.linalg.inverse(rows).sum())

    monkeypatch.setattr("trnet.optimize.Trainer._update", broken)
    with pytest.raises(
        Diverged, match=r"^[^\n]*no longer finite in (step 2 of )?epoch 1, with [^\n]*$"
    ):
        run(small_network(), blobs, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_start_whose_loss_is_not_finite_is_refused(blobs, tmp_path):
    network = small_network()
    loop.initialize(network, (1, 4, 4), 0, CPU)
    network[2].bias.set_data(mx.nd.full((3,), np.inf))
    with pytest.raises(Diverged, match="no longer finite in epoch 0"):
        loop.score_start(network, blobs, 3, recipe(), CPU, tmp_path, {}, 0, "a hash")
    assert not (tmp_path / "checkpoints").exists()
