"""Top-1, Top-5 and loss on the validation images."""

from __future__ import annotations

from dataclasses import dataclass

from mxnet import gluon
from mxnet.gluon import HybridBlock

from trnet.data import DataSource
from trnet.tensor.backend import mx
from trnet.training.devices import Compute


@dataclass(frozen=True)
class Scores:
    """How well a network classifies a data set.

    Attributes
    ----------
    top1, top5 : float
        Fraction of images whose class is the network's first guess, or among its first five.
    loss : float
        Mean cross entropy, in nats.
    """

    top1: float
    top5: float
    loss: float


def evaluate(
    network: HybridBlock, source: DataSource, classes: int, batch_size: int, compute: Compute
) -> Scores:
    """Score a network on every validation image once, each worker on its share of them."""
    top1, top5 = mx.metric.Accuracy(), mx.metric.TopKAccuracy(top_k=min(5, classes))
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
    loss = 0.0
    for batch in source.validation(batch_size):
        images, labels = (compute.split(array) for array in batch)
        scores = [class_scores(network, part, compute.dtype) for part in images]
        for metric in (top1, top5):
            metric.update(labels, scores)
        losses = [cross_entropy(part, targets) for part, targets in zip(scores, labels)]
        loss += sum(part.asnumpy().sum(dtype="float64") for part in losses)
    own = [top1.sum_metric, top5.sum_metric, loss, top1.num_inst]
    *totals, n_images = compute.workers.sum(own).tolist()
    return Scores(*(total / n_images for total in totals))


def class_scores(network: HybridBlock, images: mx.nd.NDArray, dtype: str) -> mx.nd.NDArray:
    """Class scores of a network that computes in ``dtype``, in float32 for the loss."""
    return network(images.astype(dtype, copy=False)).astype("float32", copy=False)
