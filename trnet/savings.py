"""Space savings: how much smaller a head is than the one that it replaces. Imports no MXNet."""

from __future__ import annotations

import math


def space_savings(weights: int, baseline_weights: int) -> float:
    """Compute 1 − n_new / n_original, the measure of the papers and of the talk's tables.

    Kossaifi et al., Tensor Contraction Layers for Parsimonious Deep Nets (arXiv 1706.00439) and
    Tensor Regression Networks (arXiv 1707.08308).

    Parameters
    ----------
    weights : int
        n_new: weights in the new head, which is all of the network after its activation tensor.
        Biases and normalisation do not count.
    baseline_weights : int
        n_original: weights in the head that it replaces.

    Returns
    -------
    float
        As a fraction, at most 1; negative for a head that is larger.
    """
    return 1 - weights / baseline_weights


def most_weights(savings: float, baseline_weights: int) -> int:
    """The largest number of weights that saves a share of the baseline's."""
    return math.floor((1 - savings) * baseline_weights + 1e-6)  # 0.1 · 10 is a little less than 1
