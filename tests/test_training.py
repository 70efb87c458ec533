"""Training: recipe, loop, devices, checkpoints, and a resume that leaves no trace."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from trnet import config, experiment
from trnet.config import CosineSchedule, StepSchedule, Train
from trnet.data import Request
from trnet.data.arrays import Part, from_arrays, shift_and_flip
from trnet.errors import UserError
from trnet.layers import TRL
from trnet.models import build_network
from trnet.training import checkpoint, loop
from trnet.training.evaluation import Scores, evaluate, split
from trnet.training.machines import Workers
from trnet.training.progress import Progress
from trnet.training.schedule import learning_rate

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs/mnist/vgg_trl_8.yaml"
COSINE = CosineSchedule(type="cosine")
CPU = [mx.cpu()]


def recipe(**changes) -> Train:
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 0.1, "schedule": COSINE}
    return Train(**{**settings, **changes})


@pytest.fixture(scope="module")
def blobs():
    """Forty images of 4×4 in three classes that their brightness tells, 13 to score."""
    rng = np.random.default_rng(0)
    labels = np.arange(53) % 3
    images = rng.integers(0, 40, (53, 1, 4, 4)) + 80 * labels[:, None, None, None]
    train, validation = slice(0, 40), slice(40, 53)
    parts = (Part(images[s].astype("uint8"), labels[s]) for s in (train, validation))
    return from_arrays(
        Request(None, augment=False, classes=3, shape=(1, 6, 6)),
        *parts,
        mean=[0.5],
        std=[0.3],
        augmentation=shift_and_flip,
    )


def small_network(dropout: float = 0.0) -> nn.HybridSequential:
    network = nn.HybridSequential(prefix="small_")
    with network.name_scope():
        network.add(nn.Conv2D(6, 3, activation="relu"), nn.Dropout(dropout), TRL(3, (3, 2, 2, 3)))
    return network


def run(network, source, folder, settings=None, seed=0, contexts=CPU) -> list[dict]:
    """Train a fresh network in a folder; its metrics."""
    settings = settings or recipe()
    loop.initialize(network, (1, 4, 4), seed, contexts)
    progress = Progress("test", settings.epochs, 40, show=False)
    return loop.train(network, source, 3, settings, seed, contexts, folder, progress)


def parameters(network) -> list[np.ndarray]:
    return [p.data(p.list_ctx()[0]).asnumpy() for p in network.collect_params().values()]


def test_cosine_schedule():
    rate = learning_rate(recipe(schedule=CosineSchedule(type="cosine", warmup_epochs=1)), 10)
    rates = [rate(step) for step in range(30)]
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(10) / 10)
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-6)


def test_step_schedule_falls_with_its_epochs():
    schedule = StepSchedule(type="step", milestones=[1, 2], factor=0.5)
    rate = learning_rate(recipe(schedule=schedule), 10)
    rates = [rate(step) for step in range(30)]
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.05, 0.025], 10))


def test_a_schedule_goes_on_where_a_run_resumes():
    for schedule in (COSINE, StepSchedule(type="step", milestones=[1, 2])):
        whole, late = (learning_rate(recipe(schedule=schedule), 10) for _ in range(2))
        assert [whole(step) for step in range(30)][25] == late(25)


def test_label_smoothing_is_cross_entropy_against_smoothed_labels():
    scores, labels = np.random.randn(5, 4), np.array([0, 3, 1, 2, 2])
    targets = np.full((5, 4), 0.1 / 4) + 0.9 * np.eye(4)[labels]
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    loss = loop.make_loss(0.1, 4)(mx.nd.array(scores), mx.nd.array(labels))
    np.testing.assert_allclose(loss.asnumpy(), -(targets * logs).sum(1), rtol=1e-5)


@pytest.mark.parametrize("side, ahead", [(4, 2 * 16), (1024, 2)])
def test_steps_run_ahead_of_what_is_waited_for(side, ahead):
    """Far with small images; with a batch of large ones only the next is under way."""
    begun, waited, most = [], [], 0

    def step(number, batch):
        nonlocal most
        begun.append(number)
        most = max(most, len(begun) - len(waited))
        losses = np.arange(number, number + 3, dtype="float32")
        return [mx.nd.array(losses[:1]), mx.nd.array(losses[1:])]

    images = mx.nd.zeros((2, 1, side, side))
    batches = ((number, (images, None)) for number in range(50))
    n_images, total = loop.train_epoch(step, batches, lambda: waited.append(len(waited)))
    assert begun == waited == list(range(50))
    assert most == ahead
    assert (n_images, total) == (150, 3 * sum(range(50)) + 3 * 50)


@pytest.mark.parametrize("units, at_once", [(10, 16), (2**12, 1)])
def test_large_parameters_are_updated_one_by_one_to_the_same(units, at_once):
    """As Gluon's own trainer does it, which takes four at a time."""
    networks = [nn.HybridSequential(prefix="net_") for _ in range(2)]
    x = mx.nd.random.normal(shape=(4, 20))
    for network in networks:
        network.add(nn.Dense(20, in_units=20), nn.Dense(units, in_units=20))
        network.initialize(mx.init.One())
    settings = {"learning_rate": 0.1, "momentum": recipe().momentum, "wd": recipe().weight_decay}
    trainers = [
        loop.make_trainer(networks[0], recipe()),
        gluon.Trainer(networks[1].collect_params(), "sgd", settings),
    ]
    for parameter in networks[1].collect_params().values():
        parameter.wd_mult = 0.0 if parameter.name.endswith("bias") else 1.0
    assert trainers[0].optimizer.aggregate_num == at_once
    for network, trainer in zip(networks, trainers):
        for _ in range(3):
            with autograd.record():
                loss = network(x).square().mean()
            loss.backward()
            trainer.step(4)
    pairs = zip(*(network.collect_params().values() for network in networks))
    assert all(np.array_equal(a.data().asnumpy(), b.data().asnumpy()) for a, b in pairs)


