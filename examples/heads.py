"""What the examples share: one backbone with several heads, trained from several seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import mxnet as mx
import numpy as np
import tabulate
from mxnet import autograd, gluon

from trnet import Trainer
from trnet.report.summary import Measurement
from trnet.report.table import measured

BATCH, RATE = 32, 0.05


def data_folder(package: str) -> Path:
    """The folder of the data sets that a package ships; the package itself is not imported."""
    spec = find_spec(package)
    if spec is None:
        print(f"expected {package}, got none: see --help", file=sys.stderr)
        sys.exit(2)
    return Path(spec.submodule_search_locations[0], "datasets", "data")


def compare(
    backbone: Callable[[], gluon.HybridBlock],
    heads: dict[str, Callable[[], gluon.HybridBlock]],
    loss: gluon.loss.Loss,
    score: Callable[[np.ndarray, np.ndarray], float],
    training: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    epochs: int,
    seeds: Sequence[int],
    heading: str,
) -> str:
    """Train every head from every seed.

    Parameters
    ----------
    backbone, heads : callables
        The block before the head, and each head by its name.
    loss : Loss
        From outputs and targets.
    score : callable
        From outputs and targets of the test samples.
    training, test : pairs of arrays
        Inputs and targets.
    epochs : int
        Passes over the training samples.
    seeds : sequence of int
        Of the first weights, and of the order of samples.
    heading : str
        What ``score`` is.

    Returns
    -------
    str
        A Markdown table: the weights of a head, and its score with a 95 % interval.
    """
    lines, dense = [], None
    for name, head in heads.items():
        scores = []
        for seed in seeds:
            net = train(backbone, head, loss, training, epochs, seed)
            outputs = [net(mx.nd.array(part)).asnumpy() for part in np.array_split(test[0], 8)]
            scores.append(score(np.concatenate(outputs), test[1]))
            print(f"{name}, seed {seed}: {scores[-1]:.2f}", flush=True)
        weights = sum(
            parameter.data().size
            for parameter in net[1].collect_params().values()
            if not parameter.name.endswith("bias")
        )
        dense = dense or weights  # that of the first head
        deviation = np.std(scores, ddof=1) if len(scores) > 1 else None
        lines.append(
            [
                name,
                f"{weights:,}".replace(",", " "),
                f"{100 * (1 - weights / dense):.1f}",
                measured(Measurement(np.mean(scores), deviation, len(scores))),
            ]
        )
    columns = ["Head", "Weights in the head", "Savings, %", heading]
    return tabulate.tabulate(
        lines, columns, "pipe", colalign=["left", *["right"] * 3], disable_numparse=True
    )


def train(
    backbone: Callable[[], gluon.HybridBlock],
    head: Callable[[], gluon.HybridBlock],
    loss: gluon.loss.Loss,
    training: tuple[np.ndarray, np.ndarray],
    epochs: int,
    seed: int,
) -> gluon.HybridBlock:
    """One network, by SGD at a rate that falls to zero; its two children are backbone and head."""
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    net = gluon.nn.HybridSequential()
    net.add(backbone(), head())
    net.initialize(mx.init.Xavier())
    net.hybridize()
    inputs, targets = map(mx.nd.array, training)
    trainer = Trainer(net.collect_params(), "sgd", {"momentum": 0.9})
    steps = epochs * (len(inputs) // BATCH)
    for step in range(steps):
        if step % (len(inputs) // BATCH) == 0:
            order = mx.nd.array(rng.permutation(len(inputs)))
        place = step % (len(inputs) // BATCH) * BATCH
        chosen = order[place : place + BATCH]
        trainer.set_learning_rate(RATE * (1 + np.cos(np.pi * step / steps)) / 2)
        with autograd.record():
            errors = loss(net(inputs.take(chosen)), targets.take(chosen))
        errors.backward()
        trainer.step(BATCH)
    return net
