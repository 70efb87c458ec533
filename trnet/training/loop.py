"""The training loop: forward, backward and update for every batch, scores after every epoch."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
from mxnet import autograd, gluon
from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock

from trnet.config import Train
from trnet.data import Batch, DataSource
from trnet.errors import Diverged, UserError
from trnet.optimize import Trainer, shrink_components
from trnet.tensor.backend import mx
from trnet.training import checkpoint
from trnet.training.checkpoint import Within
from trnet.training.devices import Compute
from trnet.training.distributed import ALONE, Workers
from trnet.training.evaluation import class_scores, evaluate
from trnet.training.metrics import Metrics
from trnet.training.optimizers import all_finite, clip_gradients, make_optimizer
from trnet.training.progress import Progress
from trnet.training.saving import Saving
from trnet.training.schedule import learning_rate
from trnet.training.stopping import Stop

_NOT_DECAYED = ("bias", "gamma", "beta")
# MXNet's SGD can update several parameters in one call, but looks each of them up for every element
# of the largest: this halves the time of small ones, and doubles that of a large dense layer.
_UPDATED_AT_ONCE, _LARGE = 16, 2**16
# How far, in batches, bytes of images and seconds, Python may run ahead of the computation. Waiting
# for every batch costs a small network a fifth of its time; a signal waits for all that is queued.
_BATCHES_AHEAD, _BYTES_AHEAD, _SECONDS_AHEAD = 16, 2**22, 1.0
_WORTH_SAVING = 10.0  # seconds of training, before a validation that may fail
_LOSS = "the loss is no longer finite in"
_SINGULAR = "the input matrix is non-convertible"  # MXNet's, of a matrix without an inverse


def train(
    network: HybridBlock,
    source: DataSource,
    classes: int,
    recipe: Train,
    seed: int,
    compute: Compute,
    folder: Path,
    progress: Progress,
    hash_until: Callable[[int], str],
    stop: Stop | None = None,
    log: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train an initialised network, starting from the folder's last checkpoint if it has one.

    A run that was stopped at any moment and started again ends bit for bit as one that was not:
    the order of images, augmentation and dropout follow from the seed, the epoch and the step.
    Checkpoints are saved after every epoch; with a single worker also before a validation, every
    ``checkpoint_minutes``, and when a signal asks the training to stop.

    Several workers or devices, each with its part of every batch, train the same network as one
    does, up to rounding, except for what each has of its own: the statistics of batch
    normalisation, and dropout.

    Parameters
    ----------
    network : HybridBlock
    source : DataSource
        This worker's.
    classes : int
    recipe : Train
    seed : int
    compute : Compute
    folder : Path
        The run folder. One of the workers writes metrics and checkpoints into it.
    progress : Progress
    hash_until : callable
        As :meth:`trnet.config.Config.hash_until`: what decides the run up to an epoch.
    stop : Stop, optional
        When it becomes true, the training ends after the step that is under way.
    log : callable, optional
        Gets the metrics of every epoch.

    Returns
    -------
    list of dict
        Metrics of every epoch, as in ``metrics.jsonl``.

    Raises
    ------
    Diverged
        If the loss or a weight is no longer finite.
    Stopped
        When ``stop`` has become true.
    UserError
        If a batch is too small for its workers and devices, or workers find different checkpoints.
    """
    workers = compute.workers
    batch_size = min(recipe.batch_size, source.train_size)
    if batch_size // workers.count < len(compute.devices):
        raise UserError(
            f"train.batch_size: expected at least {workers.count * len(compute.devices)} images, "
            f"one for each device of each worker, got {batch_size}"
        )
    if recipe.accumulate > 1:
        for parameter in network.collect_params().values():
            if parameter.grad_req != "null":
                parameter.grad_req = "add"
    trainer = make_trainer(network, recipe, workers)
    loss = make_loss(recipe.label_smoothing, classes)
    steps = source.train_batches(recipe.batch_size)
    steps = math.ceil(steps / recipe.accumulate)
    schedule = learning_rate(recipe, steps)
    stop = Stop() if stop is None else stop
    saving = Saving(
        folder, network, trainer, seed, hash_until, workers, stop, recipe.checkpoint_minutes
    )
    saving.resume(compute.devices, progress.say)
    is_random = _draws_random_numbers(network)
    network.hybridize(static_alloc=True, static_shape=True)
    progress.resume(len(saving.metrics.rows), saving.done["step"], saving.done["images"])

    def rates() -> Iterator[float]:
        """Learning rates of the steps until a checkpoint is due; a step is done after its yield."""
        while done["step"] < steps:
            if is_random:
                # A SeedSequence is padded with zeros: one worker draws what the first of many does.
                drawn = np.random.SeedSequence((seed, epoch, done["step"], workers.index))
                mx.random.seed(int(drawn.generate_state(1)[0]))
            yield schedule((epoch - 1) * steps + done["step"])
            done["step"] += 1
            if saving.is_due():
                return

    def validation(size: int) -> Iterator[Batch]:
        for batch in source.validation(size):
            if stop:
                saving.save_within(steps)
            yield batch

    while (epoch := saving.epoch) <= recipe.epochs:
        done = saving.done
        if stop:  # while the last epoch was saved
            saving.save_within(steps)
        begin = time.perf_counter() - done["seconds"]
        progress.begin(epoch)
        batches = source.train(recipe.batch_size, (seed, epoch))
        batches = islice(batches, done["step"] * recipe.accumulate, None)
        with _divergence_named(folder, saving, recipe):
            before = None
            while done["step"] not in (before, steps):  # unless there are no more batches
                before = done["step"]
                train_epoch(
                    network,
                    trainer,
                    loss,
                    batches,
                    rates(),
                    batch_size,
                    compute,
                    progress,
                    recipe,
                    done,
                )
                done["seconds"] = time.perf_counter() - begin
                if saving.is_due():
                    saving.save_within(steps)
            if saving.seconds_since > _WORTH_SAVING:
                saving.save_within(steps)
            sums = workers.sum((done["images"], done["loss"], done["skipped"])).tolist()
            n_images, total_loss, n_skipped = sums
            _share_statistics(network, workers)
            progress.validate()
            scored = replace(source, validation=validation)
            scores = evaluate(network, scored, classes, recipe.batch_size, compute)
            if not n_images or not math.isfinite(total_loss + scores.loss):
                raise FloatingPointError(_LOSS)
            skips = recipe.nonfinite == "skip"
            counted = {"skipped": round(n_skipped / workers.count)} if skips else {}
            row = {
                "epoch": epoch,
                "learning_rate": trainer.learning_rate,
                "train_loss": total_loss / n_images,
                **asdict(scores),
                "images_per_second": n_images / done["seconds"],
                **counted,
                "seconds": time.perf_counter() - begin,
            }
            saving.save_epoch(row)
        progress.epoch(row)
        if log is not None:
            log(row)
    return saving.metrics.rows


