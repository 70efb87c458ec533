"""The training loop: forward, backward, update, and an evaluation behind every epoch."""

from __future__ import annotations

import json
import math
import os
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
from trnet.errors import Diverged, UserError
from trnet.files import write_aside
from trnet.tensor.backend import mx
from trnet.training import checkpoint
from trnet.training.evaluation import class_scores, evaluate, split
from trnet.training.machines import ALONE, Workers
from trnet.training.progress import Progress
from trnet.training.schedule import learning_rate

_NOT_DECAYED = ("bias", "gamma", "beta")
# MXNet updates several parameters in one call, for each element of the largest asking each of them:
# that halves the time of small ones, and doubles that of a large dense layer.
_UPDATED_AT_ONCE, _LARGE = 16, 2**16
# Steps, and bytes of images, that Python may be ahead of what is computed. To wait for every step
# costs a small network a fifth of its time.
_STEPS_AHEAD, _BYTES_AHEAD = 16, 2**22


def initialize(
    network: HybridBlock,
    image_shape: tuple[int, int, int],
    seed: int,
    contexts: list[mx.Context],
    dtype: str = "float32",
) -> None:
    """Draw a network's initial parameters, as the seed decides, and have it compute in a dtype."""
    mx.random.seed(seed)
    network.infer_shape(mx.nd.zeros((1, *image_shape)))
    network.initialize(mx.init.MSRAPrelu(slope=0), ctx=contexts)
    if dtype != "float32":
        network.cast(dtype)


def make_trainer(network: HybridBlock, recipe: Train, workers: Workers = ALONE) -> gluon.Trainer:
    """SGD with momentum, of gradients that are summed over devices and workers.

    Weight decay is on weights, cores and factors only.
    """
    parameters = network.collect_params()
    for name, parameter in parameters.items():
        if name.endswith(_NOT_DECAYED):
            parameter.wd_mult = 0.0
    optimizer = mx.optimizer.SGD(
        learning_rate=recipe.learning_rate,
        momentum=recipe.momentum,
        wd=recipe.weight_decay,
        multi_precision=recipe.dtype == "float16",  # float32 copies of the weights
    )
    sizes = [math.prod(p.shape) for p in parameters.values() if p.grad_req != "null"]
    optimizer.aggregate_num = 1 if max(sizes) > _LARGE else _UPDATED_AT_ONCE
    # Updates in the worker: servers would keep the first learning rate, and the momentum.
    trainer = gluon.Trainer(parameters, optimizer, kvstore=workers.kvstore, update_on_kvstore=False)
    # This makes workers start from the same parameters, now. By itself the trainer does so in its
    # first step, where MXNet lets the first gradients overtake the parameters that others wait for.
    trainer.save_states(os.devnull)
    return trainer


def make_loss(label_smoothing: float, classes: int) -> Callable:
    """Cross entropy of scores and labels, against smoothed labels where that is asked for."""
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=label_smoothing == 0)
    cross_entropy.hybridize(static_alloc=True, static_shape=True)
    if label_smoothing == 0:
        return cross_entropy
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
    workers: Workers = ALONE,
) -> list[dict]:
    """Train an initialised network, from the folder's last checkpoint where it has one.

    A run that was stopped at any moment and started again ends bit for bit as one that was not:
    every epoch's order, augmentation and dropout follow from the seed and the epoch. Several
    workers or devices, each with its part of every batch, train the network that one would, to
    rounding, but for what each has of its own: batch normalisation's statistics and dropout.

    Parameters
    ----------
    network : HybridBlock
    source : DataSource
        The worker's.
    classes : int
    recipe : Train
    seed : int
    contexts : list of Context
        Devices; the worker's part of a batch is spread over them.
    folder : Path
        The run folder: gets ``metrics.jsonl`` and ``checkpoints/``, from one of the workers.
    progress : Progress
    workers : Workers

    Returns
    -------
    list of dict
        Metrics of every epoch, as in ``metrics.jsonl``.

    Raises
    ------
    Diverged
        Where the loss is no longer finite.
    UserError
        Where a batch is too small for its workers and devices, or
        workers find different checkpoints.
    """
    batch_size = min(recipe.batch_size, source.train_size)
    if batch_size // workers.count < len(contexts):
        raise UserError(
            f"train.batch_size: got {batch_size} images; at least {workers.count * len(contexts)} "
            "would fit, one for each device of each worker"
        )
    trainer = make_trainer(network, recipe, workers)
    loss = make_loss(recipe.label_smoothing, classes)
    steps = source.train_batches(recipe.batch_size)
    rate = learning_rate(recipe, steps)
    metrics: list[dict] = []
    last = checkpoint.latest(folder / "checkpoints")
    if last is not None:
        metrics = checkpoint.load_metrics(last)
        checkpoint.load_network(last, network, contexts)
        checkpoint.load_trainer(last, trainer)
    workers.agree("the epoch of the last checkpoint", len(metrics))
    if metrics and workers.writes:
        _write_metrics(folder, metrics)
    network.hybridize(static_alloc=True, static_shape=True)
    progress.resume(len(metrics))
    for epoch in range(len(metrics) + 1, recipe.epochs + 1):
        begin = time.perf_counter()
        # The first worker's is the only one's: a SeedSequence fills up with zeros.
        dropout_seed = np.random.SeedSequence((seed, epoch, workers.index))
        mx.random.seed(int(dropout_seed.generate_state(1)[0]))
        batches = enumerate(source.train(recipe.batch_size, (seed, epoch)), (epoch - 1) * steps)
        step = partial(train_step, network, trainer, loss, rate, contexts, batch_size, recipe.dtype)
        n_images, total_loss = train_epoch(step, batches, lambda: progress.advance(batch_size))
        n_images, total_loss = workers.sum([n_images, total_loss]).tolist()
        seconds = time.perf_counter() - begin
        _share_statistics(network, workers)
        row = {
            "epoch": epoch,
            "learning_rate": trainer.learning_rate,
            "train_loss": total_loss / n_images,
            **asdict(
                evaluate(
                    network, source, classes, recipe.batch_size, contexts, workers, recipe.dtype
                )
            ),
            "images_per_second": n_images / seconds,
            "seconds": time.perf_counter() - begin,
        }
        if not math.isfinite(total_loss + row["loss"]):
            raise Diverged(
                f"{folder}: the loss is no longer finite in epoch {epoch}; a lower "
                f"train.learning_rate than {recipe.learning_rate:g} would fit"
            )
        metrics.append(row)
        if workers.writes:
            checkpoint.save(folder / "checkpoints", network, trainer, metrics)
            _write_metrics(folder, metrics)
        progress.epoch(row)
    return metrics


