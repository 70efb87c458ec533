"""Networks without their heads, by name: ours for small images, and GluonCV's.

Adding a network is a line in :data:`BACKBONES`; every classification network of GluonCV whose head
:func:`~trnet.models.tail.take_off_head` understands goes by GluonCV's name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from mxnet.gluon import HybridBlock, Parameter, nn

from trnet.models.tail import LINEAR, POOLING, output_shape, take_off_head

# GluonCV's table also has networks that detect, segment and the like, in other modules.
# fmt: off
_ZOO_MODULES = (
    "alexnet", "cifarresnet", "cifarresnext", "cifarwideresnet", "densenet", "dla", "googlenet",
    "hrnet", "inception", "mobilenet", "mobilenetv3", "nasnet", "pruned_resnet.resnetv1b_pruned",
    "residual_attentionnet", "resnest", "resnet", "resnetv1b", "resnext", "senet", "shufflenet",
    "squeezenet", "vgg", "xception", "yolo.darknet",
)
# fmt: on


@dataclass(frozen=True)
class Backbone:
    """A network without its head, and what is known of that.

    Attributes
    ----------
    trunk : HybridBlock
        From images (batch, channels, height, width) to the activation tensor.
    pooling : bool
        Whether the network's own head starts with global average pooling; else it flattens.
    hidden : tuple of int
        Units of the hidden dense layers in the network's own head.
    head : sequence of HybridBlock
        The blocks of the head that was taken off, where there was one.
    classes : int
        Class scores that this head gives, or 0.
    names : dict of str to Parameter
        Parameters by the names that the whole network's ``save_parameters`` gives them.
    """

    trunk: HybridBlock
    pooling: bool
    hidden: tuple[int, ...]
    head: Sequence[HybridBlock] = ()
    classes: int = 0
    names: dict[str, Parameter] = field(default_factory=dict)


def make_backbone(name: str, image_shape: tuple[int, int, int], classes: int) -> Backbone:
    """Make a network of :data:`BACKBONES` or of GluonCV, without its head.

    Parameters
    ----------
    name : str
    image_shape : tuple of int
        (channels, height, width).
    classes : int
        Of the network's own head.

    Raises
    ------
    ValueError
        For an unknown name, or a network whose head is not understood.
    """
    if name in BACKBONES:
        backbone = BACKBONES[name]()
        output_shape(backbone.trunk, image_shape)  # refuses images that are too small
        return backbone
    known = zoo_names()
    if name not in known:
        close = difflib.get_close_matches(name, [*BACKBONES, *known], n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"got {name!r}; {hint}{', '.join(BACKBONES)}, or one of GluonCV's classification "
            "networks, as resnet101_v1, would fit"
        )
    try:
        return exchangeable(make_zoo_network(name, classes), image_shape)
    except ValueError as error:
        raise ValueError(f"got {name!r}, whose head cannot be exchanged: {error}") from None


def exchangeable(network: HybridBlock, image_shape: tuple[int, int, int]) -> Backbone:
    """Take a classification network's head off; see :func:`~trnet.models.tail.take_off_head`."""
    names = network._collect_params_with_prefix()
    trunk, head = take_off_head(network, image_shape)
    linear = [block for block in head if isinstance(block, LINEAR)]
    return Backbone(
        trunk,
        pooling=any(isinstance(block, POOLING) for block in head),
        hidden=tuple(_width(block) for block in linear[:-1]),
        head=head,
        classes=_width(linear[-1]),
        names=names,
    )


def zoo_names() -> list[str]:
    """Names of GluonCV's classification networks."""
    from gluoncv.model_zoo.model_zoo import _models

    return sorted(
        name
        for name, make in _models.items()
        if make.__module__.partition("model_zoo.")[2] in _ZOO_MODULES
        and not name.endswith("_s")  # HRNets that segment
    )


def make_zoo_network(name: str, classes: int) -> HybridBlock:
    """Make a classification network of GluonCV, with a head for some classes; not initialised."""
    from gluoncv.model_zoo import get_model

    return get_model(name, pretrained=False, classes=classes)