def _draws_random_numbers(network: HybridBlock) -> bool:
    """Whether a network has dropout, or another random operator."""
    operators = {node["op"] for node in json.loads(network(mx.sym.var("data")).tojson())["nodes"]}
    return any(name == "Dropout" or "random" in name or "sample" in name for name in operators)


def score_start(
    network: HybridBlock,
    source: DataSource,
    classes: int,
    recipe: Train,
    compute: Compute,
    folder: Path,
    found: dict,
    seed: int,
    config_hash: str,
) -> list[dict]:
    """Score a network as it starts, in place of a training: its checkpoint is of epoch 0.

    Parameters
    ----------
    network, source, classes, recipe, compute, folder
        As in :func:`train`.
    found : dict
        What is known of the start; it becomes a part of the metrics.
    seed, config_hash : int, str
        The run's.

    Returns
    -------
    list of dict
        One row, as in ``metrics.jsonl``.

    Raises
    ------
    Diverged
        If the loss is not finite.
    """
    last = checkpoint.latest(folder / "checkpoints")
    if last is not None:
        metrics = checkpoint.load_metrics(last)
    else:
        begin = time.perf_counter()
        network.hybridize(static_alloc=True, static_shape=True)
        scores = evaluate(network, source, classes, recipe.batch_size, compute)
        if not math.isfinite(scores.loss):
            raise Diverged(f"{folder}: {_LOSS} epoch 0: see the weights of model.pretrained")
        row = {"epoch": 0, **asdict(scores), **found, "seconds": time.perf_counter() - begin}
        metrics = Metrics([row])
        if compute.workers.writes:
            trainer = make_trainer(network, recipe)
            checkpoint.save(folder / "checkpoints", network, trainer, metrics, seed, config_hash)
    if compute.workers.writes:
        metrics.write(folder)
    return metrics.rows


