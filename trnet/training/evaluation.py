"""Top-1, Top-5 and loss on the validation images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mxnet import gluon
from mxnet.gluon import HybridBlock

from trnet.data import DataSource
from trnet.tensor.backend import mx


@dataclass(frozen=True)
class Scores:
    """How a network does on a data set.

    Attributes
    ----------
    top1, top5 : float
        Share of images whose class is the network's first guess, or among its first five.
    loss : float
        Mean cross entropy, in nats.
    """

    top1: float
    top5: float
    loss: float


def evaluate(
    network: HybridBlock,
    source: DataSource,
    classes: int,
    batch_size: int,
    contexts: list[mx.Context],
) -> Scores:
    """Score a network on every validation image exactly once."""
    top1, top5 = mx.metric.Accuracy(), mx.metric.TopKAccuracy(top_k=min(5, classes))
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
    losses: list[np.ndarray] = []
    for batch in source.validation(batch_size):
        images, labels = (split(array, contexts) for array in batch)
        scores = [network(part) for part in images]
        for metric in (top1, top5):
            metric.update(labels, scores)
        losses += [cross_entropy(s, part).asnumpy() for s, part in zip(scores, labels)]
    return Scores(top1.get()[1], top5.get()[1], float(np.mean(np.concatenate(losses))))


def split(array: mx.nd.NDArray, contexts: list[mx.Context]) -> list[mx.nd.NDArray]:
    """Spread a batch over devices, one part each, even where it does not divide evenly."""
    used = contexts[: len(array)]
    return gluon.utils.split_and_load(array, used, even_split=False)
