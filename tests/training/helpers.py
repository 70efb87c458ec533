"""Recipes, networks and runs for the tests of training."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from trnet.config import CosineSchedule, Train
from trnet.files import described
from trnet.layers import TRL
from trnet.training import loop
from trnet.training.devices import Compute
from trnet.training.progress import Progress
from trnet.training.stopping import Stop

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "configs/mnist/vgg_trl_8.yaml"
COSINE = CosineSchedule(type="cosine")
CPU = Compute([mx.cpu()])


def rewrite_state(saved: Path, change: Callable[[dict], object]) -> None:
    """Change the state of a checkpoint, which is whole afterwards, as another release wrote it."""
    state, manifest = (json.loads((saved / f"{n}.json").read_text()) for n in ("state", "manifest"))
    change(state)
    (saved / "state.json").write_text(json.dumps(state))
    manifest["state.json"] = described(saved / "state.json")
    (saved / "manifest.json").write_text(json.dumps(manifest))


def recipe(**changes) -> Train:
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 0.1, "schedule": COSINE}
    return Train(**{**settings, **changes})


class StopAfter(Stop):
    """Becomes true when it was asked so many times."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left, self.signal = asked, signal.SIGTERM

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def small_network(dropout: float = 0.0) -> nn.HybridSequential:
    network = nn.HybridSequential(prefix="small_")
    with network.name_scope():
        network.add(nn.Conv2D(6, 3, activation="relu"), nn.Dropout(dropout), TRL(3, (3, 2, 2, 3)))
    return network


def run(
    network,
    source,
    folder,
    settings=None,
    shape=(1, 4, 4),
    compute=CPU,
    stop=None,
    log=None,
    show=False,
) -> list[dict]:
    """Train a fresh network in a folder, from seed 0; returns its metrics."""
    settings = settings or recipe()
    loop.initialize(network, shape, 0, compute)
    progress = Progress("test", settings.epochs, 40, show)
    identity = 0, compute, folder, progress, lambda epoch: "a hash"
    return loop.train(network, source, 3, settings, *identity, stop, log)


def parameters(network) -> list[np.ndarray]:
    return [p.data(p.list_ctx()[0]).asnumpy() for p in network.collect_params().values()]


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
