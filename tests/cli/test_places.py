"""Places and surroundings of all kinds: a command works there, or says in one line why not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "configs/mnist/vgg_trl_8.yaml"
SHORT = ["--set", "train.epochs=1", "--set", "dataset.samples=100", "--devices", "cpu"]


def trnet(*arguments: object, python: tuple = (), cwd=None, **variables: str):
    return subprocess.run(
        [sys.executable, *python, "-m", "trnet", *map(os.fsencode, map(str, arguments))],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        cwd=cwd,
    )


@pytest.mark.parametrize("name", ["runs 😀", "new\nline", "-dash", "a'b\"c"])
def test_run_folders_of_any_name(name, tmp_path):
    runs = tmp_path / name
    done = trnet("train", CONFIG, *SHORT, "--runs", runs)
    assert done.returncode == 0, done.stderr
    folder = runs / "mnist/vgg_trl_8/seed0"
    again = trnet("evaluate", folder, "--devices", "cpu", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert again.returncode == 0 and b"Top-1" in again.stdout and again.stderr == b""


def test_a_name_of_no_utf8_is_refused(tmp_path):
    done = trnet("train", CONFIG, *SHORT, "--runs", f"{tmp_path}/bad\udcff")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: expected arguments in UTF-8") and b"udcff" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", ["abc", "-3", "0", "", "99999999999"])
def test_a_number_of_threads_that_is_none(threads, tmp_path):
    done = trnet("train", CONFIG, *SHORT, "--runs", tmp_path, OMP_NUM_THREADS=threads)
    said = f"error: OMP_NUM_THREADS: expected a number of threads ≥ 1, got {threads!r}\n"
    assert (done.returncode, done.stderr.decode()) == (2, said)


def test_python_without_docstrings(tmp_path):
    assert trnet("train", CONFIG, *SHORT, "--runs", tmp_path, python=("-O",)).returncode == 0
    assert trnet("--help", python=("-OO",)).returncode == 0
    done = trnet("train", CONFIG, *SHORT, "--runs", tmp_path, python=("-OO",))
    said = "error: MXNet needs docstrings, which python -OO leaves out; use python -O\n"
    assert (done.returncode, done.stderr.decode()) == (2, said)


def test_a_working_directory_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {sys.executable} -m trnet tabulate {ROOT}/configs/mnist"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=gone,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: the working directory is no longer there"


def test_memory_that_does_not_suffice(tmp_path):
    big = "dataset={name: synthetic, size: 224, classes: 1000}"
    settings = ["model={backbone: vgg16, head: {type: dense}}", big, "train.batch_size=64"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "trnet", "train", str(CONFIG), *arguments]
    command += ["--devices", "cpu", "--runs", str(tmp_path)]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "bash", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: MXNet failed: Failed to allocate CPU Memory")
