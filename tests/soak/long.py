"""A long training of short epochs, with checkpoints and evaluations: what grows, and what slows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from soak.experiment import run_folder, write_config
from trnet.data.prepare import prepare

_PARTS = 6  # of the time, whose medians are compared
_WARM_UP = 0.05  # of the time, in which caches and pools fill
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Long:
    """What a long training showed in equal parts of its time.

    Attributes
    ----------
    form : str
        Where its images are from.
    epochs : int
    seconds, memory, files, threads : list of float
        Seconds of a processor per epoch, whatever else the machine does, and the medians of the
        MiB, open files and threads, by part.
    """

    form: str
    epochs: int
    seconds: list[float]
    memory: list[float]
    files: list[float]
    threads: list[float]

    @property
    def wrong(self) -> list[str]:
        """What grew: none of it may."""
        grown = {
            "the time per epoch": self.seconds[-1] > 1.15 * self.seconds[1],
            "memory": self.memory[-1] > 1.1 * self.memory[1],
            "open files": self.files[-1] > self.files[0] + 2,
            "threads": self.threads[-1] > self.threads[0],
        }
        return [f"from {self.form}: {name} grew" for name, has_grown in grown.items() if has_grown]


def train(folder: Path, form: str, minutes: float) -> Long:
    """Train for some minutes, from arrays or from records, and watch the process."""
    arguments = ["train", write_config(folder), "--runs", folder / form, "--devices", "cpu"]
    arguments += ["--set", "train.epochs=1000000", "--set", "train.checkpoint_minutes=10"]
    if form == "records":
        _write_records(folder / "data")
        data = f"{{name: imagenet, classes: 2, size: 28, root: {folder / 'data'}}}"
        model = "{backbone: small_alexnet, head: {type: trl, rank: [4, 2, 2, 2]}}"
        arguments += ["--set", f"dataset={data}", "--set", f"model={model}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trnet", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (_ROOT, _ROOT / "tests")))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics, watched = run_folder(folder / form) / "metrics.jsonl", psutil.Process(process.pid)
    seen, lines = [], 0
    try:
        while not metrics.exists():
            assert process.poll() is None, f"the training from {form} ended"
            time.sleep(0.05)
        deadline = time.monotonic() + 60 * minutes
        with metrics.open() as file:
            while time.monotonic() < deadline and process.poll() is None:
                lines += sum(1 for line in file if line.endswith("\n"))
                with watched.oneshot():
                    times, memory = watched.cpu_times(), watched.memory_info().rss / 2**20
                    counts = watched.num_fds(), watched.num_threads()
                seen.append((times.user + times.system, lines, memory, *counts))
                time.sleep(min(1.0, minutes))
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    return _summary(form, np.array(seen))


def _summary(form: str, seen: np.ndarray) -> Long:
    kept = seen[int(_WARM_UP * len(seen)) :]
    parts = np.array_split(kept, _PARTS)
    seconds = [float(np.ptp(part[:, 0]) / max(1.0, np.ptp(part[:, 1]))) for part in parts]
    memory, files, threads = (
        [float(np.median(part[:, column])) for part in parts] for column in (2, 3, 4)
    )
    return Long(form, int(seen[-1, 1]), seconds, memory, files, threads)


def _write_records(data: Path) -> None:
    rng = np.random.default_rng(0)
    for part, n in (("train", 40), ("val", 20)):
        for i in range(n):
            path = data / "images" / part / f"n{i % 2}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (40, 50, 3)).astype("uint8")
            Image.fromarray(pixels).save(path)
        prepare(data / "images" / part, data / part, show=False)
