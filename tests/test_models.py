"""Networks: their trunks, their heads, and what a head costs, counted by hand."""

from math import prod

import mxnet as mx
import numpy as np
import pytest

from trnet.models import BACKBONES, build_network, count_head, space_savings, spatial_patterns
from trnet.models.accounting import parameter_shapes
from trnet.models.tail import output_shape

IMAGE = (1, 28, 28)
ACTIVATIONS = {
    "small_alexnet": (96, 6, 6),
    "small_vgg2": (32, 7, 7),
    "small_vgg4": (64, 7, 7),
    "slim_alexnet": (48, 6, 6),
    "slim_resnet": (192, 7, 7),
    "small_resnet8": (64, 7, 7),
    "small_resnet20": (64, 7, 7),
}
HEADS = {
    "dense": {"type": "dense"},
    "tcl": {"type": "tcl", "rank": [5, 3, 2], "hidden": [11]},
    "tucker": {"type": "trl", "rank": [5, 3, 2, 4]},
    "cp": {"type": "trl", "rank": 6, "factorization": "cp"},
    "tensor_train": {"type": "trl", "rank": [5, 6, 4], "factorization": "tensor_train"},
}


def weights_by_hand(backbone: str, head: str, classes: int) -> int:
    c, h, w = ACTIVATIONS[backbone]
    if head == "dense":
        flat = c if BACKBONES[backbone]().pooling else c * h * w
        sizes = (flat, *BACKBONES[backbone]().hidden, classes)
        return sum(a * b for a, b in zip(sizes, sizes[1:]))
    return {
        "tcl": c * 5 + h * 3 + w * 2 + 5 * 3 * 2 * 11 + 11 * classes,
        "tucker": 5 * 3 * 2 * 4 + c * 5 + h * 3 + w * 2 + classes * 4,
        "cp": 6 * (c + h + w + classes),
        "tensor_train": c * 5 + 5 * h * 6 + 6 * w * 4 + 4 * classes,
    }[head]


def test_every_backbone_is_tested():
    assert set(ACTIVATIONS) == set(BACKBONES)


@pytest.mark.parametrize("backbone", ACTIVATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_head(backbone, head):
    """The head's count is that by hand and that of its arrays; traced and plain scores agree."""
    network = build_network(backbone, HEADS[head], IMAGE, classes=10)
    count = count_head(network, IMAGE)
    assert count.weights == weights_by_hand(backbone, head, 10)
    network.initialize(mx.init.Xavier())
    images = mx.nd.random.normal(shape=(3, *IMAGE))
    scores = network(images).asnumpy()
    assert scores.shape == (3, 10) and np.isfinite(scores).all()
    arrays = network.output.collect_params().values()
    assert sum(p.data().size for p in arrays) == sum(vars(count).values())
    network.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(network(images).asnumpy(), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ACTIVATIONS)
def test_activation(backbone):
    assert output_shape(BACKBONES[backbone]().trunk, IMAGE) == ACTIVATIONS[backbone]


def test_counting_allocates_nothing():
    """A head of 10^12 weights is counted as fast as a small one."""
    head = {"type": "dense", "hidden": [10**6, 10**6]}
    network = build_network("small_vgg2", head, IMAGE, classes=10)
    assert count_head(network, IMAGE).weights == 1568 * 10**6 + 10**12 + 10**7
    assert all(p._data is None for p in network.collect_params().values())


def test_counting_tells_kinds_apart():
    head = {"type": "tcl", "rank": [5, 3, 2], "hidden": []}
    count = count_head(build_network("small_vgg2", head, IMAGE, classes=10), IMAGE)
    assert vars(count) == {
        "weights": 32 * 5 + 7 * 3 + 7 * 2 + 30 * 10,
        "biases": 10,
        "normalisation": 4 * 32 + 4 * 5,
    }


def test_all_of_a_network_is_walked():
    network = build_network("small_resnet8", HEADS["dense"], IMAGE, classes=10)
    shapes = parameter_shapes(network, IMAGE)
    assert set(shapes) == set(network.collect_params())
    network.initialize()
    network(mx.nd.zeros((1, *IMAGE)))
    assert shapes == {name: p.shape for name, p in network.collect_params().items()}
    assert sum(prod(s) for s in shapes.values()) > 70_000


def test_a_trl_behind_pooling_starts_as_pooling_and_dense():
    network = build_network("small_resnet8", {"type": "trl", "rank": [64, 1, 1, 10]}, IMAGE, 10)
    network.initialize(mx.init.Xavier())
    activation = mx.nd.random.uniform(shape=(4, 64, 7, 7))
    shuffled = activation.asnumpy().reshape(4, 64, 49)[:, :, np.random.permutation(49)]
    scores = network.output(activation).asnumpy()
    again = network.output(mx.nd.array(shuffled.reshape(4, 64, 7, 7))).asnumpy()
    np.testing.assert_allclose(scores, again, rtol=1e-4, atol=1e-6)
    assert scores.std() > 0.01


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
    """Those of all ranks span the weight's pixels; shares are those of its square."""
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


def test_a_head_may_pool_or_flatten_as_the_network_does_not():
    for backbone, pooling, inputs in (("small_vgg2", True, 32), ("slim_resnet", False, 192 * 49)):
        head = {"type": "dense", "pooling": pooling, "hidden": []}
        network = build_network(backbone, head, IMAGE, classes=10)
        assert count_head(network, IMAGE).weights == inputs * 10


@pytest.mark.parametrize(
    "original, smaller, percent",
    [
        (123_633_664, 42_197_062, 65.87),
        (2_048_000, 649_614, 68.28),
        (2_048_000, 479_714, 76.58),
        (2_048_000, 314_814, 84.63),
        (2_048_000, 154_914, 92.44),
    ],
)
def test_published_savings(original, smaller, percent):
    assert round(100 * space_savings(smaller, original), 2) == percent