def _width(block: HybridBlock) -> int:
    return block._units if isinstance(block, nn.Dense) else block._channels


def small_alexnet() -> HybridBlock:
    """AlexNet's manner for 28×28: large kernels first, overlapping pooling; to (96, 6, 6)."""
    trunk = nn.HybridSequential(prefix="")
    trunk.add(
        nn.Conv2D(32, kernel_size=5, padding=2, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),
        nn.Conv2D(64, kernel_size=3, padding=1, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),
        nn.Conv2D(128, kernel_size=3, padding=1, activation="relu"),
        nn.Conv2D(96, kernel_size=3, padding=1, activation="relu"),
    )
    return trunk


def small_vgg(convolutions: int, channels: tuple[int, int]) -> HybridBlock:
    """VGG's manner for 28×28: two blocks of 3×3 convolutions, each pooled; to (channels, 7, 7)."""
    trunk = nn.HybridSequential(prefix="")
    for width in channels:
        for _ in range(convolutions):
            trunk.add(*_normalised_convolution(width, kernel_size=3))
        trunk.add(nn.MaxPool2D(pool_size=2, strides=2))
    return trunk


def small_resnet(blocks: int) -> HybridBlock:
    """GluonCV's ResNet for CIFAR, with as many blocks in each of three stages; to (64, 7, 7)."""
    from gluoncv.model_zoo.cifarresnet import CIFARBasicBlockV1, CIFARResNetV1

    network = CIFARResNetV1(CIFARBasicBlockV1, [blocks] * 3, [16, 16, 32, 64])
    return network.features[:-1]  # its last layer is the global average pooling


def slim_alexnet() -> HybridBlock:
    """AlexNet's manner, with batch normalisation for its local response one; to (48, 6, 6)."""
    trunk = nn.HybridSequential(prefix="")
    layers = ((16, 5, True), (32, 3, True), (64, 3, False), (48, 3, False))
    for width, kernel_size, is_pooled in layers:
        trunk.add(*_normalised_convolution(width, kernel_size))
        if is_pooled:
            trunk.add(nn.MaxPool2D(pool_size=3, strides=2))
    return trunk


def slim_resnet() -> HybridBlock:
    """ResNet-101's manner for 28×28: bottlenecks to many channels; to (192, 7, 7)."""
    from mxnet.gluon.model_zoo.vision.resnet import BottleneckV1

    trunk = nn.HybridSequential(prefix="")
    trunk.add(
        *_normalised_convolution(16, kernel_size=3),
        nn.MaxPool2D(pool_size=2, strides=2),
        BottleneckV1(64, stride=1, downsample=True, in_channels=16),
        BottleneckV1(192, stride=2, downsample=True, in_channels=64),
    )
    return trunk


def _normalised_convolution(width: int, kernel_size: int) -> tuple[HybridBlock, ...]:
    """A convolution that keeps the image's size, batch normalisation, and the rectifier."""
    convolution = nn.Conv2D(width, kernel_size, padding=kernel_size // 2, use_bias=False)
    return convolution, nn.BatchNorm(), nn.Activation("relu")


def _with_hidden_layers(trunk: Callable[[], HybridBlock]) -> Backbone:
    return Backbone(trunk(), pooling=False, hidden=(512, 512))


def _with_pooling(trunk: Callable[[], HybridBlock]) -> Backbone:
    return Backbone(trunk(), pooling=True, hidden=())


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "small_alexnet": partial(_with_hidden_layers, small_alexnet),
    "slim_alexnet": partial(_with_hidden_layers, slim_alexnet),
    "small_vgg2": partial(_with_hidden_layers, partial(small_vgg, 1, (16, 32))),
    "small_vgg4": partial(_with_hidden_layers, partial(small_vgg, 2, (32, 64))),
    "slim_resnet": partial(_with_pooling, slim_resnet),
    "small_resnet8": partial(_with_pooling, partial(small_resnet, 1)),
    "small_resnet20": partial(_with_pooling, partial(small_resnet, 3)),
}
