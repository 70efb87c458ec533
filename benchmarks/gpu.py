#!/usr/bin/env python
"""Check the layers on a GPU against the CPU, measure them there, and train on it.

python benchmarks/gpu.py
python benchmarks/gpu.py --device cpu

The results of every layer, forward and backward, hybridized or not, are compared with those of the
same layer in float64 on the CPU. The published heads take turns with the dense heads that they
replace. The configs are trained as `trnet train` does. All parts run on a CPU, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cases import CASES, MODES, Case
from timing import in_own_process, rows_of, take_turns

from trnet.errors import UserError
from trnet.tensor import cuda

BATCH = 4  # of the checks
SEED = 0
NOT_MEASURED = ("TRL 100", "TRL 150", "TCL AlexNet", "TCL AlexNet, dense")
HEADS = [case for case in CASES if case.name not in NOT_MEASURED]
CONFIGS = [Path("configs/mnist") / f"{name}.yaml" for name in ("vgg", "vgg_trl_8", "vgg_tcl_12")]


class Precision(NamedTuple):
    """A type to compute in, and how close it has to come.

    Attributes
    ----------
    dtype : str
    tolerance : float
        Largest error, as a share of the array's largest value.
    tf32 : bool
        Whether NVIDIA's libraries may round factors of a float32 product to TF32, with 10 bits.
    """

    dtype: str
    tolerance: float
    tf32: bool = False


PRECISIONS = {
    "float64": Precision("float64", 1e-10),
    "float32": Precision("float32", 1e-5),
    "float32 with TF32": Precision("float32", 3e-3, tf32=True),  # cuDNN's default
    "float16": Precision("float16", 1e-2),
}

# The constructor's arguments and the input's shape.
LAYERS = {
    "TCL, 1 mode": ({"rank": (3,)}, (6,)),
    "TCL, 2 modes": ({"rank": (3, 2)}, (5, 4)),
    "TCL, 3 modes": ({"rank": (3, 2, 2)}, (4, 5, 3)),
    "TCL, 4 modes": ({"rank": (3, 2, 2, 2)}, (3, 4, 2, 3)),
    "TCL, VGG-19": ({"rank": (384, 5, 5)}, (512, 7, 7)),
    "TRL, 1 mode": ({"units": 5, "rank": (3, 2)}, (6,)),
    "TRL, 3 modes": ({"units": 5, "rank": (3, 2, 2, 4)}, (4, 5, 3)),
    "TRL, 4 modes": ({"units": 5, "rank": (3, 2, 2, 2, 4)}, (3, 4, 2, 3)),
    "TRL, pooled": ({"units": 5, "rank": (3, 1, 1, 4), "pooled_modes": (2, 3)}, (4, 5, 3)),
    "TRL, ResNet-101": (
        {"units": 1000, "rank": (50, 1, 1, 50), "pooled_modes": (2, 3)},
        (2048, 7, 7),
    ),
    "TRL, CP": ({"units": 5, "rank": 4, "factorization": "cp"}, (4, 5, 3)),
    "TRL, CP, ResNet-101": ({"units": 1000, "rank": 212, "factorization": "cp"}, (2048, 7, 7)),
    "TRL, tensor train": (
        {"units": 5, "rank": (3, 5, 2), "factorization": "tensor_train"},
        (4, 5, 3),
    ),
    "TRL, tensor train, ResNet-101": (
        {"units": 1000, "rank": (254, 2, 125), "factorization": "tensor_train"},
        (2048, 7, 7),
    ),
}


def main() -> None:
    """Parse the arguments, run the parts, and write report.json and report.md."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--device", default="gpu:0", help="gpu:0, another GPU, or cpu")
    arguments.add_argument("--batches", type=int, nargs="+", default=(32, 128))
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--calls", type=int, default=20, help="per round")
    arguments.add_argument("--configs", type=Path, nargs="*", default=CONFIGS)
    arguments.add_argument("--epochs", type=int, help="instead of those of the configs")
    arguments.add_argument("--results", type=Path, default=Path("results/gpu"))
    options = arguments.parse_args()
    try:
        sys.exit(run(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run(options: argparse.Namespace) -> int:
    """Run the parts and write the report after each: 1 if a check failed, else 0."""
    report = in_own_process(describe, options.device)
    on_gpu = options.device.startswith("gpu")
    report["checks"] = []
    for name in PRECISIONS if on_gpu else ("float64", "float32", "float16"):
        os.environ["NVIDIA_TF32_OVERRIDE"] = "1" if PRECISIONS[name].tf32 else "0"
        report["checks"] += in_own_process(check, options.device, name)
        write(report, options.results)
    os.environ.pop("NVIDIA_TF32_OVERRIDE")
    dtypes = ("float32", "float16") if on_gpu else ("float32",)  # a CPU has no float16 products
    report["speed"] = []
    for case in HEADS:
        sizes = options.batches, dtypes, options.rounds, options.calls
        report["speed"] += in_own_process(measure, options.device, case, *sizes)
        write(report, options.results)
    report["training"] = []
    for path, dtype in product(options.configs, dtypes):
        report["training"].append(
            in_own_process(train, options.device, path, dtype, options.epochs)
        )
        write(report, options.results)
    failed = [row for row in report["checks"] if not row["error"] <= row["tolerance"]]
    for row in failed:
        print(f"failed: {row['layer']}, {row['precision']}: {row['what']}: {row['error']}")
    return 1 if failed else 0


def find_device(text: str):
    """The context that a name such as ``gpu:0`` or ``cpu`` means.

    Raises
    ------
    UserError
        Where MXNet cannot compute on it.
    """
    from trnet.training.devices import parse_devices

    return parse_devices(text)[0]


def describe(device: str) -> dict:
    """What computes: the device, the driver, and the versions."""
    from trnet import result

    context = find_device(device)
    described = {"device": result.processor([context]), "versions": result.versions()}
    if context.device_type == "gpu":
        gpu = cuda.gpus()[context.device_id]
        described["capability"] = ".".join(map(str, gpu.capability))
        described["driver"] = cuda.driver_version()
    return described


def check(device: str, precision: str) -> list[dict]:
    """Rows of a precision: the error of every array that a layer makes on the device."""
    context, tolerance = find_device(device), PRECISIONS[precision].tolerance
    dtype, rows = PRECISIONS[precision].dtype, []
    for name, (arguments, shape) in LAYERS.items():
        for comparisons in (compute, compute_hybridized, convert):
            np.random.seed(SEED)
            key = {"layer": name, "precision": precision}
            for what, got, expected in comparisons(arguments, shape, dtype, context):
                error = largest_error(got, expected, context)
                rows.append({**key, "what": what, "error": error, "tolerance": tolerance})
    worst = max(rows, key=lambda row: row["error"])
    print(f"{precision}: largest error {worst['error']:.1e}, {worst['layer']}, {worst['what']}")
    return rows


def largest_error(got, expected: np.ndarray, context) -> float:
    """Largest error for the array's scale; infinite for NaN, or an array on another device."""
    values = got.asnumpy().astype("float64")
    if got.context != context or values.shape != expected.shape or not np.isfinite(values).all():
        return float("inf")
    return float(np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-30))


Comparisons = Iterator[tuple]  # of str, what is compared; NDArray, got; and ndarray, expected


def compute(arguments: dict, shape: tuple, dtype: str, context, hybrid=False) -> Comparisons:
    """A layer's output and gradients, against its own in float64 on the CPU."""
    from trnet.tensor.backend import mx

    layer, reference = make_pair(arguments, shape, dtype, context)
    if hybrid:
        layer.hybridize(static_alloc=True, static_shape=True)
    x = rounded((BATCH, *shape), dtype)
    head = rounded((BATCH, *layer(mx.nd.array(x, context, dtype)).shape[1:]), dtype)
    got = gradients(layer, x, head, dtype, context)
    expected = gradients(reference, x, head, "float64", mx.cpu())
    name = " hybridized" if hybrid else ""
    for what, array in got.items():
        yield what + name, array, expected[what].asnumpy()


def compute_hybridized(*arguments) -> Comparisons:
    """As :func:`compute`, through a graph."""
    return compute(*arguments, hybrid=True)


def convert(arguments: dict, shape: tuple, dtype: str, context) -> Comparisons:
    """What layers start as and are converted to."""
    from trnet.tensor.backend import mx

    layer, reference = make_pair(arguments, shape, dtype, context)
    mx.random.seed(SEED)
    start = make(arguments, shape, dtype=dtype)
    start.initialize(mx.init.Xavier())
    for (name, value), other in zip(values(layer).items(), values(start).values()):
        yield f"start of {name}", value, other.asnumpy().astype("float64")
    x = rounded((BATCH, *shape), dtype)
    expected = reference(mx.nd.array(x, dtype="float64")).asnumpy()
    x = mx.nd.array(x, context, dtype)
    yield "folded", layer.folded()(x), expected
    if "units" in arguments:
        weight = reference.to_dense_weight()
        yield "to_dense_weight", layer.to_dense_weight(), weight.asnumpy()
    if dtype != "float16":
        through = make(arguments, shape, dtype=dtype, implementation="tensorly")
        through.initialize(ctx=context)
        copy_values(layer, through)
        yield "through TensorLy", through(x), expected


def make(arguments: dict, shape: tuple, **others):
    """A TRL where there are units, else a TCL with a bias."""
    from trnet import TCL, TRL

    if "units" in arguments:
        return TRL(in_shape=shape, bias_initializer="normal", **arguments, **others)
    return TCL(in_shape=shape, use_bias=True, bias_initializer="normal", **arguments, **others)


def make_pair(arguments: dict, shape: tuple, dtype: str, context) -> tuple:
    """A layer on the device, and the same in float64 on the CPU."""
    from trnet.tensor.backend import mx

    mx.random.seed(SEED)
    layer, reference = (make(arguments, shape, dtype=d) for d in (dtype, "float64"))
    layer.initialize(mx.init.Xavier(), ctx=context)
    reference.initialize(mx.init.Xavier())
    copy_values(layer, reference)
    return layer, reference


def values(layer) -> dict:
    """A layer's parameters by name, without its prefix."""
    named = layer.collect_params().items()
    return {name[len(layer.prefix) :]: p.data(p.list_ctx()[0]) for name, p in named}


def copy_values(source, target) -> None:
    """Give a layer another's values, on its own device and in its own type."""
    pairs = zip(target.collect_params().values(), values(source).values())
    for parameter, value in pairs:
        context = parameter.list_ctx()[0]
        parameter.set_data(value.as_in_context(context).astype(parameter.dtype))


def rounded(shape: tuple, dtype: str) -> np.ndarray:
    """Standard normal values that a type represents exactly, in float64."""
    return np.random.standard_normal(shape).astype(dtype).astype("float64")


def gradients(layer, x: np.ndarray, head: np.ndarray, dtype: str, context) -> dict:
    """A layer's output, and the gradients of ⟨output, head⟩ by the name of the array."""
    from trnet.tensor.backend import mx

    x, head = (mx.nd.array(values, context, dtype) for values in (x, head))
    x.attach_grad()
    with mx.autograd.record():
        out = layer(x)
    out.backward(head)
    arrays = {"data": x, **values(layer)}
    return {"output": out, **{f"gradient of {name}": a.grad for name, a in arrays.items()}}


def measure(
    device: str,
    case: Case,
    batches: Sequence[int],
    dtypes: Sequence[str],
    rounds: int,
    calls: int,
) -> list[dict]:
    """Rows of a case: the time of a call, ours first, then that of the dense head."""
    context, rows = find_device(device), []  # first, as trnet loads the libraries for mxnet

    from layers import heads

    from trnet.tensor.backend import mx

    for batch, dtype, mode in product(batches, dtypes, MODES):
        functions = {}
        for name, way in heads(case).items():
            way.head.cast(dtype)
            way.head.initialize(mx.init.Xavier(), ctx=context)
            way.head.hybridize(static_alloc=True, static_shape=True)
            x = mx.nd.random.normal(shape=(batch, *case.in_shape)).astype(dtype)
            functions[name] = repeat(way.head, x.as_in_context(context), mode, calls)
        seconds = take_turns(functions, rounds, budget=float("inf"))
        key = {"case": case.name, "batch": batch, "dtype": dtype, "mode": mode}
        found = [{**key, **row, "ms": round(row["ms"] / calls, 4)} for row in rows_of(seconds)]
        told = ", ".join(f"{row['what']} {row['ms']} ms" for row in found)
        print(f"{case.name}, batch {batch}, {dtype}, {mode}: {told}", flush=True)
        rows += found
    return rows


def repeat(network, x, mode: str, calls: int) -> Callable[[], None]:
    """Some calls of a network, one after the other without a wait, as in training."""
    from trnet.tensor.backend import mx

    x.attach_grad()
    head = mx.nd.ones_like(network(x))

    def forward() -> None:
        for _ in range(calls):
            network(x)
        mx.nd.waitall()

    def both() -> None:
        for _ in range(calls):
            with mx.autograd.record():
                out = network(x)
            out.backward(head)
        mx.nd.waitall()

    return forward if mode == MODES[0] else both


def train(device: str, path: Path, dtype: str, epochs: int | None) -> dict:
    """A row of a config: what it scores and how fast it trains."""
    from trnet import config, experiment

    overrides = [f"train.dtype={dtype}"] + ([f"train.epochs={epochs}"] if epochs else [])
    chosen = config.load(path, overrides)
    baseline = config.load_baseline(path, chosen)
    with tempfile.TemporaryDirectory() as runs:
        result = experiment.train(chosen, baseline, Path(runs), [find_device(device)], show=False)
    row = {"config": f"{chosen.suite}/{chosen.name}", "dtype": dtype, "epochs": result["epochs"]}
    row |= {key: result[key] for key in ("top1", "loss", "images_per_second", "wall_seconds")}
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def write(report: dict, folder: Path) -> None:
    """Write report.json and report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(layout(report), encoding="utf-8")


def layout(report: dict) -> str:
    """The report in Markdown: what computed, and a table per part."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"# {report['device']}", ""]
    if "driver" in report:
        lines += [f"Compute capability {report['capability']}, driver {report['driver']}.", ""]
    lines += [f"{versions}.", "", "## Checks", "", *table(summarize(report["checks"]))]
    if report.get("speed"):
        lines += ["", "## Speed", "", *table(compare(report["speed"]))]
    if report.get("training"):
        lines += ["", "## Training", "", *table(map(trained, report["training"]))]
    return "\n".join([*lines, ""])


def summarize(checks: Sequence[dict]) -> Iterator[dict]:
    """A row per layer and precision: how many arrays were compared, and the largest error."""
    for layer, precision in dict.fromkeys((row["layer"], row["precision"]) for row in checks):
        rows = [r for r in checks if (r["layer"], r["precision"]) == (layer, precision)]
        worst = max(rows, key=lambda row: row["error"])
        yield {
            "Layer": layer,
            "Precision": precision,
            "Arrays": len(rows),
            "Largest error": f"{worst['error']:.1e}",
            "of": worst["what"],
            "Allowed": f"{worst['tolerance']:.0e}",
        }


def compare(speed: Sequence[dict]) -> Iterator[dict]:
    """A row per measurement of ours, with the dense head of the same case beside it."""
    for ours in (row for row in speed if row["what"] == "ours"):
        key = ("case", "batch", "dtype", "mode")
        beside = [row for row in speed if all(row[k] == ours[k] for k in key)]
        dense = next((row for row in beside if row["what"] == "dense"), None)
        yield {
            "Head": ours["case"],
            "Batch": ours["batch"],
            "Type": ours["dtype"],
            "": ours["mode"],
            "ms": f"{ours['ms']:.3f}",
            "Dense head, ms": f"{dense['ms']:.3f}" if dense else "",
            "Ratio": f"{dense['ours/this']:.2f}" if dense else "",
        }


def trained(row: dict) -> dict:
    """A row of a training."""
    return {
        "Config": row["config"],
        "Type": row["dtype"],
        "Epochs": row["epochs"],
        "Top-1, %": f"{100 * row['top1']:.2f}",
        "Images per second": f"{row['images_per_second']:.0f}",
    }


def table(rows) -> list[str]:
    """Lines of a table in Markdown."""
    rows = list(rows)
    cells = [list(rows[0]), ["---"] * len(rows[0]), *([str(c) for c in r.values()] for r in rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


if __name__ == "__main__":
    main()