@contextmanager
def _divergence_named(folder: Path, saving: Saving, recipe: Train) -> Iterator[None]:
    """Say in one line that a training diverges, by its loss or by factors beyond all scaling."""
    try:
        yield
    except (FloatingPointError, MXNetError) as error:
        if isinstance(error, MXNetError) and _SINGULAR not in str(error):
            raise
        # Steps that are queued fail as well. MXNet would say so in the process's next training.
        with suppress(MXNetError):
            mx.nd.waitall()
        what = error.args[0] if isinstance(error, FloatingPointError) else _LOSS
        raise Diverged(
            f"{folder}: {what} epoch {saving.epoch}, with train.learning_rate "
            f"{recipe.learning_rate:g} and train.weight_decay {recipe.weight_decay:g}; lower the "
            f"rate, or see train.nonfinite; {saving.last_checkpoint}"
        ) from None


def train_epoch(
    network: HybridBlock,
    trainer: gluon.Trainer,
    loss: Callable,
    batches: Iterable[Batch],
    rates: Iterable[float],
    batch_size: int,
    compute: Compute,
    progress: Progress,
    recipe: Train,
    done: Within,
) -> None:
    """Take one step of the optimiser per rate; adds images and their losses to ``done``.

    ``rates`` are the learning rates of the steps. A batch is this worker's part; ``batch_size`` is
    that of all workers' parts together. If the recipe accumulates, a step takes several batches;
    the last one of the epoch takes those that are left.

    Raises
    ------
    FloatingPointError
        A few steps after one whose loss is not finite, unless the recipe skips such steps.
    """
    # Losses of the latest batches on every device, and the numbers of their steps.
    under_way: list[tuple[int, list[mx.nd.NDArray]]] = []
    skips = recipe.nonfinite == "skip"

    def read(losses_of: list) -> None:
        for step, losses in losses_of:
            total = _total(losses)
            if math.isfinite(total):
                done["images"] += sum(map(len, losses))
                done["loss"] += total
            elif not skips:
                raise FloatingPointError(f"{_LOSS} step {step} of")

    batches = iter(batches)
    ahead, read_at = 1, time.monotonic()
    for step, rate in enumerate(rates, done["step"] + 1):
        n_batches = 0
        for batch in islice(batches, recipe.accumulate):
            images, labels = (compute.split(array) for array in batch)
            with autograd.record():
                scores = [class_scores(network, part, compute.dtype) for part in images]
                losses = [loss(part, targets) for part, targets in zip(scores, labels)]
            autograd.backward(losses)
            n_batches += 1

            # MXNet has queued the batch, not computed it. To read a loss waits for its batch, so
            # the losses of earlier ones are read while at least as many later ones are queued.
            under_way.append((step, losses))
            n_read = len(under_way) - ahead
            if n_read >= ahead:
                read(under_way[:n_read])
                del under_way[:n_read]
                progress.advance(n_read * batch_size, rate)
                before, read_at = read_at, time.monotonic()
                ahead = _batches_ahead(batch[0], (read_at - before) / n_read)
        if n_batches == 0:
            break
        trainer.set_learning_rate(rate)
        done["skipped"] += not _step(trainer, n_batches * batch_size, recipe)
    read(under_way)
    progress.advance(len(under_way) * batch_size, trainer.learning_rate)


def _step(trainer: gluon.Trainer, images: int, recipe: Train) -> bool:
    """Update the parameters with the mean gradient of some images; False if that was skipped."""
    trainer.allreduce_grads()
    is_taken = recipe.nonfinite == "stop" or _all_finite(trainer)
    if is_taken:
        if recipe.clip_gradient is not None:
            # The arrays hold sums over the images.
            clip_gradients(trainer._params, recipe.clip_gradient * images)
        trainer.update(images)
        if recipe.lasso > 0:
            shrink_components(trainer._params, recipe.lasso * trainer.learning_rate)
    if recipe.accumulate > 1:
        for parameter in trainer._params:
            parameter.zero_grad()
    return is_taken


def _all_finite(trainer: gluon.Trainer) -> bool:
    """Whether all gradients, which are the same on all devices, are finite; waits for them."""
    return all_finite(p.list_grad()[0] for p in trainer._params if p.grad_req != "null")


