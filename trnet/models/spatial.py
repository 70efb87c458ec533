"""What a head's weight makes of the pixels of the activation tensor."""

from __future__ import annotations

import numpy as np
from mxnet.gluon import nn

from trnet.layers import TRL
from trnet.models.network import Network
from trnet.models.tail import output_shape
from trnet.tensor.backend import as_numpy


def spatial_patterns(
    network: Network, image_shape: tuple[int, int, int], count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The leading patterns of pixels by which a head tells its classes apart.

    The left singular vectors of its weight, unfolded to pixels × (channels and classes). They do
    not depend on how a factorisation shares the weight out among its factors.

    Parameters
    ----------
    network : Network
        With its parameters.
    image_shape : tuple of int
        (channels, height, width).
    count : int
        Patterns wanted, at most.

    Returns
    -------
    maps : np.ndarray
        (patterns, H, W), of unit norm, and of a sum that is not negative.
    shares : np.ndarray
        (patterns,), of the weight's squared norm.

    None where the head is not a TRL, or pooling or flattening and one dense layer.
    """
    shape = output_shape(network.features, image_shape)
    channels, height, width = shape
    weight = _pixel_weight(network, shape)
    if weight is None:
        return None
    unfolded = weight.reshape(-1, channels, height * width).transpose(2, 0, 1)
    unfolded = unfolded.reshape(height * width, -1)
    squares, vectors = np.linalg.eigh(unfolded @ unfolded.T)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    found = squares > 1e-12 * squares[0]
    vectors, shares = vectors[:, found], squares[found] / squares.sum()
    signs = np.where(vectors.sum(axis=0) < 0, -1, 1)
    maps = (vectors * signs).T.reshape(-1, height, width)
    return maps[:count], shares[:count]


def _pixel_weight(network: Network, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The weight (classes, C·H·W) on the activation tensor, of a head that is linear."""
    head = network.output
    if isinstance(head, TRL):
        return as_numpy(head.to_dense_weight()).astype("float64")
    kinds = [type(block) for block in head]
    if kinds not in ([nn.GlobalAvgPool2D, nn.Dense], [nn.Flatten, nn.Dense]):
        return None
    weight = as_numpy(head[1].weight.data()).astype("float64")
    pixels = shape[1] * shape[2]
    return np.repeat(weight, pixels, axis=1) / pixels if kinds[0] is nn.GlobalAvgPool2D else weight
