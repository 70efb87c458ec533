"""Trainings that are stopped within an epoch end with a checkpoint, and resume bit for bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from training.helpers import (
    CONFIG,
    CPU,
    ROOT,
    StopAfter,
    parameters,
    recipe,
    run,
    small_network,
    wait_for,
)

from trnet.errors import Stopped
from trnet.training import checkpoint
from trnet.training.devices import Compute
from trnet.training.stopping import Stop, heard


def normalised(dropout: float = 0.0) -> nn.HybridSequential:
    network = nn.HybridSequential(prefix="normalised_")
    with network.name_scope():
        network.add(nn.BatchNorm(), nn.Dropout(dropout), nn.Dense(3))
    return network


def trained_in_parts(make, source, folder, settings, asked: int, compute=CPU) -> tuple[list, int]:
    """Train, go on after every stop; returns parameters and metrics, and the number of stops."""
    stops = 0
    while True:
        network = make()
        try:
            rows = run(network, source, folder, settings, compute=compute, stop=StopAfter(asked))
        except Stopped as error:
            assert error.signal == signal.SIGTERM and str(folder) in str(error)
            stops += 1
            asked += 1  # another place each time
        else:
            kept = [(row["train_loss"], row["top1"], row["loss"]) for row in rows]
            return [*parameters(network), np.array(kept)], stops


@pytest.mark.parametrize("asked", [1, 2, 5, 11])
@pytest.mark.parametrize(
    "make, changes",
    [
        (small_network, {}),
        (lambda: small_network(dropout=0.5), {"optimizer": "adam"}),
        (lambda: normalised(dropout=0.5), {"accumulate": 2}),
        (normalised, {"optimizer": "nag", "clip_gradient": 0.1}),
    ],
)
def test_a_run_that_was_stopped_at_any_step_ends_bit_for_bit(make, changes, asked, blobs, tmp_path):
    """Within epochs, between them and in validations; with dropout and batch normalisation."""
    settings = recipe(epochs=3, **changes)
    whole, stops = trained_in_parts(make, blobs, tmp_path / "whole", settings, 10**6)
    assert stops == 0
    parts, stops = trained_in_parts(make, blobs, tmp_path / "parts", settings, asked)
    assert stops >= 1
    for one, other in zip(whole, parts):
        np.testing.assert_array_equal(one, other)
    kept = [path.name for path in (tmp_path / "parts/checkpoints").iterdir()]
    assert "epoch-0003" in kept and not any("step" in name for name in kept)


def test_two_devices_resume_with_statistics_of_their_own(blobs, tmp_path):
    devices = Compute([mx.cpu(0), mx.cpu(1)])
    settings = recipe(epochs=2)
    whole, _ = trained_in_parts(normalised, blobs, tmp_path / "a", settings, 10**6, devices)
    parts, stops = trained_in_parts(normalised, blobs, tmp_path / "b", settings, 4, devices)
    assert stops >= 1
    for one, other in zip(whole, parts):
        np.testing.assert_array_equal(one, other)


def test_checkpoints_come_with_the_minutes(saved, blobs, tmp_path):
    """Every step, if that takes longer than the minutes; the last two of them stay."""
    settings = recipe(epochs=1, checkpoint_minutes=1e-9)
    run(small_network(), blobs, tmp_path, settings)
    steps = blobs.train_batches(settings.batch_size)
    assert saved == [f"epoch-0001-step-{n:06d}" for n in range(1, steps + 1)] + ["epoch-0001"]


def test_a_damaged_part_is_set_aside(blobs, tmp_path):
    with pytest.raises(Stopped):
        run(small_network(), blobs, tmp_path, recipe(checkpoint_minutes=1e-9), stop=StopAfter(6))
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("epoch-*"))
    assert len(names) == 2 and all("step" in name for name in names)
    (tmp_path / "checkpoints" / names[-1] / "network.params").write_bytes(b"")
    run(small_network(), blobs, tmp_path, recipe())
    assert (tmp_path / "checkpoints" / f"{names[-1]}.damaged").is_dir()


def test_signals_are_heard_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop()
    with heard(stop):
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop and stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):  # the second time
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def stopped_in(body: str, grace: float = 0.5) -> subprocess.CompletedProcess:
    """Run a body in a process that got a signal, and has some seconds to end."""
    code = (
        "import os, signal, time\n"
        "from trnet.training.stopping import Stop, heard\n"
        "stop = Stop()\n"
        f"with heard(stop, {grace}):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    {body}\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_that_does_not_end_is_ended():
    """A handler alone would wait until a call into MXNet returns."""
    done = stopped_in("while True: pass")
    assert done.returncode == 143
    assert done.stderr.startswith("ended 0.5 seconds after a signal") and done.stdout == ""


def test_a_checkpoint_that_is_being_written_is_waited_for():
    saving = "stop.saving.acquire(); time.sleep(2.5); stop.saving.release()"
    done = stopped_in(f"{saving}; time.sleep(0.3); print('written')", grace=2.0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "written\n", "")
    assert stopped_in(f"{saving}; time.sleep(9)").returncode == 143


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop()
    try:
        with heard(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_the_command_ends_with_a_checkpoint_and_says_how_to_resume(name, code, tmp_path):
    command = [sys.executable, str(ROOT / "scripts/train.py"), str(CONFIG), "--runs", str(tmp_path)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these may run by nohup
    )
    checkpoints = tmp_path / "mnist/vgg_trl_8/seed0/checkpoints"
    wait_for(lambda: (checkpoints / "epoch-0001").is_dir(), 120)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    *_, last = said.splitlines()
    stopped = r".*/seed0: stopped after step \d+ of 80 of epoch \d+"
    assert re.fullmatch(f"{stopped}; the same command resumes from there", last)
    assert "Traceback" not in said and "Warning" not in said
    newest = checkpoint.newest(checkpoints)
    checkpoint.load_metrics(newest)


def test_reproduce_ends_with_its_runs(tmp_path):
    """One signal: every run saves a checkpoint, no other begins, and nothing else is said."""
    suite = tmp_path / "configs/toy"
    suite.mkdir(parents=True)
    for name in ("one", "two", "waits"):
        (suite / f"{name}.yaml").write_text(
            f"name: {name}\ndataset: {{name: mnist}}\n"
            "model: {backbone: small_vgg2, head: {type: dense}}\n"
            "train: {epochs: 50, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}\n"
        )
    where = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    script = str(ROOT / "scripts/reproduce.py")
    command = [sys.executable, script, str(suite), *where, "--seeds", "0", "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begun() -> list[Path]:
        return sorted((tmp_path / "runs").glob("toy/*/seed0/checkpoints/epoch-0001"))

    wait_for(lambda: len(begun()) == 2, 180)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines() == ["stopped; the same command resumes from there"]
    assert not (tmp_path / "runs/toy/waits").exists()
