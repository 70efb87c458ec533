"""Networks without their heads: the small ones of this project, in the registry BACKBONES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from mxnet.gluon import HybridBlock, Parameter, nn


@dataclass(frozen=True)
class Backbone:
    """A network without its head, and what is known of that head.

    Attributes
    ----------
    features : HybridBlock
        From images (batch, channels, height, width) to the activation tensor (batch, C, H, W).
    pooling : bool
        Whether the network's own head starts with global average pooling; else it flattens.
    hidden : tuple of int
        Units of the hidden dense layers in the network's own head.
    head : sequence of HybridBlock
        The blocks of the head that was removed; empty if there was none.
    classes : int
        Class scores of the head that was removed, or 0.
    names : dict of str to Parameter
        Parameters by the names that the whole network's ``save_parameters`` gives them.
    """

    features: HybridBlock
    pooling: bool
    hidden: tuple[int, ...]
    head: Sequence[HybridBlock] = ()
    classes: int = 0
    names: dict[str, Parameter] = field(default_factory=dict)


def small_alexnet() -> HybridBlock:
    """AlexNet in small: large kernels first, overlapping pooling."""
    features = nn.HybridSequential(prefix="")
    features.add(
        nn.Conv2D(32, kernel_size=5, padding=2, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),  # (B, 1, 28, 28) -> (B, 32, 13, 13)
        nn.Conv2D(64, kernel_size=3, padding=1, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),  # -> (B, 64, 6, 6)
        nn.Conv2D(128, kernel_size=3, padding=1, activation="relu"),
        nn.Conv2D(96, kernel_size=3, padding=1, activation="relu"),  # -> (B, 96, 6, 6)
    )
    return features


def unpadded_alexnet() -> HybridBlock:
    """AlexNet without padding in its first convolution, as the papers': to (B, 256, 5, 5)."""
    features = nn.HybridSequential(prefix="")
    features.add(
        nn.Conv2D(64, kernel_size=11, strides=4, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),  # (B, 3, 224, 224) -> (B, 64, 26, 26)
        nn.Conv2D(192, kernel_size=5, padding=2, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),  # -> (B, 192, 12, 12)
        nn.Conv2D(384, kernel_size=3, padding=1, activation="relu"),
        nn.Conv2D(256, kernel_size=3, padding=1, activation="relu"),
        nn.Conv2D(256, kernel_size=3, padding=1, activation="relu"),
        nn.MaxPool2D(pool_size=3, strides=2),  # -> (B, 256, 5, 5)
    )
    return features


def cifar_alexnet() -> HybridBlock:
    """AlexNet for images of 32×32: smaller kernels, no strides."""
    features = nn.HybridSequential(prefix="")
    # (B, 3, 32, 32) -> (B, 64, 15, 15) -> (B, 192, 7, 7) -> (B, 256, 3, 3)
    for widths, kernel_size in (((64,), 5), ((192,), 5), ((384, 256, 256), 3)):
        features.add(*_convolutions(widths, kernel_size, pool_size=3))
    return features


def cifar_vgg19() -> HybridBlock:
    """VGG-19 for images of 32×32: pooled after the first three of its five blocks."""
    features = nn.HybridSequential(prefix="")
    # (B, 3, 32, 32) -> (B, 64, 15, 15) -> (B, 128, 7, 7) -> (B, 256, 3, 3) -> (B, 512, 3, 3)
    for convolutions, width in ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)):
        pool_size = 3 if width < 512 else None
        features.add(*_convolutions([width] * convolutions, kernel_size=3, pool_size=pool_size))
    return features


def slim_alexnet() -> HybridBlock:
    """AlexNet in slim, with batch normalisation in place of its local response normalisation."""
    features = nn.HybridSequential(prefix="")
    # (B, 1, 28, 28) -> (B, 16, 13, 13) -> (B, 32, 6, 6) -> (B, 64, 6, 6) -> (B, 48, 6, 6)
    features.add(
        *_convolutions((16,), kernel_size=5, pool_size=3),
        *_convolutions((32,), kernel_size=3, pool_size=3),
        *_convolutions((64, 48), kernel_size=3),
    )
    return features


def small_vgg(convolutions: int, channels: tuple[int, int]) -> HybridBlock:
    """VGG in small: two blocks of 3×3 convolutions, each pooled."""
    features = nn.HybridSequential(prefix="")
    for width in channels:  # (B, 1, 28, 28) -> (B, C1, 14, 14) -> (B, C2, 7, 7)
        features.add(*_convolutions([width] * convolutions, kernel_size=3, pool_size=2))
    return features


def small_resnet(blocks: int) -> HybridBlock:
    """GluonCV's ResNet for CIFAR, with the given number of blocks in each of its three stages."""
    from gluoncv.model_zoo.cifarresnet import CIFARBasicBlockV1, CIFARResNetV1

    # (B, 1, 28, 28) -> (B, 16, 28, 28) -> (B, 32, 14, 14) -> (B, 64, 7, 7)
    network = CIFARResNetV1(CIFARBasicBlockV1, [blocks] * 3, [16, 16, 32, 64])
    return network.features[:-1]  # its last layer is the global average pooling


def slim_resnet() -> HybridBlock:
    """ResNet-101 in slim: bottlenecks to many channels."""
    from mxnet.gluon.model_zoo.vision.resnet import BottleneckV1

    features = nn.HybridSequential(prefix="")
    features.add(
        # (B, 1, 28, 28) -> (B, 16, 14, 14)
        *_convolutions((16,), kernel_size=3, pool_size=2),
        BottleneckV1(64, stride=1, downsample=True, in_channels=16),  # -> (B, 64, 14, 14)
        BottleneckV1(192, stride=2, downsample=True, in_channels=64),  # -> (B, 192, 7, 7)
    )
    return features


