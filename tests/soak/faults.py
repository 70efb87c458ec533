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
        _wait_for_an_epoch(bench, processes)
        processes[victim].send_signal(fault)
        begun = time.monotonic()
        others = {name: process for name, process in processes.items() if name != victim}
        lines = _finish(others)
        seconds = time.monotonic() - begun
        processes[victim].kill()
        processes[victim].communicate()
        wrong = [name for name, said in lines.items() if said.count("error: ") != 1]
        if seconds > _MINUTE or wrong:
            tally.count("not ended", f"{what}: {seconds:.0f} s, no line from {wrong}")
        ended = _finish(_start(bench, "faulty"))
        other = differences(outcome(bench.folder / "faulty"), expected)
        if other:
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


def _wait_for_an_epoch(bench: Bench, processes: dict[str, subprocess.Popen]) -> None:
    metrics = run_folder(bench.folder / "faulty") / "metrics.jsonl"
    while not metrics.exists():
        assert all(process.poll() is None for process in processes.values())
        time.sleep(0.005)


def _finish(processes: dict[str, subprocess.Popen]) -> dict[str, str]:
    try:
        return {name: p.communicate(timeout=3 * _MINUTE)[1] for name, p in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
