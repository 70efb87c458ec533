"""Output that cannot be written: trainings go on, and commands that only print say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TRAIN = (
    f"{sys.executable} {ROOT}/scripts/train.py {ROOT}/configs/mnist/vgg_trl_8.yaml "
    "--set train.epochs=3 --set dataset.samples=100 --runs {runs}"
)
TABULATE = f"{sys.executable} {ROOT}/scripts/tabulate.py {ROOT}/configs/mnist"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash", "-o", "pipefail", "-c", line]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "redirected",
    ["2>&1 | head -1", "2>/dev/full", "2>&-", ">&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "<&-"],
)
def test_a_training_ends_with_its_result_whatever_becomes_of_its_output(redirected, tmp_path):
    done = shell(f"{TRAIN.format(runs=tmp_path)} {redirected}")
    assert done.returncode == 0 and "Traceback" not in done.stderr + done.stdout
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["epochs"] == 3
    (config,) = tmp_path.rglob("config.yaml")
    assert "epochs: 3" in config.read_text()  # and no message of another stream


def test_a_table_that_cannot_be_written_is_an_error():
    done = shell(f"{TABULATE} >/dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"


def test_a_reader_who_leaves_is_no_error():
    done = shell(f"{TABULATE} | head -1")
    assert done.returncode == 0 and done.stdout.startswith("Experiment") and done.stderr == ""


def test_an_ascii_terminal_gets_escapes():
    done = shell(TABULATE, PYTHONIOENCODING="ascii:strict", LC_ALL="C")
    assert done.returncode == 0 and "\\xb1" in done.stdout and done.stderr == ""


def test_a_mistake_that_nobody_hears_still_has_its_exit_code():
    assert shell(f"{TABULATE}/nothing 2>/dev/full").returncode == 2
    assert shell(f"{TABULATE}/nothing 2>&-").returncode == 2
