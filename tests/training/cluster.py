"""A distributed training on this machine: its data, its processes, and what came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from training.helpers import ROOT

TRAIN = str(ROOT / "scripts/train.py")
LAUNCHERS = ("DMLC_", "OMPI_", "PMI_", "MPI_", "SLURM_")
DMLC = {
    "DMLC_ROLE": "worker",
    "DMLC_PS_ROOT_URI": "10.0.0.1",
    "DMLC_PS_ROOT_PORT": "9000",
    "DMLC_NUM_SERVER": "1",
    "DMLC_NUM_WORKER": "2",
}


def folder_of(runs: Path) -> Path:
    return runs / "suite/small/seed0"


def metrics_of(runs: Path) -> list[dict]:
    path = folder_of(runs) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


class Cluster:
    """A scheduler, a server and two workers of a training, all on this machine."""

    def __init__(
        self, port: int, file: Path, runs: Path, *settings: str, host: str = "127.0.0.1"
    ) -> None:
        self.command = [sys.executable, "-W", "ignore", TRAIN, str(file), "--runs", str(runs)]
        self.command += [f"--set={setting}" for setting in settings]
        self.host, self.port, self.processes = host, port, {}

    def start(
        self,
        name: str,
        *arguments: str,
        command: list[str] | None = None,
        secret: str | None = None,
    ) -> None:
        variables = {
            **DMLC,
            "DMLC_ROLE": name.split()[0],
            "DMLC_PS_ROOT_URI": self.host,
            "DMLC_PS_ROOT_PORT": str(self.port),
            **({} if secret is None else {"TRNET_SECRET": secret}),
        }
        self.processes[name] = subprocess.Popen(
            command or [*self.command, "--kvstore=dist_sync", *arguments],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts its background jobs with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def start_all(self) -> None:
        for name in ("scheduler", "server", "worker a", "worker b"):
            if name not in self.processes:
                self.start(name)

    def end(self) -> dict[str, tuple[int, str, str]]:
        """Exit code, output and errors of every process, all of which have to end by themselves."""
        try:
            texts = {name: p.communicate(timeout=60) for name, p in self.processes.items()}
        finally:
            for process in self.processes.values():
                process.kill()
        ended = {name: (self.processes[name].returncode, *texts[name]) for name in texts}
        assert all("Traceback" not in errors for _, _, errors in ended.values()), ended
        self.processes = {}
        return ended


def assert_end_well(ended: dict) -> None:
    assert [code for code, _, _ in ended.values()] == [0] * 4, ended
    outputs = sorted(output for _, output, _ in ended.values())
    assert outputs[:3] == [""] * 3 and "Top-1" in outputs[3]  # one of the workers prints the result


def lines_of_errors(ended: dict) -> dict[str, list[str]]:
    return {
        name: [line for line in errors.splitlines() if not line.startswith("small seed")]
        for name, (_, _, errors) in ended.items()
    }


def assert_same_run(runs: Path, expected: Path, relative: float = 1e-6) -> None:
    """Same metrics and parameters; parameters up to a fraction of the largest."""
    rows, expected_rows = metrics_of(runs), metrics_of(expected)
    assert len(rows) == len(expected_rows)
    for row, other in zip(rows, expected_rows):
        for key in ("epoch", "learning_rate", "train_loss", "top1", "top5", "loss"):
            assert row[key] == pytest.approx(other[key], rel=relative)
    name = f"checkpoints/epoch-{len(rows):04d}/network.params"
    saved, reference = (mx.nd.load(str(folder_of(r) / name)) for r in (runs, expected))
    assert saved.keys() == reference.keys()
    for key in saved:
        one, other = saved[key].asnumpy(), reference[key].asnumpy()
        assert np.abs(one - other).max() <= relative * np.abs(other).max()


def run_train(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, TRAIN, *arguments]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True)
