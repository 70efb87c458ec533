"""The training loop: forward, backward, update, and an evaluation behind every epoch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import HybridBlock

from trnet.config import Train
from trnet.data import Batch, DataSource
from trnet.errors import UserError
from trnet.files import write_aside
from trnet.tensor.backend import mx
from trnet.training import checkpoint
from trnet.training.evaluation import evaluate, split
from trnet.training.progress import Progress
from trnet.training.schedule import learning_rate

_NOT_DECAYED = ("bias", "gamma", "beta")


def initialize(network: HybridBlock, image_shape, seed: int, contexts: list[mx.Context]) -> None:
    """Draw a network's initial parameters, as the seed decides."""
    mx.random.seed(seed)
    network.infer_shape(mx.nd.zeros((1, *image_shape)))
    network.initialize(mx.init.MSRAPrelu(slope=0), ctx=contexts)


def make_trainer(network: HybridBlock, recipe: Train) -> gluon.Trainer:
    """SGD with momentum; weight decay on weights, cores and factors only."""
    parameters = network.collect_params()
    for name, parameter in parameters.items():
        if name.endswith(_NOT_DECAYED):
            parameter.wd_mult = 0.0
    settings = {
        "learning_rate": recipe.learning_rate,
        "momentum": recipe.momentum,
        "wd": recipe.weight_decay,
    }
    return gluon.Trainer(parameters, "sgd", settings)


def make_loss(label_smoothing: float, classes: int) -> Callable:
    """Cross entropy of scores and labels, against smoothed labels where that is asked for."""
    if label_smoothing == 0:
        return gluon.loss.SoftmaxCrossEntropyLoss()
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)
    off = label_smoothing / classes

    def smoothed(scores, labels):
        targets = mx.nd.one_hot(labels, classes, on_value=1 - label_smoothing + off, off_value=off)
        return cross_entropy(scores, targets)

    return smoothed


def train(
    network: HybridBlock,
    source: DataSource,
    classes: int,
    recipe: Train,
    seed: int,
    contexts: list[mx.Context],
    folder: Path,
    progress: Progress,
) -> list[dict]:
    """Train an initialised network, from the folder's last checkpoint where it has one.

    A run that was stopped at any moment and started again ends bit for bit as one that was not:
    every epoch's order, augmentation and dropout follow from the seed and the epoch.

    Parameters
    ----------
    network : HybridBlock
    source : DataSource
    classes : int
    recipe : Train
    seed : int
    contexts : list of Context
        Devices; a batch is spread over them.
    folder : Path
        The run folder: gets ``metrics.jsonl`` and ``checkpoints/``.
    progress : Progress

    Returns
    -------
    list of dict
        Metrics of every epoch, as in ``metrics.jsonl``.

    Raises
    ------
    UserError
        Where the loss is no longer finite.
    """
    trainer = make_trainer(network, recipe)
    loss = make_loss(recipe.label_smoothing, classes)
    steps = source.train_batches(recipe.batch_size)
    rate = learning_rate(recipe, steps)
    metrics: list[dict] = []
    last = checkpoint.latest(folder / "checkpoints")
    if last is not None:
        metrics = checkpoint.load_metrics(last)
        checkpoint.load_network(last, network, contexts)
        checkpoint.load_trainer(last, trainer)
        _write_metrics(folder, metrics)
    network.hybridize(static_alloc=True, static_shape=True)
    progress.resume(len(metrics))
    for epoch in range(len(metrics) + 1, recipe.epochs + 1):
        begin = time.perf_counter()
        epoch_seed = (seed, epoch)
        mx.random.seed(int(np.random.SeedSequence(epoch_seed).generate_state(1)[0]))
        batches = enumerate(source.train(recipe.batch_size, epoch_seed), (epoch - 1) * steps)
        step = partial(train_step, network, trainer, loss, rate, contexts)
        n_images, total_loss = 0, 0.0
        for batch_size, batch_loss in _one_behind(step(*batch) for batch in batches):
            n_images += batch_size
            total_loss += float(batch_loss.asscalar())
            progress.advance(batch_size)
        seconds = time.perf_counter() - begin
        if not math.isfinite(total_loss):
            raise UserError(
                f"{folder}: the loss is no longer finite in epoch {epoch}; a lower "
                f"train.learning_rate than {recipe.learning_rate:g} would fit"
            )
        row = {
            "epoch": epoch,
            "learning_rate": trainer.learning_rate,
            "train_loss": total_loss / n_images,
            **asdict(evaluate(network, source, classes, recipe.batch_size, contexts)),
            "images_per_second": n_images / seconds,
            "seconds": time.perf_counter() - begin,
        }
        metrics.append(row)
        checkpoint.save(folder / "checkpoints", network, trainer, metrics)
        _write_metrics(folder, metrics)
        progress.epoch(row)
    return metrics


def train_step(
    network: HybridBlock,
    trainer: gluon.Trainer,
    loss: Callable,
    rate: Callable[[int], float],
    contexts: list[mx.Context],
    step: int,
    batch: Batch,
) -> tuple[int, mx.nd.NDArray]:
    """One step of SGD; gives the batch's size and its summed loss, which is not waited for."""
    images, labels = (split(array, contexts) for array in batch)
    with autograd.record():
        losses = [loss(network(part), target).sum() for part, target in zip(images, labels)]
    autograd.backward(losses)
    trainer.set_learning_rate(rate(step))
    trainer.step(len(batch[0]))
    return len(batch[0]), sum(part.as_in_context(contexts[0]) for part in losses)


def _write_metrics(folder: Path, metrics: list[dict]) -> None:
    write_aside(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))


def _one_behind(items: Iterable) -> Iterator:
    """The same items, each once the next is under way: MXNet computes while Python goes on."""
    iterator = iter(items)
    previous = next(iterator)
    for item in iterator:
        yield previous
        previous = item
    yield previous
