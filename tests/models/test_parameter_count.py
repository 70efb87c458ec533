"""Parameters are counted by kind, by walking the whole network, and without allocating any."""

from math import prod

import mxnet as mx

from trnet.models import build_network, count_head
from trnet.models.shapes import parameter_shapes

IMAGE = (1, 28, 28)


def test_counting_allocates_nothing():
    """A head of 10^12 weights is counted as fast as a small one."""
    head = {"type": "dense", "hidden": [10**6, 10**6]}
    network = build_network("small_vgg2", head, IMAGE, classes=10)
    assert count_head(network, IMAGE).weights == 1568 * 10**6 + 10**12 + 10**7
    assert all(p._data is None for p in network.collect_params().values())


def test_kinds_are_counted_apart():
    head = {"type": "tcl", "rank": [5, 3, 2], "hidden": []}
    count = count_head(build_network("small_vgg2", head, IMAGE, classes=10), IMAGE)
    assert vars(count) == {
        "weights": 32 * 5 + 7 * 3 + 7 * 2 + 30 * 10,
        "biases": 10,
        "normalisation": 4 * 32 + 4 * 5,
    }


def test_all_of_a_network_is_walked():
    network = build_network("small_resnet8", {"type": "dense"}, IMAGE, classes=10)
    shapes = parameter_shapes(network, IMAGE)
    assert set(shapes) == set(network.collect_params())
    network.initialize()
    network(mx.nd.zeros((1, *IMAGE)))
    assert shapes == {name: p.shape for name, p in network.collect_params().items()}
    assert sum(prod(s) for s in shapes.values()) > 70_000
