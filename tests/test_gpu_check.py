"""The check on a GPU: up to the line that says what is missing, and its parts on the CPU."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from trnet.tensor import cuda

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "gpu"
MODULES = ("cases", "gpu", "layers", "timing")


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark's module, and those beside it, of which the tests have some names too."""
    held = {name: sys.modules.pop(name, None) for name in MODULES}
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    import gpu

    monkeypatch.setattr(gpu, "in_own_process", lambda function, *rest: function(*rest))
    yield gpu
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update({name: module for name, module in held.items() if module is not None})


@pytest.mark.skipif(cuda.gpus() != [], reason="it would run on the GPU")
def test_make_stops_with_one_line_where_there_is_no_driver():
    done = subprocess.run(
        ["make", "--silent", "gpu-check", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    first, *rest = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert first == "error: no NVIDIA driver (libcuda.so.1) on this machine"
    assert all(line.startswith("make") for line in rest)


@pytest.mark.parametrize("precision", ["float64", "float32", "float16"])
def test_layers_are_compared(gpu, precision, monkeypatch):
    names = [name for name in gpu.LAYERS if "modes" in name or name.endswith(("CP", "train"))]
    monkeypatch.setattr(gpu, "LAYERS", {name: gpu.LAYERS[name] for name in names})
    rows = gpu.check("cpu", precision)
    assert {row["layer"] for row in rows} == set(names) and len(names) == 7
    compared = {row["what"] for row in rows if row["layer"] == "TRL, 3 modes"}
    expected = {"output", "gradient of data", "gradient of core hybridized", "start of bias"}
    assert expected | {"folded", "to_dense_weight"} <= compared
    assert ("through TensorLy" in compared) == (precision != "float16")
    assert all(row["error"] <= row["tolerance"] for row in rows)
    assert any(row["error"] > 0 for row in rows)


def test_an_error_is_that_of_the_worst_element(gpu):
    got = mx.nd.array([1.0, -4.0, 2.5])
    assert gpu.largest_error(got, np.array([1.0, -4.0, 2.0]), mx.cpu()) == 0.125
    assert gpu.largest_error(got, np.array([1.0, -4.0, 2.0]), mx.cpu(1)) == float("inf")
    assert gpu.largest_error(got / 0 * 0, np.ones(3), mx.cpu()) == float("inf")


def test_the_parts_run_on_a_cpu(gpu, monkeypatch, tmp_path):
    from cases import Case

    layer = {"TCL": ({"rank": (2, 2)}, (4, 3))}
    monkeypatch.setattr(gpu, "LAYERS", layer)
    monkeypatch.setattr(gpu, "HEADS", [Case("TRL 3", "TRL", (8, 3, 3), (3, 1, 1, 3), 5, 5)])
    options = argparse.Namespace(
        device="cpu",
        batches=(2, 3),
        rounds=2,
        calls=2,
        configs=[Path("configs/mnist/vgg_trl_8.yaml")],
        epochs=2,
        results=tmp_path,
    )
    assert gpu.run(options) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["speed"]) == 2 * 2 * 2  # batches, modes, heads
    assert report["training"][0]["top1"] > 0.5 and report["versions"]["mxnet"] == mx.__version__
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == gpu.layout(report)
    monkeypatch.setattr(gpu, "HEADS", [])
    options.configs = []
    monkeypatch.setattr(gpu, "largest_error", lambda *compared: float("nan"))
    assert gpu.run(options) == 1


def test_the_report_is_that_of_the_measurements(gpu):
    report = json.loads((RESULTS / "report.json").read_text(encoding="utf-8"))
    assert (RESULTS / "report.md").read_text(encoding="utf-8") == gpu.layout(report)
    assert {row["precision"] for row in report["checks"]} == set(gpu.PRECISIONS)
    assert all(row["error"] <= row["tolerance"] for row in report["checks"])
    assert all(report[key] for key in ("device", "capability", "driver", "speed", "training"))
