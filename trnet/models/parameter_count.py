"""Parameters of a head by kind, counted by walking the network."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from trnet.models.network import Network
from trnet.models.shapes import parameter_shapes

# Endings of the names that Gluon gives to parameters.
_BIASES = ("bias",)
_LARGEST = 2**31 - 2  # elements of an array, as MXNet's wheel is built
_NORMALISATION = ("gamma", "beta", "running_mean", "running_var", "_length")


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a block by kind.

    Attributes
    ----------
    weights : int
        Matrices, cores and factors: what the published space savings count.
    biases : int
    normalisation : int
        Scales, offsets and running statistics of batch normalisation, and the lengths of normalised
        factors.
    """

    weights: int
    biases: int
    normalisation: int


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> ParameterCount:
    """Count the parameters of the given shapes; the ending of a name gives the kind."""
    biases = sum(prod(s) for name, s in shapes.items() if name.endswith(_BIASES))
    normalisation = sum(prod(s) for name, s in shapes.items() if name.endswith(_NORMALISATION))
    total = sum(prod(s) for s in shapes.values())
    return ParameterCount(total - biases - normalisation, biases, normalisation)


def count_head(network: Network, image_shape: tuple[int, int, int]) -> ParameterCount:
    """Count the parameters of a network's head: everything after the activation tensor."""
    head = network.output.collect_params()
    shapes = parameter_shapes(network, image_shape)
    return count_parameters({name: s for name, s in shapes.items() if name in head})


def check_sizes(network: Network, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network that MXNet cannot hold.

    Raises
    ------
    ValueError
        With the parameter that has too many elements.
    """
    for name, shape in parameter_shapes(network, image_shape).items():
        if prod(shape) > _LARGEST:
            raise ValueError(f"{name}: expected at most {_LARGEST} elements, got {shape}")