def _batches_ahead(images: mx.nd.NDArray, seconds: float) -> int:
    """How many batches to queue, from the images of one and the seconds that one takes."""
    n_bytes = images.size * np.dtype(images.dtype).itemsize
    return int(max(1, min(_BATCHES_AHEAD, _BYTES_AHEAD // n_bytes, _SECONDS_AHEAD / seconds)))


def _total(losses: list[mx.nd.NDArray]) -> float:
    """The summed loss of a batch's images on all devices, once it is computed."""
    return float(sum(part.asnumpy().sum(dtype="float64") for part in losses))


def initialize(
    network: HybridBlock, image_shape: tuple[int, int, int], seed: int, compute: Compute
) -> None:
    """Draw a network's initial parameters from the seed, and set the type that it computes in."""
    mx.random.seed(seed)
    network.infer_shape(mx.nd.zeros((1, *image_shape)))
    network.initialize(mx.init.MSRAPrelu(slope=0), ctx=compute.devices)
    if compute.dtype != "float32":
        network.cast(compute.dtype)


def make_trainer(network: HybridBlock, recipe: Train, workers: Workers = ALONE) -> gluon.Trainer:
    """Make the trainer that applies the recipe's optimiser.

    It sums gradients over devices and workers. Weight decay is not on biases and batch
    normalisation, nor on the factors of a TRL that :class:`~trnet.layers.TRL` names.
    """
    parameters = network.collect_params()
    for name, parameter in parameters.items():
        if name.endswith(_NOT_DECAYED):
            parameter.wd_mult = 0.0
    optimizer = make_optimizer(recipe)
    if isinstance(optimizer, mx.optimizer.SGD):
        largest = max(math.prod(p.shape) for p in parameters.values() if p.grad_req != "null")
        optimizer.aggregate_num = 1 if largest > _LARGE else _UPDATED_AT_ONCE
    # Workers update, not servers: servers would keep the first learning rate, and the momentum.
    # States are saved by the parameters' order. Gluon sorts by names that count on in a process
    # (conv9, conv10), so another process may have another order; places in the network stay.
    places = network._collect_params_with_prefix()
    ordered = list(dict.fromkeys(places[place] for place in sorted(places)))
    trainer = Trainer(ordered, optimizer, kvstore=workers.kvstore, update_on_kvstore=False)
    # Saving makes all workers start from the same parameters, now. Otherwise the trainer does so in
    # its first step, where MXNet lets the first gradients overtake the parameters that other
    # workers wait for.
    trainer.save_states(os.devnull)
    return trainer


def make_loss(label_smoothing: float, classes: int) -> Callable:
    """Cross entropy of class scores against labels, which are smoothed if the recipe asks for it.

    Each image's loss: (B, classes), (B,) -> (B,).
    """
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=label_smoothing == 0)
    cross_entropy.hybridize(static_alloc=True, static_shape=True)
    if label_smoothing == 0:
        return cross_entropy
    off = label_smoothing / classes

    def smoothed(scores, labels):
        # (B,) -> (B, classes)
        targets = mx.nd.one_hot(labels, classes, on_value=1 - label_smoothing + off, off_value=off)
        return cross_entropy(scores, targets)

    return smoothed


def _share_statistics(network: HybridBlock, workers: Workers) -> None:
    """Average batch normalisation's running statistics, which gradients do not train.

    Every device of every worker has its own; afterwards all hold the network that is saved.
    """
    # A static graph updates them unnoticed by MXNet's engine, so reading one does not wait for it.
    mx.nd.waitall()
    statistics = [
        parameter
        for name, parameter in network.collect_params().items()
        if name.endswith(checkpoint.STATISTICS)
    ]
    if not statistics or workers.count == len(statistics[0].list_ctx()) == 1:
        return
    own = [
        np.mean(
            [array.asnumpy() for array in parameter.list_data()], axis=0, dtype="float64"
        ).ravel()
        for parameter in statistics
    ]
    means = workers.sum(np.concatenate(own)) / workers.count  # in one sum: each waits for all
    ends = np.cumsum([len(values) for values in own])
    for parameter, values in zip(statistics, np.split(means, ends[:-1])):
        parameter.set_data(mx.nd.array(values.reshape(parameter.shape), dtype=parameter.dtype))
