"""Fitting a low-rank weight where it matters: to what a layer makes of the inputs that it sees.

Outputs differ by (W − Ŵ) x, so the error of a weight counts as much as the inputs vary in its
direction. In the metric of their second moments, each mode's by itself, the best weight is found by
any decomposition: W ×k Σk^½ is decomposed, and the factors are multiplied by Σk^−½. What that
leaves out, since modes vary together, is made good by least squares: the last map is fitted again
to the latent features of the inputs, and the bias takes up the mean. For one mode this is reduced-
rank regression; Izenman, *Reduced-rank regression for the multivariate linear model* (1975).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from trnet.tensor.factorizations.base import Arrays, Factorization
from trnet.tensor.scaling import mapped

_FLOOR = 1e-6  # of second moments, of the largest: directions in which inputs hardly vary
_RIDGE = 1e-6  # the same for latent features
_SHIFT = 1e-3  # weight of a shift of all class scores, of the mean weight
_TINY = np.finfo("float64").tiny


@dataclass(frozen=True)
class Fit:
    """How close a layer is to the dense layer that it was decomposed from.

    Attributes
    ----------
    weight_error : float
        ‖W − Ŵ‖ / ‖W‖.
    output_error : float
        Root mean square of the outputs' difference, of that of the outputs about their mean.
    """

    weight_error: float
    output_error: float

    @property
    def known(self) -> dict[str, float]:
        """What was measured, by name: the outputs only where there were data."""
        return {name: value for name, value in vars(self).items() if not np.isnan(value)}


def relative_error(ours: np.ndarray, weight: np.ndarray) -> float:
    """‖W − Ŵ‖ / ‖W‖."""
    norm = np.linalg.norm(weight)
    return float(np.linalg.norm(ours - weight) / norm) if norm else float(np.any(ours))


def fit(
    form: Factorization,
    weight: np.ndarray,
    bias: np.ndarray,
    batches: Callable[[], Iterable[np.ndarray]],
    centred: bool,
    weigh_classes: bool,
) -> tuple[Arrays, np.ndarray, float]:
    """Fit a form to the outputs that a dense weight gives for samples.

    Parameters
    ----------
    form : Factorization
    weight : array
        W (I1, …, IN, O), without the form's pooled modes.
    bias : array
        (O,).
    batches : callable
        Gives all samples at each call, as batches (batch, I1, …, IN).
    centred : bool
        Whether a bias takes up the mean of what is left.
    weigh_classes : bool
        Whether the outputs are compared in the metric of the softmax's Fisher matrix.

    Returns
    -------
    parameters : dict of str to array
    change : array
        (O,), of the bias.
    output_error : float
        As in :class:`Fit`.
    """
    pooled = form.pooled_modes
    kept = [mode for mode in range(1, len(form.shape)) if mode not in pooled]
    matrix = weight.reshape(-1, weight.shape[-1]).astype("float64")

    def unpooled(batch: np.ndarray) -> np.ndarray:
        return batch.mean(axis=pooled) if pooled else batch

    def outputs(batch: np.ndarray) -> np.ndarray:
        return unpooled(batch).reshape(len(batch), -1) @ matrix

    moments = mode_moments((unpooled(batch) for batch in batches()), centred)
    modes, metric = dict(zip(kept, moments)), None
    if weigh_classes:
        metric = fisher(outputs(batch) + bias for batch in batches())
        modes[len(form.shape)] = metric
    parameters = decompose(form, weight.astype("float64"), modes)
    pairs = ((batch, outputs(batch)) for batch in batches())
    return refit(form, parameters, pairs, centred, metric)


def whitened(weight: np.ndarray, batches: Iterable[np.ndarray], centred: bool) -> np.ndarray:
    """A weight in the metric of its inputs, W ×1 Σ1^½ … ×N ΣN^½: (I1, …, IN, O)."""
    halves = [_square_roots(moments)[0] for moments in mode_moments(batches, centred)]
    return mapped(weight.astype("float64"), enumerate(halves))


def mode_moments(batches: Iterable[np.ndarray], centred: bool) -> list[np.ndarray]:
    """Second moments (Ik, Ik) of every mode's fibres, about the samples' mean or about zero."""
    count, total, sums = 0, 0.0, None
    for batch in batches:
        batch = batch.astype("float64")
        products = [_gram(batch, mode) for mode in range(1, batch.ndim)]
        sums = products if sums is None else [a + b for a, b in zip(sums, products)]
        count, total = count + len(batch), total + batch.sum(axis=0)
    if count == 0:
        raise ValueError("data: expected at least one batch, got none")
    mean = total / count * centred
    moments = [sums / count - _gram(mean, mode) for mode, sums in enumerate(sums)]
    return [moment / (mean.size // len(moment)) for moment in moments]


def _gram(tensor: np.ndarray, mode: int) -> np.ndarray:
    """A mode's unfolding times its transpose."""
    fibres = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
    return fibres @ fibres.T