def test_weights_decay_and_biases_and_normalisation_do_not():
    network = nn.HybridSequential()
    network.add(nn.Conv2D(4, 3), nn.BatchNorm(), TRL(3, (2, 2, 2, 2), (4, 2, 2)))
    loop.initialize(network, (1, 4, 4), 0, CPU)
    loop.make_trainer(network, recipe())
    decayed = {n.split("_")[-1] for n, p in network.collect_params().items() if p.wd_mult}
    assert decayed >= {"weight", "core", "factor1", "factor4"}
    assert not decayed & {"bias", "gamma", "beta"}


def test_evaluation_counts_every_image_once(blobs):
    network = small_network()
    loop.initialize(network, (1, 4, 4), 0, CPU)
    batches = list(blobs.validation(13))
    scores = network(batches[0][0]).asnumpy()
    labels = batches[0][1].asnumpy().astype(int)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    for batch_size in (1, 4, 13, 50):
        for contexts in (CPU, [mx.cpu(0), mx.cpu(1)]):
            network.collect_params().reset_ctx(contexts)
            found = evaluate(network, blobs, 3, batch_size, contexts)
            assert found.top1 == (scores.argmax(1) == labels).mean()
            assert found.top5 == 1.0
            np.testing.assert_allclose(found.loss, -logs[np.arange(13), labels].mean(), rtol=1e-5)


def test_a_worker_without_images_gets_the_others_scores(blobs):
    class Second(Workers):
        def sum(self, values):
            return np.add(values, [3, 4, 2.0, 4])  # the first's hits, loss and images

    network = small_network()
    loop.initialize(network, (1, 4, 4), 0, CPU)
    empty = replace(blobs, validation=lambda batch_size: iter(()))
    assert evaluate(network, empty, 3, 4, CPU, Second(1, 2)) == Scores(0.75, 1.0, 0.5)


def test_a_batch_splits_unevenly_and_loses_nothing():
    contexts = [mx.cpu(i) for i in range(4)]
    for size in (1, 3, 4, 7, 10):
        parts = split(mx.nd.arange(size), contexts)
        assert np.concatenate([part.asnumpy() for part in parts]).tolist() == list(range(size))
        assert [part.context for part in parts] == contexts[: len(parts)]


