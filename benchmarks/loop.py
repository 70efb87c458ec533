#!/usr/bin/env python
"""Measure what the training loop adds to forward, backward and update, and what the data cost.

python benchmarks/loop.py configs/mnist/vgg.yaml configs/mnist/vgg_trl_8.yaml

Epochs take turns in one process: bare ones, which are a loop of forward, backward and update as
Gluon's documentation has it, on one batch that stays; ours on that same batch, with the scaled
gradients of a TRL and without; ours on the data set's batches; and those batches alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path

from layers import machine
from timing import in_own_process, parser_of, rows_of, take_turns, write_csv

from trnet import config
from trnet.threads import use_cores


def main() -> None:
    """Parse the arguments, measure, and write loop.csv."""
    arguments = parser_of(__doc__)
    arguments.add_argument("configs", type=Path, nargs="+")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--steps", type=int, default=60, help="an epoch")
    options = arguments.parse_args()
    use_cores()
    rows = []
    for path in options.configs:
        rows += in_own_process(measure, path, options.rounds, options.steps)
        write_csv(options.results / "loop.csv", rows)


def measure(path: Path, rounds: int, steps: int) -> list[dict]:
    """Rows of an experiment: ours on one batch first, then all that it is compared with."""
    chosen = config.load(path)
    epochs = make_epochs(chosen, steps)
    seconds = take_turns(epochs, rounds, budget=float("inf"))
    key = {"experiment": f"{chosen.suite}/{chosen.name}", "batch": chosen.train.batch_size}
    rows = [{**key, **row, "machine": machine()} for row in rows_of(seconds)]
    for row in rows:
        row["ms"] = round(row["ms"] / steps, 3)
        print(f"{key['experiment']}: {row['what']}: {row['ms']} ms a step, {row['ours/this']}")
    return rows


def make_epochs(chosen: config.Config, steps: int) -> dict[str, Callable[[], None]]:
    """Epochs of some steps, each kind by its name."""
    from mxnet import autograd, gluon

    from trnet import experiment
    from trnet.tensor.backend import mx
    from trnet.training import loop
    from trnet.training.devices import Compute
    from trnet.training.optimizers import make_optimizer
    from trnet.training.progress import Progress
    from trnet.training.saving import nothing

    compute, recipe = Compute([mx.cpu()]), chosen.train
    dataset = experiment.find_dataset(chosen)
    source = experiment.load(chosen, dataset)
    size = recipe.batch_size
    network = experiment.build(chosen, dataset)
    loop.initialize(network, dataset.shape, chosen.seed, compute)
    network.hybridize(static_alloc=True, static_shape=True)
    trainer = loop.make_trainer(network, recipe)
    loss = loop.make_loss(recipe.label_smoothing, dataset.classes)
    progress = Progress("", 1, steps * size, show=False)

    def batches() -> Iterator:
        while True:
            yield from source.train(size, (0, 1))

    images, labels = next(batches())
    plain_loss = gluon.loss.SoftmaxCrossEntropyLoss()
    plain_trainer = gluon.Trainer(
        network.collect_params(), "sgd", {"learning_rate": 1e-4, "momentum": recipe.momentum}
    )

    def bare() -> None:
        for _ in range(steps):
            with autograd.record():
                losses = plain_loss(network(images), labels)
            losses.backward()
            plain_trainer.step(size)
        mx.nd.waitall()

    unscaled = gluon.Trainer(network.collect_params(), make_optimizer(recipe), kvstore=None)
    unscaled._optimizer.aggregate_num = trainer._optimizer.aggregate_num

    def ours(batches: Iterator, trainer: gluon.Trainer = trainer) -> None:
        epoch = islice(batches, steps)
        rates = repeat(1e-4)
        loop.train_epoch(
            network, trainer, loss, epoch, rates, size, compute, progress, recipe, nothing()
        )
        mx.nd.waitall()

    def data() -> None:
        for images, _ in islice(batches(), steps):
            images.wait_to_read()

    def same() -> Iterator:
        while True:
            yield images, labels

    return {
        "ours": lambda: ours(same()),
        "ours, gradients not scaled": lambda: ours(same(), unscaled),
        "bare": bare,
        "ours, with its data": lambda: ours(batches()),
        "data alone": data,
    }


if __name__ == "__main__":
    main()
