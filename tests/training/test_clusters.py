"""Whole trainings of a scheduler, a server and two workers, on loopback."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training.cluster import (
    DMLC,
    TRAIN,
    Cluster,
    assert_end_well,
    assert_same_run,
    folder_of,
    lines_of_errors,
    metrics_of,
    run_train,
)
from training.helpers import wait_for


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """240 images for training and 51 for validation, in the form of Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    for part, n in (("train", 240), ("t10k", 51)):
        labels = np.arange(n) % 10
        images = patterns[labels] + rng.integers(0, 56, (n, 28, 28))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes()))
    return folder


@pytest.fixture(scope="module")
def experiment_file(data) -> Path:
    """A config of a small network without dropout and batch normalisation."""
    path = data / "suite" / "small.yaml"
    path.parent.mkdir()
    path.write_text(f"""
name: small
dataset: {{name: fashion_mnist, root: {data}}}
model:
  backbone: small_alexnet
  head: {{type: dense, hidden: []}}
train:
  epochs: 3
  batch_size: 40
  learning_rate: 0.002
  schedule: {{type: cosine, warmup_epochs: 1}}
""")
    return path


@pytest.fixture(scope="module")
def alone(experiment_file, tmp_path_factory):
    """Runs of a single process, by its devices and settings."""
    done = {}

    def run(devices: str, *settings: str) -> Path:
        key = (devices, *settings)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("alone")
            arguments = ["--runs", str(done[key]), "--devices", devices]
            arguments += [f"--set={setting}" for setting in settings]
            ended = run_train(str(experiment_file), *arguments)
            assert ended.returncode == 0, ended.stderr
        return done[key]

    return run


@pytest.mark.parametrize(
    "batch_size, devices, relative",
    [
        (40, "cpu:0,1", 1e-6),  # two devices sum as two workers do
        (37, "cpu", 5e-3),  # rounding turns a few activations off or on
    ],
)
def test_two_workers_train_the_network_that_one_does(
    experiment_file, alone, port, tmp_path, batch_size, devices, relative
):
    """Each on half of every batch: two on the whole of it would sum twice the gradients."""
    setting = f"train.batch_size={batch_size}"
    cluster = Cluster(port, experiment_file, tmp_path, setting)
    cluster.start_all()
    assert_end_well(cluster.end())
    assert_same_run(tmp_path, alone(devices, setting), relative)
    result = json.loads((folder_of(tmp_path) / "result.json").read_text())
    assert result["workers"] == 2
    assert result["dataset"] == {"name": "fashion_mnist", "train": 240, "validation": 51}
    files = sorted(path.name for path in folder_of(tmp_path).iterdir())
    assert files == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "metrics.jsonl",
        "result.json",
    ]


def test_two_workers_follow_the_whole_recipe(experiment_file, alone, port, tmp_path):
    settings = (
        "model.head={type: trl, rank: [8, 3, 3, 8]}",
        "train.optimizer=nag",
        "train.learning_rate=0.02",
        "train.epochs=40",  # 120 updates: the gauge is fixed once
        "train.accumulate=2",
        "train.clip_gradient=1.0",
        "train.lasso=0.1",
        "train.freeze=[features.0.*]",
    )
    cluster = Cluster(port, experiment_file, tmp_path, *settings)
    cluster.start_all()
    assert_end_well(cluster.end())
    assert_same_run(tmp_path, alone("cpu:0,1", *settings), 1e-4)


@pytest.mark.parametrize("victim", ["worker a", "server"])
def test_a_killed_process_ends_all_and_they_resume(experiment_file, alone, port, tmp_path, victim):
    cluster = Cluster(port, experiment_file, tmp_path, "train.epochs=10")
    cluster.start_all()
    wait_for(lambda: metrics_of(tmp_path))
    cluster.processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    ended = cluster.end()
    assert time.monotonic() - killed < 10
    assert ended.pop(victim)[0] == -signal.SIGKILL
    lost = (
        rf"error: {'worker [01]' if victim != 'server' else 'a server'} \(.+\) was lost; all others"
    )
    for name, lines in lines_of_errors(ended).items():
        assert ended[name][0] == 1
        assert len(lines) == 1 and re.match(lost, lines[0]), lines
    n_done = len(metrics_of(tmp_path))
    assert 1 <= n_done < 10 and not (folder_of(tmp_path) / "result.json").exists()
    if victim == "server":
        return
    cluster.start_all()
    ended = cluster.end()
    assert_end_well(ended)
    assert any("resumes after epoch" in errors for _, _, errors in ended.values())
    assert_same_run(tmp_path, alone("cpu:0,1", "train.epochs=10"))


def test_a_workers_mistake_ends_all(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path)
    cluster.start("worker a", "--set=dataset.root=/nowhere")
    cluster.start_all()
    ended = cluster.end()
    assert ended.pop("worker a")[0] == 2
    # The data's folder is no part of the config's hash: each machine may have its own.
    for name, lines in lines_of_errors(ended).items():
        assert ended[name][0] == 1
        assert len(lines) == 1
        assert re.match(r"error: worker [01] \(.+\) ended: .*/nowhere", lines[0]), lines
    assert not folder_of(tmp_path).exists()


def test_workers_of_different_commands_do_not_train(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path)
    cluster.start("worker a", "--seed=1")
    cluster.start_all()
    ended = cluster.end()
    assert all(code in (1, 2) for code, _, _ in ended.values())
    for lines in lines_of_errors(ended).values():
        assert len(lines) == 1
        assert re.search(r"workers differ in the seed \(worker 0: [01], worker 1: [01]\)", lines[0])
    assert [path.name for path in tmp_path.iterdir()] == [".secret"]


