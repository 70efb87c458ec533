"""Trunks of networks by name: an image in, the activation tensor out that a head starts from.

Adding a network is a line in :data:`BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mxnet.gluon import HybridBlock, nn


@dataclass(frozen=True)
class Backbone:
    """A network without its head.

    Attributes
    ----------
    trunk : callable
        Makes the block from images (batch, channels, height, width) to the activation tensor.
    pooling : bool
        Whether the network's own head starts with global average pooling; else it flattens.
    hidden : tuple of int
        Units of the hidden dense layers in the network's own head.
    """

    trunk: Callable[[], HybridBlock]
    pooling: bool
    hidden: tuple[int, ...]


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
            trunk.add(
                nn.Conv2D(width, kernel_size=3, padding=1, use_bias=False),
                nn.BatchNorm(),
                nn.Activation("relu"),
            )
        trunk.add(nn.MaxPool2D(pool_size=2, strides=2))
    return trunk


def small_resnet(blocks: int) -> HybridBlock:
    """GluonCV's ResNet for CIFAR, with as many blocks in each of three stages; to (64, 7, 7)."""
    from gluoncv.model_zoo.cifarresnet import CIFARBasicBlockV1, CIFARResNetV1

    network = CIFARResNetV1(CIFARBasicBlockV1, [blocks] * 3, [16, 16, 32, 64])
    return network.features[:-1]  # its last layer is the global average pooling


BACKBONES: dict[str, Backbone] = {
    "small_alexnet": Backbone(small_alexnet, pooling=False, hidden=(512, 512)),
    "small_vgg2": Backbone(partial(small_vgg, 1, (16, 32)), pooling=False, hidden=(512, 512)),
    "small_vgg4": Backbone(partial(small_vgg, 2, (32, 64)), pooling=False, hidden=(512, 512)),
    "small_resnet8": Backbone(partial(small_resnet, 1), pooling=True, hidden=()),
    "small_resnet20": Backbone(partial(small_resnet, 3), pooling=True, hidden=()),
}
