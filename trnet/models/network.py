"""A trunk and a head, joined as GluonCV joins them."""

from __future__ import annotations

from mxnet.gluon import HybridBlock

from trnet.models.backbones import BACKBONES
from trnet.models.heads import HEADS
from trnet.tensor.backend import mx


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
        A key of :data:`trnet.models.backbones.BACKBONES`.
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
        Where the head does not fit the activation tensor; the message names mode and rank.
    """
    arguments = dict(head)
    make_head = HEADS[arguments.pop("type")]
    trunk = BACKBONES[backbone]
    features = trunk.trunk()
    in_shape = output_shape(features, image_shape)
    return Network(features, make_head(trunk, in_shape, classes, **arguments))


def output_shape(block: HybridBlock, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a sample behind a block, by shape inference: nothing is allocated or computed."""
    out = block(mx.sym.var("data", shape=(1, *in_shape)))
    return out.infer_shape()[1][0][1:]
