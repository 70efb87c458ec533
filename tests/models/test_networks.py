"""Networks of our own: their backbones and heads, with weights counted by hand."""

import mxnet as mx
import numpy as np
import pytest

from trnet.models import BACKBONES, build_network, count_head
from trnet.models.shapes import output_shape

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
    """The count equals that by hand and that of the arrays; traced and plain scores agree."""
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
    assert output_shape(BACKBONES[backbone]().features, IMAGE) == ACTIVATIONS[backbone]


def test_a_trl_in_place_of_pooling_starts_as_pooling_and_dense():
    network = build_network("small_resnet8", {"type": "trl", "rank": [64, 1, 1, 10]}, IMAGE, 10)
    network.initialize(mx.init.Xavier())
    activation = mx.nd.random.uniform(shape=(4, 64, 7, 7))
    shuffled = activation.asnumpy().reshape(4, 64, 49)[:, :, np.random.permutation(49)]
    scores = network.output(activation).asnumpy()
    again = network.output(mx.nd.array(shuffled.reshape(4, 64, 7, 7))).asnumpy()
    np.testing.assert_allclose(scores, again, rtol=1e-4, atol=1e-6)
    assert scores.std() > 0.01


def test_a_head_may_pool_or_flatten_as_the_network_does_not():
    for backbone, pooling, inputs in (("small_vgg2", True, 32), ("slim_resnet", False, 192 * 49)):
        head = {"type": "dense", "pooling": pooling, "hidden": []}
        network = build_network(backbone, head, IMAGE, classes=10)
        assert count_head(network, IMAGE).weights == inputs * 10