def test_training_learns(blobs, tmp_path):
    metrics = run(small_network(), blobs, tmp_path, recipe(epochs=12))
    assert metrics[-1]["top1"] > 0.9 > 0.5 > metrics[-1]["train_loss"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics
    assert [row["epoch"] for row in metrics] == list(range(1, 13))


@pytest.mark.parametrize("n_devices, batch_size", [(2, 7), (3, 8)])
def test_several_devices_do_what_one_does(blobs, tmp_path, n_devices, batch_size):
    networks = [small_network(), small_network()]
    settings = recipe(batch_size=batch_size)
    run(networks[0], blobs, tmp_path / "one", settings)
    several = [mx.cpu(i) for i in range(n_devices)]
    run(networks[1], blobs, tmp_path / "several", settings, contexts=several)
    for one, other in zip(*map(parameters, networks)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_batch_is_at_least_an_image_for_each_device(blobs, tmp_path):
    with pytest.raises(UserError, match=r"train\.batch_size: got 2 images; at least 3 would fit"):
        run(
            small_network(),
            blobs,
            tmp_path,
            recipe(batch_size=2),
            contexts=[mx.cpu(i) for i in range(3)],
        )


def test_devices_share_running_statistics(blobs, tmp_path):
    """What is scored is the network that is saved, though each device normalises its own images."""
    network = small_network()
    network.add(nn.BatchNorm())
    metrics = run(network, blobs, tmp_path, contexts=[mx.cpu(0), mx.cpu(1)])
    for parameter in network.collect_params(".*running").values():
        first, second = (array.asnumpy() for array in parameter.list_data())
        assert (first == second).all() and first.any()
    saved = small_network()
    saved.add(nn.BatchNorm())
    checkpoint.load_network(checkpoint.latest(tmp_path / "checkpoints"), saved, CPU)
    assert evaluate(saved, blobs, 3, 8, CPU).loss == pytest.approx(metrics[-1]["loss"], rel=1e-5)


def test_a_run_goes_on_bit_for_bit(blobs, tmp_path):
    """Stopped behind an epoch, and in the middle of one, with dropout and momentum."""
    straight, resumed = small_network(dropout=0.3), small_network(dropout=0.3)
    expected = run(straight, blobs, tmp_path / "straight", recipe(epochs=4))

    class Stop(Exception):
        pass

    def stopping(batch_size, seed):
        for step, batch in enumerate(blobs.train(batch_size, seed)):
            if seed == (0, 3) and step == 2:
                raise Stop
            yield batch

    broken = type(blobs)(blobs.train_size, blobs.validation_size, stopping, blobs.validation)
    with pytest.raises(Stop):
        run(resumed, broken, tmp_path / "resumed", recipe(epochs=4))
    resumed = small_network(dropout=0.3)
    metrics = run(resumed, blobs, tmp_path / "resumed", recipe(epochs=4))
    for one, other in zip(parameters(straight), parameters(resumed)):
        assert (one == other).all()
    for key in ("epoch", "train_loss", "top1", "loss", "learning_rate"):
        assert [row[key] for row in metrics] == [row[key] for row in expected]


def test_a_loss_that_is_no_longer_finite_stops_the_run(blobs, tmp_path):
    with pytest.raises(UserError, match=r"train\.learning_rate than 1e\+30"):
        run(small_network(), blobs, tmp_path, recipe(learning_rate=1e30))
    assert checkpoint.latest(tmp_path / "checkpoints") is None


def test_the_latest_and_the_best_checkpoint_are_kept(tmp_path):
    network = nn.Dense(1, in_units=1)
    network.initialize()
    trainer = loop.make_trainer(network, recipe())
    metrics = []
    for epoch, top1 in enumerate((0.3, 0.7, 0.5, 0.7, 0.6), start=1):
        metrics.append({"epoch": epoch, "top1": top1})
        network.weight.set_data(mx.nd.full((1, 1), epoch))
        checkpoint.save(tmp_path, network, trainer, metrics)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-0002", "epoch-0005"]
    assert checkpoint.load_metrics(checkpoint.latest(tmp_path)) == metrics
    checkpoint.load_network(checkpoint.best(tmp_path), network, CPU)
    assert network.weight.data().asscalar() == 2


def test_half_a_checkpoint_is_none(tmp_path):
    (tmp_path / ".epoch-0003").mkdir()
    (tmp_path / "epoch-0009-keep").mkdir()
    (tmp_path / ".epoch-0003" / "network.params").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None and checkpoint.best(tmp_path) is None


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "network.params").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"network\.params: cannot be loaded: [^\n]*$"):
        checkpoint.load_network(tmp_path, nn.Dense(1, in_units=1), CPU)


