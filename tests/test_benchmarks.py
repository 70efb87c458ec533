"""The benchmarks: that they measure what they say, and that the tables are the measurements."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from legible import check_legible

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "benchmark"


KERNELS = """
import ctypes
from pathlib import Path
import trnet
import mxnet as mx
mx.nd.FullyConnected(mx.nd.ones((2, 2)), mx.nd.ones((2, 2)), num_hidden=2, no_bias=True).asnumpy()
library = ctypes.CDLL(str(Path(mx.__file__).with_name("libopenblas.so.0")))
library.openblas_get_corename.restype = ctypes.c_char_p
print(library.openblas_get_corename().decode())
"""
MODULES = ("cases", "layers", "regression", "report", "stability", "timing")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Their modules by their names, of which the tests have some too."""
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_turns_are_taken_in_order_and_slow_ones_sit_out():
    import timing

    calls = []
    seconds = timing.take_turns(
        {"quick": lambda: calls.append("quick"), "slow": lambda: calls.append("slow")},
        rounds=3,
        budget=0.0,
        before=lambda: calls.append("before"),
    )
    assert calls[:4] == ["before", "quick", "before", "slow"]
    assert {name: len(taken) for name, taken in seconds.items()} == {"quick": 2, "slow": 2}
    seconds = timing.take_turns({"quick": lambda: None}, rounds=3, budget=1.0)
    assert len(seconds["quick"]) == 3


def test_ratios_are_of_medians_with_quartiles_by_turn():
    import timing

    ours, other = timing.rows_of({"ours": [1.0, 2.0, 9.0], "other": [4.0, 4.0, 4.0]})
    assert (ours["ours/this"], ours["ms"], ours["turns"]) == (1.0, 2000.0, 3)
    assert (other["ours/this"], other["quartile 1"], other["quartile 3"]) == (0.5, 0.375, 1.38)


@pytest.mark.parametrize("mode", ["forward", "forward and backward"])
@pytest.mark.parametrize(
    "place, ways", [("in a network", ["ours", "dense", "TensorLy"]), ("alone", ["ours", "dense"])]
)
def test_a_case_is_measured_after_a_backbone_and_alone(mode, place, ways):
    """Each implementation has its time and the same roofline, and the backbone is none of them."""
    import layers
    from cases import Case

    case = Case("TRL 3", "TRL", (8, 3, 3), (3, 1, 1, 3), 5, 5)
    measured = layers.measure(case, 2, place, rounds=2, budget=1.0, process=1)
    rows = layers.summarize(layers.key_of(case, 2, mode, place, "AVX2"), [measured[mode]])
    assert [row["what"] for row in rows] == ways
    assert {row["roofline ms"] for row in rows} == {rows[0]["roofline ms"]}
    assert all(row["turns"] == 2 and row["machine"] for row in rows)


def test_a_function_without_anything_before_it_is_its_own_warm_up():
    import timing

    calls = []
    seconds = timing.take_turns({"one": lambda: calls.append(1)}, 3, budget=9.0, before=None)
    assert len(seconds["one"]) == 3 and len(calls) == 2 * (3 + timing.WARM_UP)


def test_limits_of_instructions_take_hold():
    """As oneDNN says itself, and MXNet's OpenBLAS."""
    import timing

    own, *others = timing.instruction_sets()
    assert own in ("AVX-512", "AVX2") and others in ([], ["AVX2"])
    for instructions in (own, *others):
        with timing.limited(instructions), mock.patch.dict(os.environ, {"DNNL_VERBOSE": "1"}):
            done = subprocess.run(
                [sys.executable, "-c", KERNELS], capture_output=True, text=True, check=True
            )
        (isa,) = re.findall(r"cpu,isa:.*", done.stdout)
        assert ("AVX-512" in isa) == (instructions == "AVX-512") and "AVX" in isa
        assert done.stdout.splitlines()[-1] == "Haswell"


def test_memory_is_that_of_forward_and_backward():
    """Of a dense layer that makes 64 MiB of a batch: its output and a few gradients of it."""
    import layers
    from cases import Case

    case = Case("TCL 1, dense", "TCL", (4, 2, 2), (1, 1, 1), 2**16, 2**16)
    ours, dense = layers.measure_memory(case, 256)
    assert [ours["what"], dense["what"]] == ["ours", "dense"]
    assert 60 < ours["MiB"] < 300 and 60 < dense["MiB"] < 300


def test_the_ways_of_a_case_compute_the_same():
    """Ours and TensorLy's projection, given the same parameters."""
    import layers
    import mxnet as mx
    import numpy as np
    from cases import Case

    case = Case("TRL 3", "TRL", (8, 3, 3), (3, 2, 2, 3), 5, 5)
    found = layers.ways(case)
    x = mx.nd.random.normal(shape=(4, *case.in_shape))
    ours, theirs = found["ours"], found["TensorLy"]
    ours.initialize()
    rebuilding = found["TensorLy, full weight"].__self__
    pairs = zip(ours.collect_params().values(), rebuilding.collect_params().values())
    for parameter, held in pairs:
        parameter.set_data(held.data())
    expected = rebuilding(x).asnumpy()
    for out in (ours(x[:1], x[1:]), theirs(x)):
        np.testing.assert_allclose(out.asnumpy(), expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("folder, n_measured", [(".", 80), ("amd_epyc", 20)])
def test_the_table_is_that_of_the_measurements(folder, n_measured):
    import report

    names = ("layers", "peers", "memory")
    folder = RESULTS / folder
    layers, peers, memory = (report.read_csv(folder / f"{name}.csv") for name in names)
    table = report.table(layers, peers, memory)
    assert (folder / "table.md").read_text(encoding="utf-8") == table
    first = {name: layers[0][name] for name in ("place", "instructions")}
    assert len(report.select(layers, what="ours", **first)) == n_measured
    settings = {(row["place"], row["instructions"]) for row in layers}
    assert settings == {(p, i) for p in ("in a network", "alone") for i in ("AVX-512", "AVX2")}


def test_the_table_of_the_regression_is_that_of_its_measurements():
    import regression
    import report

    def squeezed(text):  # tabulate's padding is a global of what was imported
        return re.sub(r"([ -])\1+", r"\1", text)

    folder = RESULTS.parent / "regression"
    made = regression.table(report.read_csv(folder / "regression.csv"))
    assert squeezed((folder / "table.md").read_text(encoding="utf-8")) == squeezed(made)


def test_figures_are_legible(figures, tmp_path):
    import regression
    import report
    import stability
    from matplotlib import pyplot as plt

    layers, growth = (report.read_csv(RESULTS / f"{name}.csv") for name in ("layers", "growth"))
    report.plot(layers, growth, tmp_path / "growth.png")
    folder = RESULTS.parent / "regression"
    regression.plot_rmse(report.read_csv(folder / "regression.csv"), tmp_path / "rmse.png")
    regression.plot_weights(report.read_csv(folder / "weights.csv"), tmp_path / "weights.png")
    failed = {
        label: stability.top1s(report.read_csv(RESULTS.parent / f"stability/{label}.csv"))
        for label in stability.LABELS
    }
    with plt.rc_context():
        stability.plot(failed, tmp_path / "failures.png")
    for figure in figures:
        check_legible(figure)
