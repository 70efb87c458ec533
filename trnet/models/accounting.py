"""What a head costs: its parameters, counted by walking the network, and the space it saves."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from mxnet.gluon import HybridBlock

from trnet.models.network import Network
from trnet.tensor.backend import mx

_BIASES = ("bias",)
_NORMALISATION = ("gamma", "beta", "running_mean", "running_var")


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a block by kind.

    Attributes
    ----------
    weights : int
        Matrices, cores and factors: what the published space savings count.
    biases : int
    normalisation : int
        Scales, offsets and running statistics of batch normalisation.
    """

    weights: int
    biases: int
    normalisation: int


def parameter_shapes(block: HybridBlock, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by name, by shape inference: nothing is allocated.

    Parameters
    ----------
    block : HybridBlock
        Initialised or not.
    in_shape : tuple of int
        Its input's shape without the batch.
    """
    out = block(mx.sym.var("data", shape=(1, *in_shape)))
    arguments, _, states = out.infer_shape()
    names = [*out.list_arguments(), *out.list_auxiliary_states()]
    return {name: s for name, s in zip(names, [*arguments, *states]) if name != "data"}


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> ParameterCount:
    """Count the parameters of given shapes, told apart by the endings of Gluon's names."""
    biases = sum(prod(s) for name, s in shapes.items() if name.endswith(_BIASES))
    normalisation = sum(prod(s) for name, s in shapes.items() if name.endswith(_NORMALISATION))
    total = sum(prod(s) for s in shapes.values())
    return ParameterCount(total - biases - normalisation, biases, normalisation)


def count_head(network: Network, image_shape: tuple[int, int, int]) -> ParameterCount:
    """Count the parameters of a network's head: all that stands behind the activation tensor."""
    head = network.output.collect_params()
    shapes = parameter_shapes(network, image_shape)
    return count_parameters({name: s for name, s in shapes.items() if name in head})


def space_savings(weights: int, baseline_weights: int) -> float:
    """1 − n_new / n_original, of the weights in the fully-connected part of a network."""
    return 1 - weights / baseline_weights