def test_a_damaged_state_is_named(blobs, tmp_path):
    run(small_network(), blobs, tmp_path, recipe(epochs=1))
    states = tmp_path / "checkpoints/epoch-0001/trainer.states"
    states.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"trainer\.states: cannot be loaded: [^\n]*$"):
        run(small_network(), blobs, tmp_path, recipe(epochs=2))
    states.with_name("state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json: cannot be read"):
        run(small_network(), blobs, tmp_path, recipe(epochs=2))


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """The whole program, killed with SIGKILL in the middle of an epoch."""

    def command(runs):
        settings = ["--set", "train.epochs=3", "--runs", str(tmp_path / runs)]
        return script("train", str(CONFIG), *settings)

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.PIPE)
    folder = tmp_path / "killed/mnist/vgg_trl_8/seed0"
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (folder / "result.json").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    resumed = subprocess.run(command("killed"), env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes behind epoch 1 of 3" in resumed.stderr
    straight = subprocess.run(command("straight"), env=environment, capture_output=True)
    assert straight.returncode == 0
    saved = [
        mx.nd.load(f"{tmp_path}/{runs}/mnist/vgg_trl_8/seed0/checkpoints/epoch-0003/network.params")
        for runs in ("killed", "straight")
    ]
    assert saved[0].keys() == saved[1].keys()
    for name in saved[0]:
        assert (saved[0][name].asnumpy() == saved[1][name].asnumpy()).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch: its runs folder, its config and its result."""
    runs = tmp_path_factory.mktemp("runs")
    chosen = config.load(CONFIG, ["train.epochs=1", "train.schedule.warmup_epochs=0"])
    result = experiment.train(chosen, config.load_baseline(CONFIG, chosen), runs, CPU, show=False)
    return runs, chosen, result


def test_a_result_says_what_it_is_of(finished):
    runs, chosen, result = finished
    folder = experiment.run_folder(runs, chosen)
    assert folder == runs / "mnist/vgg_trl_8/seed0"
    assert json.loads((folder / "result.json").read_text()) == result
    assert config.load(folder / "config.yaml") == chosen
    assert (result["name"], result["suite"], result["seed"]) == ("vgg_trl_8", "mnist", 0)
    assert result["config_hash"] == chosen.hash
    assert result["dataset"] == {"name": "mnist", "train": 4000, "validation": 1000}
    assert result["head_parameters"]["weights"] == 8 * 4 * 4 * 10 + 32 * 8 + 2 * 7 * 4 + 10 * 10
    assert result["baseline_head_weights"] == 15680
    assert result["space_savings"] == 1 - 1692 / 15680
    assert result["versions"]["mxnet"] == "1.9.1"
    assert result["images_per_second"] > 0 and "cores" in result["processor"]


def test_a_finished_run_is_not_trained_again(finished):
    runs, chosen, result = finished
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    assert experiment.train(chosen, None, runs, CPU) == result
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before


def test_another_config_does_not_touch_a_run(finished):
    runs, _, _ = finished
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    other = config.load(CONFIG, ["train.epochs=2", "train.schedule.warmup_epochs=0"])
    with pytest.raises(UserError, match=r"train\.epochs: 1 there, 2 here"):
        experiment.train(other, None, runs, CPU)
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before


def test_one_process_trains_a_run_at_a_time(tmp_path):
    chosen = config.load(CONFIG, ["train.epochs=2"])
    folder = experiment.run_folder(tmp_path, chosen)
    folder.mkdir(parents=True)
    with experiment._held(folder):  # noqa: SIM117
        with pytest.raises(UserError, match="another process is training it"):
            experiment.train(chosen, None, tmp_path, CPU, show=False)


def test_a_checkpoint_scores_as_its_epoch_did(finished):
    runs, chosen, result = finished
    folder = experiment.run_folder(runs, chosen)
    for which in ("latest", "best"):
        scored, epoch, scores = experiment.score(folder, which, CPU)
        assert (scored, epoch) == (chosen, 1)
        assert scores.top1 == result["top1"] and scores.loss == pytest.approx(result["loss"])


CONSTANT = CosineSchedule(type="cosine", final=0.05)  # at the rate of 0.05


def half_network() -> TRL:
    return TRL(3, (1, 3, 3, 3), prefix="half_")


def test_half_precision_trains_with_its_loss_and_its_weights_in_single(blobs, tmp_path):
    """A layer that computes in float16 learns what one in float32 does, and goes on as itself."""
    settings = recipe(epochs=6, learning_rate=0.05, schedule=CONSTANT)
    single = run(half_network(), blobs, tmp_path / "single", settings)
    halves = {}
    for name, stops in (("whole", [6]), ("parts", [2, 6])):
        for epochs in stops:
            network, half = half_network(), settings.model_copy(update={"dtype": "float16"})
            loop.initialize(network, (1, 4, 4), 0, CPU, "float16")
            progress = Progress("test", epochs, 40, show=False)
            part = half.model_copy(update={"epochs": epochs})
            folder = tmp_path / name
            metrics = loop.train(network, blobs, 3, part, 0, CPU, folder, progress)
        halves[name] = metrics, parameters(network)
    for one, other in zip(*(halves[name][1] for name in halves)):
        assert one.dtype == np.float16
        np.testing.assert_array_equal(one, other)
    losses = [[row["train_loss"] for row in m] for m in (single, halves["whole"][0])]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[0][-1] < 0.5 * losses[0][0]
    states, _ = pickle.loads(
        (tmp_path / "whole/checkpoints/epoch-0006/trainer.states").read_bytes()
    )
    master = [state[1] for state in states.values()]
    assert master and all(weight.dtype == np.float32 for weight in master)
    again = half_network()
    loop.initialize(again, (1, 4, 4), 0, CPU)
    checkpoint.load_network(tmp_path / "whole/checkpoints/epoch-0006", again, CPU)
    assert parameters(again)[0].dtype == np.float32  # as evaluate.py scores it on a CPU


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    chosen = config.load(CONFIG, ["train.dtype=float16"])
    with pytest.raises(UserError, match=r"^mnist/\S+: train\.dtype: got float16 on a CPU[^\n]*$"):
        experiment.train(chosen, None, tmp_path, CPU)
    assert not list(tmp_path.iterdir())


def test_statistics_are_those_of_every_step(tmp_path):
    """Whatever is still under way when an epoch ends: run by run the same network is saved."""
    rng = np.random.default_rng(0)
    parts = [
        Part(rng.integers(0, 256, (n, 3, 32, 32)).astype("uint8"), np.arange(n) % 3)
        for n in (69, 20)
    ]
    request = Request(None, augment=False, classes=3, shape=(3, 32, 32))
    source = from_arrays(request, *parts, mean=[0.5], std=[0.3], augmentation=shift_and_flip)
    head = {"type": "trl", "rank": [3, 1, 1, 3]}
    runs = []
    for number in range(6):
        network = build_network("small_resnet20", head, request.shape, 3)
        settings = recipe(epochs=2, learning_rate=0.01)
        loop.initialize(network, request.shape, 0, CPU)
        progress = Progress("test", 2, 64, show=False)
        folder = tmp_path / str(number)
        loop.train(network, source, 3, settings, 0, CPU, folder, progress)
        runs.append(parameters(network))
    assert all(np.isfinite(array).all() for array in runs[0])
    for other in runs[1:]:
        for one, same in zip(runs[0], other):
            np.testing.assert_array_equal(one, same)


def test_savings_are_against_the_baseline_on_the_same_data(tmp_path):
    overrides = ["dataset.name=synthetic", "dataset.size=64", "dataset.classes=3"]
    path = ROOT / "configs/imagenet/resnet101_trl_50.yaml"
    chosen = config.load(
        path, [*overrides, "model.backbone=resnet18_v1", "model.head.rank=[50, 1, 1, 3]"]
    )
    baseline = config.load_baseline(path, chosen)
    assert experiment.count(baseline).weights == 512 * 3
    assert baseline.name == "resnet101"


def test_evaluation_finds_data_that_moved(finished):
    runs, chosen, _ = finished
    with pytest.raises(UserError, match="'elsewhere'; mnist comes with the installation"):
        experiment.score(experiment.run_folder(runs, chosen), "latest", CPU, root="elsewhere")
