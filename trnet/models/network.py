"""A backbone and a head, joined as GluonCV joins them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import signature

from mxnet.gluon import HybridBlock

from trnet.models.backbones import Backbone
from trnet.models.heads import HEADS
from trnet.models.shapes import output_shape
from trnet.models.zoo import make_backbone
from trnet.tensor.backend import mx


class Network(HybridBlock):
    """Images to class scores: ``output(features(x))``.

    Parameters
    ----------
    features : HybridBlock
        The backbone's, to the activation tensor.
    output : HybridBlock
        The head.

    Inputs
    ------
    - **data**: images (batch, channels, height, width).

    Outputs
    -------
    - **out**: class scores (batch, classes).
    """

    def __init__(self, features: HybridBlock, output: HybridBlock, **kwargs) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.output = output

    def hybrid_forward(self, F, x):
        """Scores of a batch of images."""
        return self.output(self.features(x))

    def head_inputs(self, batches: Iterable[mx.nd.NDArray]) -> Iterator[mx.nd.NDArray]:
        """Give what the head gets of batches of images, one after the other.

        MXNet would queue all batches at once, and hold the activations of all of them.
        """
        for images in batches:
            activations = self.features(images)
            activations.wait_to_read()
            yield activations


def build_network(
    backbone: str, head: dict, image_shape: tuple[int, int, int], classes: int
) -> Network:
    """Build a network from the names in its config.

    Parameters
    ----------
    backbone : str
        A key of :data:`trnet.models.BACKBONES`, or a classification network of GluonCV.
    head : dict
        ``type``, a key of :data:`trnet.models.HEADS`, and the keyword arguments of its function;
        ``lr_mult`` multiplies the learning rate of all its parameters.
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
        For an unknown network or one whose head is not understood, and as :func:`attach_head`.
    """
    return attach_head(make_backbone(backbone, image_shape, classes), head, image_shape, classes)


def attach_head(
    backbone: Backbone, head: dict, image_shape: tuple[int, int, int], classes: int
) -> Network:
    """Attach a head to a backbone.

    Parameters
    ----------
    backbone : Backbone
        As :func:`~trnet.models.remove_head` makes it from any classification network.
    head, image_shape, classes
        As in :func:`build_network`.

    Returns
    -------
    Network
        With the backbone's own ``features``, whose parameters are as they were.

    Raises
    ------
    ValueError
        For an unknown type of head, arguments that it does not take, and a rank that the activation
        tensor does not allow; the message names mode and rank.
    """
    arguments = dict(head)
    kind, lr_mult = arguments.pop("type"), arguments.pop("lr_mult", 1.0)
    if kind not in HEADS:
        raise ValueError(f"type: expected one of {', '.join(HEADS)}, got {kind!r}")
    in_shape = output_shape(backbone.features, image_shape)  # (C, H, W)
    try:
        call = signature(HEADS[kind]).bind(backbone, in_shape, classes, **arguments)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None
    output = HEADS[kind](*call.args, **call.kwargs)
    for parameter in output.collect_params().values():
        parameter.lr_mult *= lr_mult
    return Network(backbone.features, output)