def _square_roots(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ^½ and Σ^−½ of second moments (I, I)."""
    values, vectors = np.linalg.eigh(moments)
    values = np.sqrt(np.maximum(values, max(_FLOOR * values[-1], _TINY)))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def decompose(form: Factorization, weight: np.ndarray, modes: dict[int, np.ndarray]) -> Arrays:
    """Decompose a weight in the metric of second moments, by mode, in the order of its modes."""
    halves, inverses = zip(*map(_square_roots, modes.values()))
    parameters = dict(form.decompose(mapped(weight, enumerate(halves))))
    for mode, inverse in zip(modes, inverses):
        name, axis = form.mode_parameter(mode)
        parameters[name] = mapped(parameters[name], [(axis, inverse)])
    return parameters


def refit(
    form: Factorization,
    parameters: Arrays,
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    centred: bool,
    metric: np.ndarray | None,
) -> tuple[Arrays, np.ndarray, float]:
    """Fit a form's last map, from latent features z to outputs y, by least squares.

    The map is changed by what it takes to meet the residuals r, so that an exact one stays.
    """
    last = form.output_map(parameters)  # (O, L)
    count, sums = 0, dict.fromkeys(("z", "r", "y", "zz", "rz", "rr", "yy"), 0.0)
    for x, y in pairs:
        z = form.latent(parameters, x.astype("float64"))
        r = y - z @ last.T
        count += len(x)
        for name, value in {
            "z": z.sum(axis=0),
            "r": r.sum(axis=0),
            "y": y.sum(axis=0),
            "zz": z.T @ z,
            "rz": r.T @ z,
            "rr": np.sum(r**2),
            "yy": np.sum(y**2),
        }.items():
            sums[name] = sums[name] + value
    means = {name: value / count for name, value in sums.items()}
    z, r = means["z"] * centred, means["r"] * centred
    zz, rz = means["zz"] - np.outer(z, z), means["rz"] - np.outer(r, z)
    ridge = _RIDGE * max(np.trace(zz) / len(zz), _TINY)
    change = np.linalg.solve(zz + ridge * np.eye(len(zz)), rz.T).T  # (O, L)
    parameters = form.corrected(parameters, change, metric)
    change = form.output_map(parameters) - last
    left = means["rr"] - r @ r - 2 * np.sum(change * rz) + np.sum((change @ zz) * change)
    spread = means["yy"] - means["y"] @ means["y"]
    error = np.sqrt(max(left, 0.0) / max(spread, _TINY))
    return parameters, r - change @ z, float(error)


def fisher(scores: Iterable[np.ndarray]) -> np.ndarray:
    """The softmax's Fisher matrix E[diag p − ppᵀ], (O, O), of class scores (batch, O)."""
    count, total = 0, 0.0
    for batch in scores:
        p = np.exp(batch - batch.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        count, total = count + len(p), total + np.diag(p.sum(axis=0)) - p.T @ p
    # It does not see what is added to all scores alike; nothing is to grow without bound there.
    return total / count + np.eye(len(total)) * _SHIFT * np.trace(total) / count / len(total)
