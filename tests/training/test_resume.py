"""A run that resumes ends bit for bit as one that was never stopped; half precision does, too."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from training.helpers import CONFIG, CPU, ROOT, StopAfter, parameters, recipe, run, small_network

from trnet.config import CosineSchedule
from trnet.errors import Stopped
from trnet.layers import TRL
from trnet.training import checkpoint, loop
from trnet.training.devices import Compute


@pytest.mark.parametrize("passes, last", [(1, 2), (3, 7)])
def test_a_run_resumes_bit_for_bit(blobs, tmp_path, passes, last):
    """Stopped in the middle of an epoch, with dropout and momentum."""
    blobs = blobs.repeated(passes)
    straight, resumed = small_network(dropout=0.3), small_network(dropout=0.3)
    expected = run(straight, blobs, tmp_path / "straight", recipe(epochs=4))

    class Stop(Exception):
        pass

    def stopping(batch_size, seed):
        for step, batch in enumerate(blobs.train(batch_size, seed)):
            if seed == (0, 3) and step == last:
                raise Stop
            yield batch

    with pytest.raises(Stop):
        run(resumed, replace(blobs, train=stopping), tmp_path / "resumed", recipe(epochs=4))
    resumed = small_network(dropout=0.3)
    metrics = run(resumed, blobs, tmp_path / "resumed", recipe(epochs=4))
    for one, other in zip(parameters(straight), parameters(resumed)):
        assert (one == other).all()
    for key in ("epoch", "train_loss", "top1", "loss", "learning_rate"):
        assert [row[key] for row in metrics] == [row[key] for row in expected]


def test_another_number_of_threads_is_said(blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run(small_network(), blobs, tmp_path, recipe(epochs=1))
    run(small_network(), blobs, tmp_path, recipe(epochs=2), show=True)
    assert "threads" not in capsys.readouterr().err
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(small_network(), blobs, tmp_path, recipe(epochs=3), show=True)
    said = capsys.readouterr().err.splitlines()
    assert "test: threads: 2 until now, 1 from here; the last digits may differ" in said


def test_a_long_epoch_is_saved_before_its_validation(saved, blobs, tmp_path, monkeypatch):
    """Which may fail, on other images."""
    monkeypatch.setattr(loop, "_WORTH_SAVING", 0.0)
    run(small_network(), blobs, tmp_path, recipe(epochs=1))
    assert saved == ["epoch-0001-step-000005", "epoch-0001"]
    saved.clear()
    with pytest.raises(Stopped, match="stopped after step 5 of 5 of epoch 1"):  # in the validation
        run(small_network(), blobs, tmp_path / "stopped", recipe(epochs=1), stop=StopAfter(6))
    assert saved == ["epoch-0001-step-000005"]


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """The whole program, killed with SIGKILL in the middle of an epoch."""

    def command(runs):
        settings = ["--set", "train.epochs=3", "--runs", str(tmp_path / runs)]
        return script("train", str(CONFIG), *settings)

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.PIPE)
    folder = tmp_path / "killed/mnist/vgg_trl_8/seed0"
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (folder / "result.json").exists()
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    assert done in (1, 2)
    resumed = subprocess.run(command("killed"), env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"resumes after (epoch|step) \d", resumed.stderr)
    straight = subprocess.run(command("straight"), env=environment, capture_output=True)
    assert straight.returncode == 0
    saved = [
        mx.nd.load(f"{tmp_path}/{runs}/mnist/vgg_trl_8/seed0/checkpoints/epoch-0003/network.params")
        for runs in ("killed", "straight")
    ]
    assert saved[0].keys() == saved[1].keys()
    for name in saved[0]:
        assert (saved[0][name].asnumpy() == saved[1][name].asnumpy()).all()


CONSTANT = CosineSchedule(type="cosine", final=0.05)  # equal to the learning rate


def test_a_run_resumes_in_a_process_that_has_made_other_networks(blobs, tmp_path):
    """Gluon's names count on, and conv10 sorts before conv9: the momentum is not to follow them."""

    def convolutions(made_before: int) -> nn.HybridSequential:
        with mx.name.NameManager():
            for _ in range(made_before):
                nn.Conv2D(1, 1)
            network = nn.HybridSequential()
            network.add(*(nn.Conv2D(4, 3, padding=1, in_channels=n) for n in (1, 4, 4)))
            network.add(nn.Dense(3))
        return network

    constant = CosineSchedule(type="cosine", final=0.01)
    settings, ends = recipe(learning_rate=0.01, schedule=constant), {}
    for name, parts in {"straight": [(0, 4)], "resumed": [(8, 2), (0, 4)]}.items():
        for made_before, epochs in parts:
            network = convolutions(made_before)
            part = settings.model_copy(update={"epochs": epochs})
            run(network, blobs, tmp_path / name, part)
        ends[name] = parameters(network)
    for straight, resumed in zip(*ends.values()):
        np.testing.assert_array_equal(straight, resumed)


def half_network() -> TRL:
    return TRL(3, (1, 3, 3, 3), prefix="half_")


def test_half_precision_trains_with_its_loss_and_its_weights_in_single(blobs, tmp_path):
    """A layer that computes in float16 learns what one in float32 does, and resumes bit for bit."""
    settings = recipe(epochs=6, learning_rate=0.05, schedule=CONSTANT)
    single = run(half_network(), blobs, tmp_path / "single", settings)
    half, halves = Compute(CPU.devices, "float16"), {}
    for name, stops in (("whole", [6]), ("parts", [2, 6])):
        for epochs in stops:
            network = half_network()
            part = settings.model_copy(update={"dtype": "float16", "epochs": epochs})
            metrics = run(network, blobs, tmp_path / name, part, compute=half)
        halves[name] = metrics, parameters(network)
    for one, other in zip(*(halves[name][1] for name in halves)):
        assert one.dtype == np.float16
        np.testing.assert_array_equal(one, other)
    losses = [[row["train_loss"] for row in m] for m in (single, halves["whole"][0])]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[0][-1] < 0.5 * losses[0][0]
    states = mx.nd.load(str(tmp_path / "whole/checkpoints/epoch-0006/optimizer.params"))
    masters = [array for name, array in states.items() if name.endswith(":1")]
    assert masters and all(weight.dtype == np.float32 for weight in masters)
    again = half_network()
    loop.initialize(again, (1, 4, 4), 0, CPU)
    checkpoint.load_network(tmp_path / "whole/checkpoints/epoch-0006", again, CPU.devices)
    assert parameters(again)[0].dtype == np.float32  # as evaluate.py scores it on a CPU
