"""Patterns of pixels in the weights of heads."""

from unittest import mock

import mxnet as mx
import numpy as np
import pytest

from trnet.models import HEADS, build_network, spatial_patterns

IMAGE = (1, 28, 28)


@pytest.mark.parametrize(
    "head",
    [
        {"type": "dense", "pooling": True, "hidden": []},
        {"type": "trl", "rank": [8, 1, 1, 5], "pooling": True},
    ],
)
def test_the_pattern_of_pooling_is_flat(head):
    network = build_network("small_vgg2", head, IMAGE, classes=10)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, *IMAGE)))
    maps, shares = spatial_patterns(network, IMAGE, 3)
    assert maps.shape == (1, 7, 7)
    np.testing.assert_allclose(maps, 1 / 7, rtol=1e-4)
    np.testing.assert_allclose(shares, 1, rtol=1e-6)


@pytest.mark.parametrize(
    "head",
    [{"type": "dense", "hidden": []}, {"type": "trl", "rank": [8, 3, 2, 5]}],
)
def test_patterns_rebuild_the_weight(head):
    """All patterns together span the weight's pixels; their shares are those of its square."""
    network = build_network("small_vgg2", head, IMAGE, classes=10)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, *IMAGE)))
    maps, shares = spatial_patterns(network, IMAGE, 49)
    is_trl = head["type"] == "trl"
    assert len(maps) == (6 if is_trl else 49)
    assert shares.sum() == pytest.approx(1) and (np.diff(shares) <= 0).all()
    basis = maps.reshape(len(maps), 49)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(maps)), atol=1e-6)
    weight = network.output.to_dense_weight() if is_trl else network.output[1].weight.data()
    pixels = weight.asnumpy().reshape(320, 49)
    np.testing.assert_allclose(pixels @ basis.T @ basis, pixels, atol=1e-5)
    energies = np.square(pixels @ basis.T).sum(axis=0) / np.square(pixels).sum()
    np.testing.assert_allclose(energies, shares, rtol=1e-4, atol=1e-7)
    assert (basis.sum(axis=1) > -1e-6).all()


def test_a_head_of_several_layers_has_no_patterns():
    network = build_network("small_vgg2", {"type": "dense"}, IMAGE, classes=10)
    network.initialize()
    network(mx.nd.zeros((1, *IMAGE)))
    assert spatial_patterns(network, IMAGE, 3) is None


def test_a_plugins_head_has_no_patterns():
    head = {"bare": lambda backbone, in_shape, classes: mx.gluon.nn.Dense(classes)}
    with mock.patch.dict(HEADS, head):
        network = build_network("small_vgg2", {"type": "bare"}, IMAGE, classes=10)
    assert spatial_patterns(network, IMAGE, 3) is None
