"""Networks of our own: their backbones and heads, with weights counted by hand."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

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
    "thin_resnet": (2048, 7, 7),
    "thin_alexnet": (256, 6, 6),
    "thin_unpadded_alexnet": (256, 5, 5),
    "thin_vgg": (512, 7, 7),
    "unpadded_alexnet": (256, 5, 5),
    "cifar_alexnet": (256, 3, 3),
    "cifar_vgg19": (512, 3, 3),
}
OTHER_IMAGES = {  # all else is for 28×28
    "unpadded_alexnet": (3, 224, 224),
    "cifar_alexnet": (3, 32, 32),
    "cifar_vgg19": (3, 32, 32),
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
    image = OTHER_IMAGES.get(backbone, IMAGE)
    network = build_network(backbone, HEADS[head], image, classes=10)
    count = count_head(network, image)
    assert count.weights == weights_by_hand(backbone, head, 10)
    network.initialize(mx.init.Xavier())
    images = mx.nd.random.normal(shape=(3, *image))
    scores = network(images).asnumpy()
    assert scores.shape == (3, 10) and np.isfinite(scores).all()
    arrays = network.output.collect_params().values()
    assert sum(p.data().size for p in arrays) == sum(vars(count).values())
    network.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(network(images).asnumpy(), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ACTIVATIONS)
def test_activation(backbone):
    image = OTHER_IMAGES.get(backbone, IMAGE)
    assert output_shape(BACKBONES[backbone]().features, image) == ACTIVATIONS[backbone]


@pytest.mark.parametrize("backbone", ["small_vgg2", "slim_alexnet", "cifar_vgg19", "thin_alexnet"])
def test_the_rectifier_after_pooling_is_that_before_it(backbone):
    """Bit for bit, with its gradients; it is on a quarter of the pixels."""
    features = BACKBONES[backbone]().features
    blocks = list(features)
    for i, (block, after) in enumerate(zip(blocks, blocks[1:])):
        if isinstance(block, nn.MaxPool2D) and isinstance(after, nn.Activation):
            blocks[i : i + 2] = [after, block]
    assert blocks != list(features)
    before = nn.HybridSequential()
    before.add(*blocks)
    features.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=(8, *OTHER_IMAGES.get(backbone, IMAGE)))
    seen = []
    for network in (features, before):
        with mx.autograd.record():
            out = network(x)
            loss = out.square().sum()
        loss.backward()
        gradients = [p.grad() for p in features.collect_params(".*weight").values()]
        seen.append([array.asnumpy() for array in (out, *gradients)])
    for one, other in zip(*seen):
        np.testing.assert_array_equal(one, other)


def test_two_tcls_one_after_another():
    head = {"type": "tcl", "rank": [[20, 5, 5], [9, 3, 2]], "hidden": []}
    network = build_network("small_vgg2", head, IMAGE, classes=10)
    first, second = 32 * 20 + 2 * 7 * 5, 20 * 9 + 5 * 3 + 5 * 2
    assert count_head(network, IMAGE).weights == first + second + 9 * 3 * 2 * 10
    kinds = [type(block).__name__ for block in network.output._children.values()]
    assert kinds == ["BatchNorm", "TCL", "BatchNorm", "TCL", "BatchNorm", "Flatten", "Dense"]
    network.initialize(mx.init.Xavier())
    assert network(mx.nd.random.normal(shape=(2, *IMAGE))).shape == (2, 10)


@pytest.mark.parametrize("norm", [False, True])
def test_a_tcl_before_a_trl(norm):
    head = {"type": "trl", "tcl": [20, 5, 5], "rank": [9, 3, 2, 10], "norm": norm}
    network = build_network("slim_resnet", head, IMAGE, classes=10)
    tcl, trl = 192 * 20 + 2 * 7 * 5, 9 * 3 * 2 * 10 + 20 * 9 + 5 * 3 + 5 * 2 + 10 * 10
    assert count_head(network, IMAGE).weights == tcl + trl
    kinds = [type(block).__name__ for block in network.output._children.values()]
    between = ["BatchNorm"] * norm
    assert kinds == [*between, "TCL", *between, "TRL", *between]
    network.initialize(mx.init.Xavier())
    assert network(mx.nd.random.normal(shape=(2, *IMAGE))).shape == (2, 10)


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
