"""Backbones and heads that are registered from outside are reached by their names."""

from unittest import mock

import mxnet as mx
import pytest
from mxnet.gluon import nn

from trnet import config, experiment
from trnet.models import (
    BACKBONES,
    HEADS,
    Backbone,
    attach_head,
    build_network,
    count_head,
    make_backbone,
)

IMAGE = (1, 28, 28)


def strided() -> Backbone:
    features = nn.HybridSequential(prefix="")  # (B, 1, 28, 28) -> (B, 6, 14, 14)
    features.add(nn.Conv2D(6, kernel_size=3, strides=2, padding=1, activation="relu"))
    return Backbone(features, pooling=True, hidden=())


def tanh_head(backbone, in_shape, classes, units=4, *, bias=True):
    head = nn.HybridSequential(prefix="head_")
    with head.name_scope():
        head.add(nn.Flatten(), nn.Dense(units, activation="tanh", use_bias=bias))
        head.add(nn.Dense(classes))
    return head


@pytest.fixture(autouse=True)
def plugin():
    """Register them as a plugin does, until the test has ended."""
    with mock.patch.dict(BACKBONES, strided=strided), mock.patch.dict(HEADS, tanh=tanh_head):
        yield


@pytest.mark.parametrize(
    "head, weights, biases",
    [
        ({"type": "dense"}, 6 * 10, 10),
        ({"type": "trl", "rank": [2, 1, 1, 3]}, 2 * 3 + 6 * 2 + 14 + 14 + 10 * 3, 10),
        ({"type": "tanh", "units": 5}, 6 * 14 * 14 * 5 + 5 * 10, 5 + 10),
        ({"type": "tanh", "bias": False}, 6 * 14 * 14 * 4 + 4 * 10, 10),
    ],
)
def test_they_build_a_network(head, weights, biases):
    network = build_network("strided", head, IMAGE, classes=10)
    count = count_head(network, IMAGE)
    assert (count.weights, count.biases) == (weights, biases)
    network.initialize()
    assert network(mx.nd.zeros((2, *IMAGE))).shape == (2, 10)


def test_a_registered_head_is_attached_to_every_backbone():
    for name, side in (("strided", 28), ("small_vgg2", 28), ("resnet18_v1", 64)):
        shape = (3, side, side)
        backbone = make_backbone(name, shape, classes=7)
        network = attach_head(backbone, {"type": "tanh"}, shape, classes=7)
        assert network.features is backbone.features
        network.initialize()
        assert network(mx.nd.zeros((2, *shape))).shape == (2, 7)


def test_a_config_names_a_registered_backbone(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(
        "name: toy\ndataset: {name: mnist}\nmodel: {backbone: strided, head: {type: dense}}\n"
        "train: {epochs: 1, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}\n"
    )
    assert experiment.count(config.load(path)).weights == 6 * 10


def test_a_registered_backbone_takes_precedence_over_gluoncvs():
    with mock.patch.dict(BACKBONES, alexnet=strided):
        network = build_network("alexnet", {"type": "dense"}, IMAGE, classes=10)
    assert count_head(network, IMAGE).weights == 6 * 10


@pytest.mark.parametrize(
    "head, said",
    [
        ({"type": "cosh"}, ["type: expected one of dense, tcl, trl, ", "tanh", "got 'cosh'"]),
        ({"type": "tanh", "unit": 5}, ["tanh: got an unexpected keyword argument 'unit'"]),
        ({"type": "tcl"}, ["tcl: missing a required argument: 'rank'"]),
        ({"type": "trl", "rank": [99, 1, 1, 3]}, ["99"]),
    ],
)
def test_a_head_that_cannot_be_made_is_refused(refusal, head, said):
    refusal(lambda: build_network("strided", head, IMAGE, classes=10), *said)


def test_unknown_names_are_answered_with_all_that_are_registered(refusal):
    refusal(lambda: make_backbone("striped", IMAGE, 10), "strided", "got 'striped'; did you mean")
