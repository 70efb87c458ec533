"""Checkpoints: which are kept, and that a damaged one is never used as if it were whole."""

import json
import random
import shutil
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from training.helpers import CPU, StopAfter, parameters, recipe, rewrite_state, run, small_network

from trnet.config import CosineSchedule
from trnet.errors import Stopped, UserError
from trnet.training import checkpoint, loop
from trnet.training.devices import Compute
from trnet.training.metrics import Metrics

FILES = ("network.params", "optimizer.params", "state.json", "manifest.json")


def save(folder: Path, top1s: tuple[float, ...], optimizer: str = "sgd") -> nn.Dense:
    """A network whose weight is the number of its epoch, saved after every epoch."""
    network = nn.Dense(1, in_units=1)
    network.initialize()
    trainer = loop.make_trainer(network, recipe(optimizer=optimizer))
    metrics = Metrics()
    for epoch, top1 in enumerate(top1s, start=1):
        metrics.append({"epoch": epoch, "top1": top1})
        with mx.autograd.record():
            network(mx.nd.ones((1, 1))).backward()
        trainer.step(1)
        network.weight.set_data(mx.nd.full((1, 1), epoch))
        checkpoint.save(folder, network, trainer, metrics, 0, "a hash")
    return network


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path):
    network = save(tmp_path, (0.3, 0.7, 0.5, 0.7, 0.6))
    kept = ["epoch-0002", "epoch-0004", "epoch-0005", "metrics.jsonl"]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
    rows = checkpoint.load_metrics(checkpoint.latest(tmp_path)).rows
    assert [row["top1"] for row in rows] == [0.3, 0.7, 0.5, 0.7, 0.6]
    checkpoint.load_network(checkpoint.best(tmp_path), network, CPU.devices)
    assert network.weight.data().asscalar() == 2


def test_half_a_checkpoint_is_none(tmp_path):
    (tmp_path / ".epoch-0003").mkdir()
    (tmp_path / "epoch-0009-keep").mkdir()
    (tmp_path / ".epoch-0003" / "network.params").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None and checkpoint.best(tmp_path) is None


def load(folder: Path) -> None:
    """Load all of the latest checkpoint, as a training that resumes does."""
    last = checkpoint.latest(folder)
    network = nn.Dense(1, in_units=1)
    network.initialize()
    checkpoint.load_metrics(last)
    checkpoint.load_network(last, network, CPU.devices)
    trainer = loop.make_trainer(network, recipe())
    checkpoint.load_trainer(last, network, trainer, 0, "a hash")


