"""What the layer benchmarks measure: the published shapes, and what each layer replaces."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Optional, Union

import trnet  # noqa: F401  before MXNet is imported, which gets its OpenBLAS then

Rank = Union[int, tuple]


@dataclass(frozen=True)
class Case:
    """A layer at a published shape.

    Attributes
    ----------
    name : str
    layer : {"TRL", "TCL"}
    in_shape : tuple of int
        The activation tensor's, without the batch.
    rank : tuple of int, or int for CP
    units : int or None
        Outputs of the TRL, or of the dense layer after the TCL; None for a TCL alone.
    replaced : int or None
        Outputs of the dense layer that the case stands in the place of, or None.
    factorization : str
    """

    name: str
    layer: str
    in_shape: tuple
    rank: Rank
    units: Optional[int] = None
    replaced: Optional[int] = None
    factorization: str = "tucker"

    @property
    def out_shape(self) -> tuple:
        """Shape of a sample after the layer."""
        return (self.units,) if self.units else tuple(self.rank)

    @property
    def traffic(self) -> int:
        """Bytes of a sample that have to be read and written, in float32."""
        return 4 * (prod(self.in_shape) + prod(self.out_shape))


RESNET, VGG, ALEXNET = (2048, 7, 7), (512, 7, 7), (256, 6, 6)
CLASSES = 1000


def resnet_trl(r: int) -> Case:
    """A TRL (r, 1, 1, r) in place of ResNet-101's pooling and dense layer."""
    return Case(f"TRL {r}", "TRL", RESNET, (r, 1, 1, r), CLASSES, CLASSES)


CASES = [
    *map(resnet_trl, (50, 100, 150, 200)),
    # As many parameters as Tucker's at rank 200, 649 614, by TensorLy's choice of ranks.
    Case("TRL 200, CP", "TRL", RESNET, 212, CLASSES, CLASSES, "cp"),
    Case("TRL 200, tensor train", "TRL", RESNET, (254, 2, 125), CLASSES, CLASSES, "tensor_train"),
    Case("TCL VGG", "TCL", VGG, (384, 5, 5)),
    Case("TCL VGG, dense", "TCL", VGG, (384, 5, 5), 3072, 4096),
    Case("TCL AlexNet", "TCL", ALEXNET, (185, 5, 5)),
    Case("TCL AlexNet, dense", "TCL", ALEXNET, (185, 5, 5), 2960, 4096),
]
GROWTH = [*map(resnet_trl, (6, 12, 25, 400, 800))]  # further ranks, to see how time grows
BATCHES = (1, 8, 32, 128)
COPIED = 2**24  # elements of an array that is copied to overwrite the caches
MODES = ("forward", "forward and backward")
# In a network: after a backbone that has just written the input, with caches overwritten before.
# Alone: over and over, on one input, as somebody tries a layer in a notebook.
PLACES = ("in a network", "alone")
