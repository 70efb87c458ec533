"""Patterns of pixels in the weight of a head on the activation tensor."""

from __future__ import annotations

import numpy as np
from mxnet.gluon import nn

from trnet.layers import TRL
from trnet.models.network import Network
from trnet.models.shapes import output_shape
from trnet.tensor.backend import as_numpy


def spatial_patterns(
    network: Network, image_shape: tuple[int, int, int], count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the leading patterns of pixels by which a head distinguishes its classes.

    They are the left singular vectors of its weight, unfolded to pixels × (classes and channels).
    They do not depend on how a factorisation distributes the weight's scale over its factors.

    Parameters
    ----------
    network : Network
        With its parameters.
    image_shape : tuple of int
        (channels, height, width).
    count : int
        Patterns to return, at most.

    Returns
    -------
    maps : np.ndarray
        (patterns, H, W), each of unit norm, with a sum that is not negative.
    shares : np.ndarray
        (patterns,), their shares of the weight's squared norm.

    None unless the head is a TRL, or pooling or flattening and one dense layer.
    """
    shape = output_shape(network.features, image_shape)
    channels, height, width = shape
    weight = _pixel_weight(network, shape)
    if weight is None:
        return None
    unfolded = weight.reshape(-1, channels, height * width).transpose(2, 0, 1)  # (H·W, O, C)
    unfolded = unfolded.reshape(height * width, -1)  # -> (H·W, O·C)
    squares, vectors = np.linalg.eigh(unfolded @ unfolded.T)  # squared singular values, ascending
    squares, vectors = squares[::-1], vectors[:, ::-1]
    found = squares > 1e-12 * squares[0]  # below that, rounding in float64
    vectors, shares = vectors[:, found], squares[found] / squares.sum()
    signs = np.where(vectors.sum(axis=0) < 0, -1, 1)
    maps = (vectors * signs).T.reshape(-1, height, width)  # (H·W, patterns) -> (patterns, H, W)
    return maps[:count], shares[:count]


def _pixel_weight(network: Network, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The weight (O, C·H·W) on the activation tensor, of a head that is linear."""
    head = network.output
    if isinstance(head, TRL):
        return as_numpy(head.to_dense_weight()).astype("float64")
    kinds = [type(block) for block in head] if isinstance(head, nn.HybridSequential) else []
    if kinds not in ([nn.GlobalAvgPool2D, nn.Dense], [nn.Flatten, nn.Dense]):
        return None
    weight = as_numpy(head[1].weight.data()).astype("float64")
    if kinds[0] is nn.Flatten:
        return weight
    pixels = shape[1] * shape[2]
    return np.repeat(weight, pixels, axis=1) / pixels  # (O, C) -> (O, C·H·W), as averaging does
