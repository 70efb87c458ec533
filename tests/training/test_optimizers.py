"""Optimisers: the trainer that applies them, and the registry."""

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn
from training.helpers import CONFIG, CPU, parameters, recipe, run, small_network

from trnet import config, experiment
from trnet.errors import ConfigError
from trnet.layers import TRL
from trnet.training import loop
from trnet.training.freezing import freeze
from trnet.training.optimizers import OPTIMIZERS, make_optimizer


@pytest.mark.parametrize("units, at_once", [(10, 16), (2**12, 1)])
def test_large_parameters_are_updated_one_by_one_to_the_same(units, at_once):
    """Gluon's own trainer, which updates four at a time, gives the same."""
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


def test_weights_and_cores_decay_and_nothing_else_does():
    network = nn.HybridSequential()
    network.add(nn.Conv2D(4, 3), nn.BatchNorm(), TRL(3, (2, 2, 2, 2), (4, 2, 2)))
    loop.initialize(network, (1, 4, 4), 0, CPU)
    loop.make_trainer(network, recipe())
    decayed = {n.split("_")[-1] for n, p in network.collect_params().items() if p.wd_mult}
    assert decayed >= {"weight", "core"}
    assert not decayed & {"bias", "gamma", "beta", "factor1", "factor4"}


def test_the_registered_optimizers_take_the_recipe():
    kinds = {"sgd": mx.optimizer.SGD, "nag": mx.optimizer.NAG, "adam": mx.optimizer.Adam}
    assert set(OPTIMIZERS) == set(kinds)
    for name, kind in kinds.items():
        settings = {"momentum": 0.7, "weight_decay": 0.01, "dtype": "float16"}
        made = make_optimizer(recipe(optimizer=name, **settings))
        assert isinstance(made, kind)
        momentum = made.beta1 if name == "adam" else made.momentum
        assert (made.learning_rate, momentum, made.wd) == (0.1, 0.7, 0.01)
        assert made.multi_precision


def test_nag_is_nesterovs():
    """Two steps of one weight by hand; its momentum has the decay of the weight before the step."""
    network = nn.Dense(1, in_units=1, use_bias=False)
    network.initialize(mx.init.One())
    settings = recipe(optimizer="nag", momentum=0.5, weight_decay=0.2)
    trainer = loop.make_trainer(network, settings)
    weight, momentum = 1.0, 0.0
    for gradient in (2.0, 3.0):
        with autograd.record():
            loss = network(mx.nd.full((1, 1), gradient))
        loss.backward()
        trainer.step(1)
        gradient += 0.2 * weight
        momentum = 0.5 * momentum + gradient
        weight -= 0.1 * (gradient + 0.5 * momentum)
        assert network.weight.data().asscalar() == pytest.approx(weight)


@pytest.mark.parametrize("name", ["sgd", "nag", "adam"])
@pytest.mark.parametrize(
    "changes", [{}, {"clip_gradient": 0.1}, {"accumulate": 2}, {"freeze": ["0.*"]}], ids=str
)
def test_every_recipe_resumes_bit_for_bit(blobs, tmp_path, name, changes):
    settings = recipe(optimizer=name, schedule={"type": "step", "milestones": [1]}, **changes)
    networks = [small_network() for _ in range(3)]
    for network in networks:
        freeze(network, settings.freeze)
    run(networks[0], blobs, tmp_path / "whole", settings)
    for epochs, network in zip((2, 3), networks[1:]):
        part = settings.model_copy(update={"epochs": epochs})
        run(network, blobs, tmp_path / "parts", part)
    for one, other in zip(parameters(networks[0]), parameters(networks[2])):
        np.testing.assert_array_equal(one, other)


SMALL = ["train.epochs=1", "train.schedule.warmup_epochs=0", "dataset.samples=400"]


class Signs(mx.optimizer.SGD):
    """Gradients count by their signs only."""

    def update_multi_precision(self, indices, weights, gradients, states):
        signs = [gradient.sign() for gradient in gradients]
        super().update_multi_precision(indices, weights, signs, states)


def test_an_optimizer_from_outside_is_reached_by_a_config(tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "signs", lambda recipe: Signs(learning_rate=1e-4, wd=0.0))
    overrides = [*SMALL, "train.learning_rate=1e-4"]
    plain = config.load(CONFIG, overrides)
    signs = config.load(CONFIG, [*overrides, "train.optimizer=signs"])
    assert signs.hash != plain.hash
    assert config.load(CONFIG, [*overrides, "train.optimizer=sgd"]).hash == plain.hash
    results = [
        experiment.train(chosen, None, tmp_path / str(number), CPU.devices, show=False)
        for number, chosen in enumerate((plain, signs))
    ]
    assert np.isfinite(results[1]["loss"]) and results[0]["loss"] != results[1]["loss"]


def test_an_unknown_optimizer_ends_in_one_line_and_nothing_is_trained(tmp_path):
    chosen = config.load(CONFIG, [*SMALL, "train.optimizer=lion"])
    said = r"^mnist/vgg_trl_8: train\.optimizer: expected one of sgd, nag, adam, got 'lion'$"
    for refuse in (
        lambda: experiment.train(chosen, None, tmp_path, CPU.devices),
        lambda: experiment.check(chosen, tmp_path, CPU.devices),
    ):
        with pytest.raises(ConfigError, match=said):
            refuse()
    assert list(Path(tmp_path).iterdir()) == []