def test_an_infinite_loss_ends_all(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path, "train.learning_rate=1e30")
    cluster.start_all()
    ended = cluster.end()
    assert all(code in (1, 2) for code, _, _ in ended.values())
    for lines in lines_of_errors(ended).values():
        assert len(lines) == 1 and "the loss is no longer finite in step" in lines[0]


def test_ctrl_c_on_a_worker_ends_all(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path, "train.epochs=100000")
    cluster.start_all()
    wait_for(lambda: metrics_of(tmp_path))
    cluster.processes["worker b"].send_signal(signal.SIGINT)
    ended = cluster.end()
    code, _, errors = ended.pop("worker b")
    assert code == 130 and errors.splitlines()[-1].startswith("interrupted; the same command")
    for name, lines in lines_of_errors(ended).items():
        assert ended[name][0] == 1
        assert len(lines) == 1
        assert re.match(r"error: worker [01] \(.+\) ended: interrupted", lines[0]), lines


def test_workers_train_with_a_scheduler_of_mxnet_alone(experiment_file, alone, port, tmp_path):
    """SageMaker starts the scheduler and the servers so."""
    cluster = Cluster(port, experiment_file, tmp_path, "train.batch_size=40")
    only_mxnet = [sys.executable, "-W", "ignore", "-c", "import mxnet"]
    hasty = """
import runpy, sys
from trnet.training import heartbeat
heartbeat.JOIN_TIMEOUT = 0.5
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    for name in ("scheduler", "server"):
        cluster.start(name, command=only_mxnet)
    for name in ("worker a", "worker b"):
        script = [TRAIN, *cluster.command[4:], "--kvstore=dist_sync"]
        cluster.start(name, command=[sys.executable, "-W", "ignore", "-c", hasty, *script])
    ended = cluster.end()
    assert_end_well(ended)
    for name, lines in lines_of_errors(ended).items():
        assert bool(lines) is name.startswith("worker")
        assert all("will not notice when another one is lost" in line for line in lines)
    assert_same_run(tmp_path, alone("cpu:0,1", "train.batch_size=40"))


def test_train_says_what_it_needs(experiment_file, port):
    file = str(experiment_file)
    for variables, arguments, said in (
        ({}, ["--kvstore=dist_sync"], "error: --kvstore dist_sync: expected a process that mpirun"),
        ({"DMLC_ROLE": "worker"}, [], "error: DMLC_ROLE: got 'worker' without --kvstore"),
    ):
        done = run_train(file, *arguments, **variables)
        assert done.returncode == 2 and done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
    done = run_train(file, "--kvstore=dist_async")
    assert done.returncode == 2 and "choose from" in done.stderr


def test_a_scheduler_says_where_it_cannot_listen(experiment_file, port):
    scheduler = {**DMLC, "DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_PORT": str(port)}
    for taken in (port, port + 1):
        with socket.create_server(("127.0.0.1", taken)):
            local = {**scheduler, "DMLC_PS_ROOT_URI": "127.0.0.1"}
            done = run_train(str(experiment_file), "--kvstore=dist_sync", **local)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert re.search(r"DMLC_PS_ROOT_PORT: expected .* got .*: .* in use$", done.stderr)
    elsewhere = {**scheduler, "DMLC_PS_ROOT_URI": "203.0.113.1"}
    done = run_train(str(experiment_file), "--kvstore=dist_sync", **elsewhere)
    assert done.returncode == 2 and "got 203.0.113.1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stranger_at_the_parameter_server_runs_nothing(experiment_file, port, tmp_path):
    """MXNet lets it join in a worker's place; its own controller would unpickle what it sends."""
    mark = tmp_path / "ran"
    stranger = f"""
import os, pickle, mxnet as mx
class Evil:
    def __reduce__(self):
        return os.system, ("touch {mark}",)
kv = mx.kv.create("dist_sync")
for _ in range(2):
    kv._send_command_to_servers(0, pickle.dumps(Evil(), 0).decode("latin-1"))
os._exit(0)
"""
    cluster = Cluster(port, experiment_file, tmp_path / "runs")
    for name in ("scheduler", "server", "worker a"):
        cluster.start(name)
    cluster.start("worker stranger", command=[sys.executable, "-c", stranger])
    stranger_process = cluster.processes["worker stranger"]
    assert stranger_process.wait(timeout=60) == 0, stranger_process.stderr.read()
    time.sleep(1)
    for process in cluster.processes.values():
        process.kill()
    said = cluster.processes["server"].stderr.read()
    assert said.count("warning: ignored command 0, which no worker of trnet sends") == 2
    assert not mark.exists()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_the_scheduler_listens_where_it_was_told_to(experiment_file, port, tmp_path, name):
    cluster = Cluster(port, experiment_file, tmp_path, host=name)
    cluster.start_all()
    wait_for(lambda: metrics_of(tmp_path))
    listening = {
        fields[1]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[3] == "0A"
    }
    for own in (port, port + 1):
        assert f"0100007F:{own:04X}" in listening and f"00000000:{own:04X}" not in listening
    assert_end_well(cluster.end())


def test_processes_without_the_jobs_secret_do_not_take_part(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path / "runs")
    cluster.start("scheduler")
    cluster.start("worker b", secret="a guess")
    _, errors = cluster.processes["worker b"].communicate(timeout=60)
    assert cluster.processes.pop("worker b").returncode == 2
    assert re.fullmatch(r"error: 127\.0\.0\.1: the secret of this job is another .*\n", errors)
    cluster.start_all()
    assert_end_well(cluster.end())
    assert (tmp_path / "runs/.secret").stat().st_mode & 0o777 == 0o600