def thin_resnet() -> HybridBlock:
    """A thin trunk to the activation tensor of ResNet-50 and ResNet-101, (B, 2048, 7, 7)."""
    from mxnet.gluon.model_zoo.vision.resnet import BottleneckV1

    features = nn.HybridSequential(prefix="")
    features.add(
        # (B, 1, 28, 28) -> (B, 32, 14, 14)
        *_convolutions((32,), kernel_size=3, pool_size=2),
        BottleneckV1(128, stride=1, downsample=True, in_channels=32),  # -> (B, 128, 14, 14)
        BottleneckV1(256, stride=2, downsample=True, in_channels=128),  # -> (B, 256, 7, 7)
        *_convolutions((2048,), kernel_size=1),  # -> (B, 2048, 7, 7)
    )
    return features


def thin_alexnet(first_padding: int = 2) -> HybridBlock:
    """A thin trunk to the activation tensor of AlexNet, (B, 256, 6, 6).

    Without padding in its first convolution, as the papers' AlexNet: to (B, 256, 5, 5).
    """
    features = nn.HybridSequential(prefix="")
    # (B, 1, 28, 28) -> (B, 32, 13, 13) -> (B, 96, 6, 6) -> (B, 256, 6, 6)
    # without padding:   (B, 32, 11, 11) -> (B, 96, 5, 5) -> (B, 256, 5, 5)
    features.add(
        *_convolutions((32,), kernel_size=5, padding=first_padding, pool_size=3),
        *_convolutions((96,), kernel_size=3, pool_size=3),
        *_convolutions((128, 256), kernel_size=3),
    )
    return features


def thin_vgg() -> HybridBlock:
    """A thin trunk to the activation tensor of VGG-19, (B, 512, 7, 7)."""
    features = nn.HybridSequential(prefix="")
    # (B, 1, 28, 28) -> (B, 32, 14, 14) -> (B, 96, 7, 7) -> (B, 512, 7, 7)
    features.add(
        *_convolutions((32, 32), kernel_size=3, pool_size=2),
        *_convolutions((96,), kernel_size=3, pool_size=2),
        *_convolutions((128, 512), kernel_size=3),
    )
    return features


def _convolutions(
    widths: Sequence[int],
    kernel_size: int,
    padding: int | None = None,
    pool_size: int | None = None,
) -> list[HybridBlock]:
    """Convolutions, each with batch normalisation and the rectifier; pooled with stride 2 if asked.

    By default images keep their size.
    """
    padding = kernel_size // 2 if padding is None else padding
    blocks: list[HybridBlock] = []
    for width in widths:
        convolution = nn.Conv2D(width, kernel_size, padding=padding, use_bias=False)
        blocks += [convolution, nn.BatchNorm(), nn.Activation("relu")]
    if pool_size is not None:
        # The rectifier of maxima is the maxima of the rectifier, gradients too, on fewer pixels.
        blocks.insert(-1, nn.MaxPool2D(pool_size, strides=2))
    return blocks


def _flattened(features: Callable[[], HybridBlock], units: int = 512) -> Backbone:
    """A backbone of AlexNet's and VGG's form: flattening and two hidden dense layers follow it."""
    return Backbone(features(), pooling=False, hidden=(units, units))


def _pooled(features: Callable[[], HybridBlock]) -> Backbone:
    """A backbone of ResNet's form: global average pooling and one dense layer follow it."""
    return Backbone(features(), pooling=True, hidden=())


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "small_alexnet": partial(_flattened, small_alexnet),
    "slim_alexnet": partial(_flattened, slim_alexnet),
    "small_vgg2": partial(_flattened, partial(small_vgg, 1, (16, 32))),
    "small_vgg4": partial(_flattened, partial(small_vgg, 2, (32, 64))),
    "slim_resnet": partial(_pooled, slim_resnet),
    "small_resnet8": partial(_pooled, partial(small_resnet, 1)),
    "small_resnet20": partial(_pooled, partial(small_resnet, 3)),
    "thin_resnet": partial(_pooled, thin_resnet),
    "thin_alexnet": partial(_flattened, thin_alexnet, 4096),
    "thin_unpadded_alexnet": partial(_flattened, partial(thin_alexnet, first_padding=0), 4096),
    "thin_vgg": partial(_flattened, thin_vgg, 4096),
    "unpadded_alexnet": partial(_flattened, unpadded_alexnet, 4096),
    "cifar_alexnet": partial(_flattened, cifar_alexnet, 4096),
    "cifar_vgg19": partial(_flattened, cifar_vgg19, 4096),
}
"""The registry of backbones: a name, and a function that makes the :class:`Backbone`.

The names are values of ``model.backbone`` in a config. A plugin registers a network by assignment,
and a config whose ``plugins`` name the plugin's module can use it::

    from trnet.models import BACKBONES, Backbone


    def mine():
        features = nn.HybridSequential(prefix="")  # (B, 1, 28, 28) -> (B, 16, 13, 13)
        features.add(nn.Conv2D(16, kernel_size=3, activation="relu"), nn.MaxPool2D())
        return Backbone(features, pooling=False, hidden=())


    BACKBONES["mine"] = mine

The function is called once per network, so that no two networks share parameters. A registered name
takes precedence over the same name in GluonCV.
"""
