"""A trunk and a head, joined as GluonCV joins them."""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from trnet.layers.block import TensorBlock
from trnet.models.backbones import Backbone, make_backbone
from trnet.models.heads import HEADS
from trnet.models.tail import output_shape


class Network(HybridBlock):
    """Images to class scores: ``output(features(x))``.

    Parameters
    ----------
    features : HybridBlock
        The trunk, to the activation tensor.
    output : HybridBlock
        The head.

    Inputs:
        - **data**: images (batch, channels, height, width).

    Outputs:
        - **out**: class scores (batch, classes).
    """

    def __init__(self, features: HybridBlock, output: HybridBlock, **kwargs) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.output = output

    def hybrid_forward(self, F, x):
        """Scores of a batch of images."""
        return self.output(self.features(x))


def build_network(
    backbone: str, head: dict, image_shape: tuple[int, int, int], classes: int
) -> Network:
    """Build a network from the names in its config.

    Parameters
    ----------
    backbone : str
        A key of :data:`trnet.models.backbones.BACKBONES`, or a classification network of GluonCV.
    head : dict
        ``type``, a key of :data:`trnet.models.heads.HEADS`, and that head's arguments.
    image_shape : tuple of int
        (channels, height, width).
    classes : int

    Returns
    -------
    Network
        Not initialised, every parameter's shape deferred or known.

    Raises
    ------
    ValueError
        For an unknown network or one whose head is not understood, and where the head does not
        fit the activation tensor; the message names mode and rank.
    """
    return exchange_head(make_backbone(backbone, image_shape, classes), head, image_shape, classes)


def exchange_head(
    backbone: Backbone, head: dict, image_shape: tuple[int, int, int], classes: int
) -> Network:
    """Give a network whose head was taken off another.

    Parameters
    ----------
    backbone : Backbone
        As :func:`~trnet.models.backbones.exchangeable` makes it of any classification network.
    head, image_shape, classes
        As in :func:`build_network`.

    Returns
    -------
    Network
        With the backbone's own trunk, whose parameters are as they were.
    """
    arguments = dict(head)
    make_head = HEADS[arguments.pop("type")]
    in_shape = output_shape(backbone.trunk, image_shape)
    return Network(backbone.trunk, make_head(backbone, in_shape, classes, **arguments))


def fold(block: HybridBlock) -> HybridBlock:
    """A trained network for inference, with its tensor layers folded and all else shared.

    Parameters
    ----------
    block : HybridBlock
        A network of ours, or a tensor layer, also within ``HybridSequential``; in any other block
        the layers stay as they are.

    Returns
    -------
    HybridBlock
        To be hybridized and exported.

    Raises
    ------
    ValueError
        For a layer whose input's shape is not known yet.
    """
    if isinstance(block, TensorBlock):
        return block.folded()
    if isinstance(block, Network):
        return Network(fold(block.features), fold(block.output), prefix=block.prefix)
    if type(block) is nn.HybridSequential:
        folded = nn.HybridSequential(prefix=block.prefix)
        folded.add(*(fold(child) for child in block))
        return folded
    return block