@pytest.mark.parametrize("name", FILES)
def test_no_changed_bit_is_used(name, tmp_path):
    """Bits at random places, and files that are cut, longer, empty or gone."""
    save(tmp_path, (0.3,))
    load(tmp_path)
    path = tmp_path / "epoch-0001" / name
    whole, draw = path.read_bytes(), random.Random(0)
    changed = [whole[: len(whole) // 2], whole + b"0", b"", None]
    for place in draw.sample(range(8 * len(whole)), 60):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        changed.append(bytes(flipped))
    for content in changed:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        # Spaces of the manifest's layout may change, and the names of files that are not there.
        if name == "manifest.json" and content is not None and loads_alike(content, whole):
            continue
        with pytest.raises(UserError, match=r"epoch-0001[^\n]*$"):
            load(tmp_path)


def loads_alike(content: bytes, whole: bytes) -> bool:
    try:
        return json.loads(content) == json.loads(whole)
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_a_training_goes_on_from_the_last_whole_checkpoint(name, blobs, tmp_path):
    """A damaged one is set aside, not deleted, and the end is that of an undisturbed run."""
    whole, again = small_network(), small_network()
    run(whole, blobs, tmp_path / "whole", recipe(epochs=4))
    run(small_network(), blobs, tmp_path / "disturbed", recipe(epochs=4))
    saved = tmp_path / "disturbed/checkpoints"
    content = (saved / "epoch-0004" / name).read_bytes()
    (saved / "epoch-0004" / name).write_bytes(content[:-9] + b"!" + content[-8:])
    run(again, blobs, tmp_path / "disturbed", recipe(epochs=4))
    for one, other in zip(parameters(whole), parameters(again)):
        np.testing.assert_array_equal(one, other)
    assert (saved / "epoch-0004.damaged" / name).is_file()


def test_no_whole_checkpoint_is_an_error_and_deletes_nothing(tmp_path):
    save(tmp_path, (0.3, 0.2))
    for path in tmp_path.glob("*/state.json"):
        path.write_text("{}")
    said = []
    for _ in range(2):  # and no training starts again unasked
        named = r"got 2 that are damaged \([^\n]*epoch-0002/state\.json: is damaged[^\n]*$"
        with pytest.raises(UserError, match=named):
            checkpoint.set_damaged_aside(tmp_path, said.append)
    assert not said
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["epoch-0001", "epoch-0002", "metrics.jsonl"]


def test_a_checkpoint_of_another_release_is_not_set_aside(tmp_path):
    """Its structure may be another one; undamaged it waits for its own release."""
    save(tmp_path, (0.3, 0.2))
    newest = tmp_path / "epoch-0002"
    rewrite_state(newest, lambda state: state.update(version=3, metrics="elsewhere"))
    with pytest.raises(UserError, match="expected version 2, got 3; another release of trnet"):
        checkpoint.set_damaged_aside(tmp_path, print)
    assert newest.is_dir()


def test_a_part_of_an_epoch_from_an_earlier_release_resumes(blobs, tmp_path):
    """Its state does not say how many steps were skipped: none could be."""
    expected = run(small_network(), blobs, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(small_network(), blobs, tmp_path / "parts", stop=StopAfter(7))
    (folder,) = (tmp_path / "parts/checkpoints").glob("*-step-*")
    rewrite_state(folder, lambda state: state["within"].pop("skipped"))
    resumed = run(small_network(), blobs, tmp_path / "parts")
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in expected]


def test_a_checkpoint_that_a_kill_left_is_deleted(blobs, tmp_path):
    """It came after the last save, and before the deletion of what is kept no longer."""
    settings = recipe(epochs=3)
    run(small_network(), blobs, tmp_path, settings)
    folder = tmp_path / "checkpoints"
    kept = sorted(path.name for path in folder.iterdir())
    shutil.copytree(folder / "epoch-0003", folder / "epoch-0003-step-000002")
    run(small_network(), blobs, tmp_path, settings)
    assert sorted(path.name for path in folder.iterdir()) == kept


def test_half_a_checkpoint_that_a_kill_left_is_cleared(blobs, tmp_path, monkeypatch):
    """Of a new one, and of an old one that was being deleted; the next session has neither."""
    folder, deleted = tmp_path / "checkpoints", []

    def killed(path, **_):
        deleted.append(path.name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small_network(), blobs, tmp_path, recipe(epochs=4))
    assert deleted[0].startswith(".epoch-000") and (folder / deleted[0]).is_dir()
    (folder / ".epoch-0009").mkdir()
    run(small_network(), blobs, tmp_path, recipe(epochs=4))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_kill_while_a_checkpoint_is_replaced_loses_none(tmp_path, monkeypatch):
    def killed(path, **_):
        raise KeyboardInterrupt

    save(tmp_path, (0.3,))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, (0.7,))
    checkpoint.clear(tmp_path)
    assert checkpoint.load_metrics(checkpoint.newest(tmp_path)).rows == [{"epoch": 1, "top1": 0.7}]


def test_a_checkpoint_of_three_devices_has_their_weights(blobs, tmp_path):
    """And not the mean of three equal numbers, which is rounded."""
    network = small_network()
    three = Compute([mx.cpu(0), mx.cpu(1), mx.cpu(2)])
    run(network, blobs, tmp_path, recipe(epochs=1, batch_size=9), compute=three)
    saved = mx.nd.load(str(checkpoint.latest(tmp_path / "checkpoints") / "network.params"))
    for place, parameter in network._collect_params_with_prefix().items():
        for array in parameter.list_data():
            np.testing.assert_array_equal(saved[place].asnumpy(), array.asnumpy())


def test_metrics_begin_again_with_the_training(blobs, tmp_path):
    run(small_network(), blobs, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    metrics = run(small_network(), blobs, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == len(metrics) + 1


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    """Another seed, another config, another epoch's folder, and a newer structure."""
    network = save(tmp_path, (0.3,))
    last, trainer = checkpoint.latest(tmp_path), loop.make_trainer(network, recipe())
    with pytest.raises(UserError, match="expected seed 1, got 0: it is the checkpoint of another"):
        checkpoint.load_trainer(last, network, trainer, 1, "a hash")
    with pytest.raises(UserError, match="expected config_hash another, got a hash"):
        checkpoint.load_trainer(last, network, trainer, 0, "another")
    moved = last.rename(tmp_path / "epoch-0007")
    with pytest.raises(UserError, match="expected the state of epoch-0007, got that of epoch-0001"):
        checkpoint.load_metrics(moved)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    network = save(tmp_path, (0.3,), optimizer="adam")
    trainer = loop.make_trainer(network, recipe())
    with pytest.raises(UserError, match=r"optimizer\.params: cannot be loaded: expected arrays of"):
        checkpoint.load_trainer(checkpoint.latest(tmp_path), network, trainer, 0, "a hash")


def test_a_checkpoint_without_a_manifest_is_refused(tmp_path):
    network = save(tmp_path, (0.3,))
    (tmp_path / "epoch-0001/manifest.json").unlink()
    with pytest.raises(UserError, match=r"expected manifest\.json, got none; .* earlier release"):
        checkpoint.load_network(checkpoint.latest(tmp_path), network, CPU.devices)


def test_what_did_not_reach_the_disk_is_noticed(monkeypatch, tmp_path):
    """MXNet returns as if all were well where the last block of a file did not fit."""
    save(tmp_path, (0.3,))
    whole_save = mx.nd.save

    def cut(path, arrays):
        whole_save(path, arrays)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[:-4])

    monkeypatch.setattr(mx.nd, "save", cut)
    with pytest.raises(OSError, match=r"network\.params: was not written completely"):
        save(tmp_path, (0.3, 0.4))
    monkeypatch.undo()
    load(tmp_path)


@pytest.mark.parametrize("optimizer", ["sgd", "nag", "adam"])
def test_every_optimizer_resumes_bit_for_bit(optimizer, blobs, tmp_path):
    constant = CosineSchedule(type="cosine", final=0.01)
    settings = recipe(epochs=4, optimizer=optimizer, learning_rate=0.01, schedule=constant)
    straight, resumed = small_network(), small_network()
    run(straight, blobs, tmp_path / "straight", settings)
    run(small_network(), blobs, tmp_path / "parts", settings.model_copy(update={"epochs": 2}))
    run(resumed, blobs, tmp_path / "parts", settings)
    for one, other in zip(parameters(straight), parameters(resumed)):
        np.testing.assert_array_equal(one, other)


def test_numbers_that_an_optimizer_changes_are_kept(tmp_path):
    """Nadam's product of its schedule is in no array, and an argument of none."""
    network = nn.Dense(1, in_units=1)
    network.initialize()
    trainers = [loop.Trainer(network.collect_params(), mx.optimizer.Nadam()) for _ in range(2)]
    for trainer in trainers:
        trainer._init_kvstore()
    with mx.autograd.record():
        network(mx.nd.ones((1, 1))).backward()
    trainers[0].step(1)
    checkpoint.save(
        tmp_path, network, trainers[0], Metrics([{"epoch": 1, "top1": 0.5}]), 0, "a hash"
    )
    fresh = trainers[1]._optimizer.m_schedule
    checkpoint.load_trainer(checkpoint.latest(tmp_path), network, trainers[1], 0, "a hash")
    one, other = (trainer._optimizer for trainer in trainers)
    assert other.m_schedule == one.m_schedule != fresh and other.num_update == 1
