"""GluonCV's classification networks with other heads, against counts by hand."""

from math import prod

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn

from trnet import TRL
from trnet.models import (
    attach_head,
    build_network,
    count_head,
    make_backbone,
    remove_head,
    zoo_names,
)
from trnet.models.shapes import output_shape, parameter_shapes

# name: side of the image, activation tensor, hidden units
ZOO = {
    "alexnet": (224, (256, 6, 6), (4096, 4096)),
    "vgg11": (64, (512, 2, 2), (4096, 4096)),
    "vgg13": (64, (512, 2, 2), (4096, 4096)),
    "vgg16": (64, (512, 2, 2), (4096, 4096)),
    "vgg19": (64, (512, 2, 2), (4096, 4096)),
    "vgg16_bn": (64, (512, 2, 2), (4096, 4096)),
    "resnet18_v1": (64, (512, 2, 2), None),
    "resnet34_v1": (64, (512, 2, 2), None),
    "resnet50_v1": (64, (2048, 2, 2), None),
    "resnet101_v1": (64, (2048, 2, 2), None),
    "resnet152_v1": (64, (2048, 2, 2), None),
    "resnet18_v2": (64, (512, 2, 2), None),
    "resnet18_v1b": (64, (512, 2, 2), None),
    "resnet50_v1c": (64, (2048, 2, 2), None),
    "resnet50_v1d": (64, (2048, 2, 2), None),
    "resnet50_v1s": (64, (2048, 2, 2), None),
    "se_resnet18_v1": (64, (512, 2, 2), None),
    "resnext50_32x4d": (64, (2048, 2, 2), None),
    "resnest14": (64, (2048, 2, 2), None),
    "senet_154": (64, (2048, 2, 2), None),
    "densenet121": (224, (1024, 7, 7), None),
    "googlenet": (224, (1024, 7, 7), None),
    "inceptionv3": (299, (2048, 8, 8), None),
    "xception": (96, (2048, 3, 3), None),
    "mobilenet0.25": (64, (256, 2, 2), None),
    "mobilenetv2_0.25": (64, (1280, 2, 2), None),
    "mobilenetv3_small": (64, (576, 2, 2), (1280,)),
    "shufflenet_v1": (64, (960, 2, 2), None),
    "squeezenet1.0": (224, (512, 13, 13), None),
    "cifar_resnet20_v1": (32, (64, 8, 8), None),
    "cifar_wideresnet16_10": (32, (640, 8, 8), None),
    "cifar_resnext29_32x4d": (32, (1024, 8, 8), None),
}
CLASSES = 11


def images(side: int) -> mx.nd.NDArray:
    return mx.nd.random.normal(shape=(1, 3, side, side))


def initialised(network):
    network.initialize(mx.init.Xavier())
    return network


def weights_by_hand(name: str) -> int:
    """Weights of a network's own head."""
    _, activation, hidden = ZOO[name]
    flattens = name == "alexnet" or name.startswith("vgg")
    sizes = (prod(activation) if flattens else activation[0], *(hidden or ()), CLASSES)
    return sum(a * b for a, b in zip(sizes, sizes[1:]))


@pytest.mark.parametrize("name", ZOO)
def test_another_head_is_attached(name):
    """The backbone keeps all of GluonCV's parameters, and the savings are those by hand."""
    side, activation, hidden = ZOO[name]
    original = initialised(get_model(name, pretrained=False, classes=CLASSES))
    x = images(side)
    scores = original(x).asnumpy()
    shapes = parameter_shapes(original, (3, side, side))
    before = {key: p.data() for key, p in original.collect_params().items()}

    backbone = remove_head(original, (3, side, side))
    assert backbone.hidden == (hidden or ())
    assert output_shape(backbone.features, (3, side, side)) == activation
    whole = attach_head(backbone, {"type": "dense"}, (3, side, side), CLASSES)
    np.testing.assert_array_equal(whole(x).asnumpy(), scores)
    assert parameter_shapes(whole, (3, side, side)) == shapes
    assert count_head(whole, (3, side, side)).weights == weights_by_hand(name)

    c, h, w = activation
    rank = [7, 1, 2, 5]
    network = attach_head(backbone, {"type": "trl", "rank": rank}, (3, side, side), CLASSES)
    network.output.initialize(mx.init.Xavier())
    plain = network(x).asnumpy()
    assert plain.shape == (1, CLASSES) and np.isfinite(plain).all()
    network.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(network(x).asnumpy(), plain, rtol=1e-3, atol=1e-4)
    weights = prod(rank) + 7 * c + h + 2 * w + 5 * CLASSES
    assert count_head(network, (3, side, side)).weights == weights
    kept = network.features.collect_params()
    assert kept and set(shapes) - set(kept) == set(whole.output.collect_params())
    for key, parameter in kept.items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[key].asnumpy())


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18_v1", "squeezenet1.0"])
@pytest.mark.parametrize("hidden", [[], [13]])
@pytest.mark.parametrize("norm", [True, False])
def test_tcl(name, hidden, norm):
    side, (c, h, w), _ = ZOO[name]
    head = {"type": "tcl", "rank": [5, 2, 1], "hidden": hidden, "norm": norm}
    network = initialised(build_network(name, head, (3, side, side), CLASSES))
    plain = network(images(side))
    assert plain.shape == (1, CLASSES)
    sizes = (5 * 2 * 1, *hidden, CLASSES)
    dense = sum(a * b for a, b in zip(sizes, sizes[1:]))
    count = count_head(network, (3, side, side))
    assert count.weights == 5 * c + 2 * h + w + dense
    assert count.normalisation == (4 * c + 4 * 5 if norm else 0)


