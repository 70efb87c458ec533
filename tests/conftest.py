"""What all tests share; helpers import by their folder, as this one is on `sys.path`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

settings.register_profile("trnet", deadline=None, max_examples=40)
settings.load_profile("trnet")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same seeds; MXNet is seeded where a test has imported it."""
    np.random.seed(0)
    os.environ.pop("TRNET_COMMAND", None)  # of a command that ran in this process
    if "mxnet" in sys.modules:
        sys.modules["mxnet"].random.seed(0)


@pytest.fixture(scope="session")
def run_python() -> Callable[[str], str]:
    """Run a script in a fresh process: its output, or the failure that it ended with."""

    def run(script: str) -> str:
        paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", dedent(script)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """A copy of results/, without models and pictures: a suite notes there what it counts."""
    heavy = shutil.ignore_patterns("*.onnx", "*.params", "*.png")
    copied = tmp_path_factory.mktemp("copied") / "results"
    return shutil.copytree(TESTS.parent / "results", copied, ignore=heavy)


@pytest.fixture
def tabulated(run_python, results, tmp_path) -> Callable[[str], str]:
    """What scripts/tabulate.py prints of a suite of ours with no run, which takes no MXNet."""

    def tabulate(suite: str) -> str:
        root = TESTS.parent
        script, configs = root / "scripts/tabulate.py", root / "configs"
        arguments = [script, configs / suite, "--runs", tmp_path, "--results", results]
        return run_python(
            f"""
            import runpy, sys
            sys.argv = {[str(argument) for argument in arguments]!r}
            runpy.run_path(sys.argv[0], run_name="__main__")
            assert not {{"mxnet", "matplotlib"}} & set(sys.modules)
            """
        )

    return tabulate


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """Call what has to end with a ValueError, in one line that says all of ``said``: that line."""

    def call(function: Callable[[], object], *said: str) -> str:
        with pytest.raises(ValueError) as caught:
            function()
        message = str(caught.value)
        assert "\n" not in message and [words for words in said if words not in message] == []
        return message

    return call


@pytest.fixture
def figures(monkeypatch) -> Iterator[list]:
    """The figures that a test draws, in order."""
    from matplotlib import pyplot as plt

    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    yield drawn
    monkeypatch.undo()
    for figure in drawn:
        plt.close(figure)
