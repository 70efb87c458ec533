"""Backbones by name: those registered in :data:`~trnet.models.BACKBONES`, and GluonCV's."""

from __future__ import annotations

import difflib

from trnet.models.backbones import BACKBONES, Backbone
from trnet.models.head_removal import remove_head
from trnet.models.shapes import output_shape

# GluonCV's table also has networks that detect, segment and the like, in other modules.
# fmt: off
_MODULES = (
    "alexnet", "cifarresnet", "cifarresnext", "cifarwideresnet", "densenet", "dla", "googlenet",
    "hrnet", "inception", "mobilenet", "mobilenetv3", "nasnet", "pruned_resnet.resnetv1b_pruned",
    "residual_attentionnet", "resnest", "resnet", "resnetv1b", "resnext", "senet", "shufflenet",
    "squeezenet", "vgg", "xception", "yolo.darknet",
)
# fmt: on


def make_backbone(name: str, image_shape: tuple[int, int, int], classes: int) -> Backbone:
    """Make a backbone by its name.

    Parameters
    ----------
    name : str
        A key of :data:`~trnet.models.BACKBONES`, or a classification network of GluonCV, whose
        head is removed.
    image_shape : tuple of int
        (channels, height, width).
    classes : int
        Class scores of the network's own head.

    Raises
    ------
    ValueError
        For an unknown name, images that are too small, or a head that is not understood.
    """
    if name in BACKBONES:
        backbone = BACKBONES[name]()
        output_shape(backbone.features, image_shape)  # refuses images that are too small
        return backbone
    known = zoo_names()
    if name not in known:
        close = difflib.get_close_matches(name, [*BACKBONES, *known], n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"expected {', '.join(BACKBONES)}, or one of GluonCV's classification networks, such "
            f"as resnet101_v1, got {name!r}{hint}"
        )
    from gluoncv.model_zoo import get_model

    try:
        return remove_head(get_model(name, pretrained=False, classes=classes), image_shape)
    except ValueError as error:
        raise ValueError(f"got {name!r}, whose head cannot be removed: {error}") from None


def zoo_names() -> list[str]:
    """Names of GluonCV's classification networks."""
    from gluoncv.model_zoo.model_zoo import _models

    return sorted(
        name
        for name, make in _models.items()
        if make.__module__.partition("model_zoo.")[2] in _MODULES
        and not name.endswith("_s")  # HRNets that segment
    )
