"""Top-1, Top-5 and loss on the validation images."""

from __future__ import annotations

from dataclasses import dataclass

from mxnet import gluon
from mxnet.gluon import HybridBlock

from trnet.data import DataSource
from trnet.tensor.backend import mx
from trnet.training.machines import ALONE, Workers


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
    workers: Workers = ALONE,
    dtype: str = "float32",
) -> Scores:
    """Score a network of a dtype on every validation image once, each worker on its share."""
    top1, top5 = mx.metric.Accuracy(), mx.metric.TopKAccuracy(top_k=min(5, classes))
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
    loss = 0.0
    for batch in source.validation(batch_size):
        images, labels = (split(array, contexts) for array in batch)
        scores = [class_scores(network, part, dtype) for part in images]
        for metric in (top1, top5):
            metric.update(labels, scores)
        losses = [cross_entropy(s, part) for s, part in zip(scores, labels)]
        loss += sum(part.asnumpy().sum(dtype="float64") for part in losses)
    own = [top1.sum_metric, top5.sum_metric, loss, top1.num_inst]
    *totals, n_images = workers.sum(own).tolist()
    return Scores(*(total / n_images for total in totals))


def class_scores(network: HybridBlock, images: mx.nd.NDArray, dtype: str) -> mx.nd.NDArray:
    """Class scores in float32, in which losses are taken, of a network that has another dtype."""
    return network(images.astype(dtype, copy=False)).astype("float32", copy=False)


def split(array: mx.nd.NDArray, contexts: list[mx.Context]) -> list[mx.nd.NDArray]:
    """Spread a batch over devices, one part each, even where it does not divide evenly."""
    used = contexts[: len(array)]
    return gluon.utils.split_and_load(array, used, even_split=False)
