"""Checkpoints: which are kept, and what is said of damaged ones."""

import mxnet as mx
import pytest
from mxnet.gluon import nn
from training.helpers import CPU, recipe, run, small_network

from trnet.errors import UserError
from trnet.training import checkpoint, loop


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
    checkpoint.load_network(checkpoint.best(tmp_path), network, CPU.devices)
    assert network.weight.data().asscalar() == 2


def test_half_a_checkpoint_is_none(tmp_path):
    (tmp_path / ".epoch-0003").mkdir()
    (tmp_path / "epoch-0009-keep").mkdir()
    (tmp_path / ".epoch-0003" / "network.params").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None and checkpoint.best(tmp_path) is None


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "network.params").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"network\.params: cannot be loaded: [^\n]*$"):
        checkpoint.load_network(tmp_path, nn.Dense(1, in_units=1), CPU.devices)


def test_a_damaged_state_is_named(blobs, tmp_path):
    run(small_network(), blobs, tmp_path, recipe(epochs=1))
    states = tmp_path / "checkpoints/epoch-0001/optimizer.states"
    states.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"optimizer\.states: cannot be loaded: [^\n]*$"):
        run(small_network(), blobs, tmp_path, recipe(epochs=2))
    states.with_name("state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json: cannot be read"):
        run(small_network(), blobs, tmp_path, recipe(epochs=2))