def train_epoch(
    step: Callable[[int, Batch], list[mx.nd.NDArray]],
    batches: Iterable[tuple[int, Batch]],
    advance: Callable[[], None],
) -> tuple[int, float]:
    """Take a step with every numbered batch; gives the images and their summed loss.

    ``advance`` is called for each step once it is computed. That is some steps late: to wait for
    each would leave the devices with nothing to do.
    """
    n_images, total_loss = 0, 0.0
    for losses in _behind(step, batches):
        n_images += sum(map(len, losses))
        total_loss += float(sum(part.asnumpy().sum(dtype="float64") for part in losses))
        advance()
    return n_images, total_loss


def _behind(step: Callable, batches: Iterable[tuple[int, Batch]]) -> Iterator:
    """What a step gives for every numbered batch, in groups and each with the next under way."""
    computed, under_way = [], []
    for number, batch in batches:
        under_way.append(step(number, batch))
        images = batch[0]
        n_bytes = images.size * np.dtype(images.dtype).itemsize
        if len(under_way) >= min(_STEPS_AHEAD, _BYTES_AHEAD // n_bytes):
            yield from computed
            computed, under_way = under_way, []
    yield from computed
    yield from under_way


def train_step(
    network: HybridBlock,
    trainer: gluon.Trainer,
    loss: Callable,
    rate: Callable[[int], float],
    contexts: list[mx.Context],
    batch_size: int,
    dtype: str,
    step: int,
    batch: Batch,
) -> list[mx.nd.NDArray]:
    """One step of SGD on a worker's part of a batch.

    ``batch_size`` is that of all workers' parts. Gives each device's losses, one for every image,
    which are not waited for.
    """
    images, labels = (split(array, contexts) for array in batch)
    with autograd.record():
        scores = [class_scores(network, part, dtype) for part in images]
        losses = [loss(part, target) for part, target in zip(scores, labels)]
    autograd.backward(losses)
    trainer.set_learning_rate(rate(step))
    trainer.step(batch_size)
    return losses


def _share_statistics(network: HybridBlock, workers: Workers) -> None:
    """Average what gradients do not train, batch normalisation's running statistics.

    Every device and every worker has its own; behind this they all hold the network that is saved.
    """
    # A static graph updates them unseen by MXNet's engine: to read one does not wait for that.
    mx.nd.waitall()
    statistics = [p for p in network.collect_params().values() if p.grad_req == "null"]
    if not statistics or workers.count == len(statistics[0].list_ctx()) == 1:
        return
    own = [
        np.mean(
            [array.asnumpy() for array in parameter.list_data()], axis=0, dtype="float64"
        ).ravel()
        for parameter in statistics
    ]
    means = workers.sum(np.concatenate(own)) / workers.count
    ends = np.cumsum([len(values) for values in own])
    for parameter, values in zip(statistics, np.split(means, ends[:-1])):
        parameter.set_data(mx.nd.array(values.reshape(parameter.shape), dtype=parameter.dtype))


def _write_metrics(folder: Path, metrics: list[dict]) -> None:
    write_aside(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))
