"""Two workers and their servers, of which one is killed or frozen: all end, and they resume."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from soak.experiment import differences, outcome, run_folder
from soak.kills import Bench
from soak.trials import Tally

_ROLES = ("scheduler", "server", "worker a", "worker b")
_MINUTE = 60.0
_ROOT = Path(__file__).parents[2]


def faults(bench: Bench, trials: int, seed: int = 0) -> Tally:
    """Kill or freeze one process of a distributed training, then resume all."""
    tally, rng = Tally("one of two workers and their servers killed or frozen"), random.Random(seed)
    _finish(_start(bench, "together"))
    expected = outcome(bench.folder / "together")
    for trial in range(trials):
        victim, fault = rng.choice(_ROLES), rng.choice((signal.SIGKILL, signal.SIGSTOP))
        what = f"fault {trial}, {victim}, {fault.name}"
        processes = _start(bench, "faulty")
        try:
            _wait_for_an_epoch(bench)
            processes[victim].send_signal(fault)
            begun = time.monotonic()
            lines = _finish({name: p for name, p in processes.items() if name != victim})
            seconds = time.monotonic() - begun
        finally:
            processes[victim].kill()
            processes[victim].communicate()
        silent = [name for name, said in lines.items() if said.count("error: ") != 1]
        ended = _finish(_start(bench, "faulty"))
        other = differences(outcome(bench.folder / "faulty"), expected)
        if seconds > _MINUTE or silent:
            tally.count("not ended", f"{what}: {seconds:.0f} s, no line from {silent}")
        elif other:
            tally.count("other bits", f"{what}: {', '.join(other)}; {ended}")
        else:
            tally.count("all ended within a minute, resumed to the same bits")
        shutil.rmtree(bench.folder / "faulty")
    return tally


def _start(bench: Bench, runs: str) -> dict[str, subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("DMLC_")},
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": "2",
    }
    command = [sys.executable, "-W", "ignore", "-m", "trnet", "train", str(bench.config)]
    command += ["--runs", str(bench.folder / runs), "--kvstore", "dist_sync"]
    return {
        name: subprocess.Popen(
            command,
            env={**environment, "DMLC_ROLE": name.split()[0]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in _ROLES
    }


def _wait_for_an_epoch(bench: Bench) -> None:
    metrics = run_folder(bench.folder / "faulty") / "metrics.jsonl"
    deadline = time.monotonic() + 3 * _MINUTE
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _finish(processes: dict[str, subprocess.Popen]) -> dict[str, str]:
    """What each process said; those that do not end are killed, and their last word says so."""
    said = {}
    for name, process in processes.items():
        try:
            said[name] = process.communicate(timeout=3 * _MINUTE)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said[name] = process.communicate()[1] + "killed: it did not end"
    return said