@pytest.mark.parametrize("name", ["vgg11", "resnet18_v1", "mobilenetv3_small"])
def test_the_networks_own_head_takes_other_hidden_units(name):
    side, activation, _ = ZOO[name]
    network = build_network(name, {"type": "dense", "hidden": [6]}, (3, side, side), CLASSES)
    inputs = prod(activation) if name == "vgg11" else activation[0]
    assert count_head(network, (3, side, side)).weights == inputs * 6 + 6 * CLASSES


def test_a_head_for_other_classes_is_made_again():
    """GluonCV's HRNets always have 1 000 classes."""
    network = build_network("hrnet_w18_small_v1_c", {"type": "dense"}, (3, 64, 64), CLASSES)
    assert count_head(network, (3, 64, 64)).weights == 2048 * CLASSES


def test_dropout_of_the_networks_own_head_is_set():
    network = build_network("vgg11", {"type": "dense", "dropout": 0.2}, (3, 64, 64), CLASSES)
    rates = [b._rate for b in network.output._children.values() if isinstance(b, nn.Dropout)]
    assert rates == [0.2, 0.2]


@pytest.mark.parametrize("head", [{"type": "dense"}, {"type": "tcl", "rank": [5, 2, 2]}])
def test_hidden_layers_drop_half_by_default(head):
    network = build_network("vgg11", head, (3, 64, 64), CLASSES)
    rates = [b._rate for b in network.output._children.values() if isinstance(b, nn.Dropout)]
    assert rates == [0.5, 0.5]


def test_any_network_of_a_user():
    """A head may be anywhere in a network, under any name."""

    class Own(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.last = nn.Dense(CLASSES)
            self.body = nn.HybridSequential()
            self.body.add(nn.Conv2D(6, 3, activation="relu"), nn.HybridSequential())
            self.body[1].add(nn.Flatten(), nn.Dense(20), nn.Swish(), nn.Dropout(0.1))

        def hybrid_forward(self, F, x):
            return self.last(self.body(F.relu(x)))

    backbone = remove_head(Own(), (3, 8, 8))
    assert backbone.hidden == (20,) and not backbone.pooling
    head = {"type": "trl", "rank": [2, 2, 2, 2]}
    network = initialised(attach_head(backbone, head, (3, 8, 8), CLASSES))
    assert isinstance(network.output, TRL) and network(images(8)).shape == (1, CLASSES)


@pytest.mark.parametrize(
    "name, side, said",
    [
        ("darknet53", 64, "takes more than one pixel, got LeakyReLU"),
        ("dla34", 64, "got an operator between GlobalAvgPool2D and Dense"),
        ("residualattentionnet56", 224, "got an operator after Conv2D"),
        ("nasnet_4_1056", 224, "expected a network with one output, got 2"),
        ("resnet50_v1b_gn", 64, "cannot be traced"),
        ("densenet121", 299, "expected AvgPool2D over all pixels (9, 9), got a kernel (7, 7)"),
        ("resnet18_v1", 32, "expected larger images: these leave only one pixel to pool"),
        ("alexnet", 32, "the network does not take images of (3, 32, 32)"),
        ("resnet50_v1d_0.11", 224, "does not take images of"),
        ("vgg_16", 224, "did you mean vgg16"),
        ("ssd_512_resnet50_v1_voc", 512, "GluonCV's classification networks"),
    ],
)
def test_what_is_not_understood_is_named_in_one_line(refusal, capfd, name, side, said):
    refusal(lambda: make_backbone(name, (3, side, side), CLASSES), f"got '{name}'", said)
    assert capfd.readouterr().out == ""


def test_names_are_of_networks_that_classify():
    names = zoo_names()
    assert set(ZOO) <= set(names) and len(names) > 100
    assert not [n for n in names if n.endswith(("_voc", "_coco", "_kinetics400", "_int8"))]


def test_a_head_is_removed_from_a_network_that_was_hybridized_and_run():
    original = nn.HybridSequential()
    original.add(nn.Conv2D(6, 3), nn.MaxPool2D(), nn.Flatten(), nn.Dense(20), nn.Dense(CLASSES))
    initialised(original).hybridize()
    assert original(images(8)).shape == (1, CLASSES)
    features = remove_head(original, (3, 8, 8)).features
    assert features(images(8)).shape == (1, 6, 3, 3)
