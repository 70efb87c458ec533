#!/usr/bin/env python
"""Measure trained networks as they ship: bytes on disk, Top-1, and latency, before and after.

python benchmarks/deployed.py runs/mnist/vgg/seed0 runs/compressed/mnist/vgg/trl_4_4_3_9/seed0

The first run is the network before its compression. All are exported to ONNX, folded, and timed in
ONNX Runtime, in MXNet and in MXNet with 8-bit integers, calibrated on training images, at batches
of 1 and 32. Networks and engines take turns; times are medians, of all cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tabulate
from layers import machine
from timing import in_own_process, ratio, take_turns, write_csv

ENGINES = ("ONNX Runtime", "MXNet", "MXNet, int8")
BATCHES = (1, 32)
CALIBRATED, ROUNDS, BUDGET = 500, 300, 20.0


def main() -> None:
    """Parse the arguments, measure, and write deployed.csv and deployed.md."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("runs", type=Path, nargs="+", help="run folders")
    arguments.add_argument("--results", type=Path, default=Path("results/compression"))
    options = arguments.parse_args()
    rows = in_own_process(measure, options.runs)
    options.results.mkdir(parents=True, exist_ok=True)
    write_csv(options.results / "deployed.csv", rows)
    (options.results / "deployed.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def measure(runs: list[Path]) -> list[dict]:
    """A row per run, engine and batch."""
    ready = {(run, engine): found for run in runs for engine, found in zip(ENGINES, _engines(run))}
    rows = []
    for batch in BATCHES:
        calls = {key: make_call(batch) for key, (make_call, _, _) in ready.items()}
        seconds = take_turns(calls, ROUNDS, BUDGET)
        for (run, engine), taken in seconds.items():
            _, n_bytes, top1 = ready[run, engine]
            rows.append(
                {
                    "network": "/".join(run.parts[-3:-1]),
                    "seed": run.name.removeprefix("seed"),
                    "engine": engine,
                    "batch": batch,
                    "bytes": n_bytes,
                    "top1": round(top1, 4),
                    "ms": round(1e3 * float(np.median(taken)), 4),
                    "of the first": round(ratio(taken, seconds[runs[0], engine])[0], 3),
                    "machine": machine(),
                }
            )
    return rows


def _engines(run: Path) -> Iterator[tuple[Callable[[int], Callable[[], None]], int, float]]:
    """For each engine: what makes a call for a batch, the bytes on disk, and Top-1."""
    from mxnet.contrib.quantization import quantize_net

    from trnet import config, experiment, fold, inference
    from trnet.export import load_exported
    from trnet.tensor.backend import mx
    from trnet.training import checkpoint

    chosen = config.load(run / "config.yaml")
    dataset = experiment.find_dataset(chosen)
    source = experiment.load(chosen, dataset)
    validation = list(source.validation(100))
    images = np.concatenate([batch.asnumpy() for batch, _ in validation])
    labels = np.concatenate([batch.asnumpy() for _, batch in validation])

    def top1(network: Callable) -> float:
        parts = np.array_split(images, max(1, len(images) // 100))
        scores = [network(mx.nd.array(part)).asnumpy() for part in parts]
        return float((np.concatenate(scores).argmax(axis=1) == labels).mean())

    with tempfile.TemporaryDirectory() as folder:
        file = inference.export(run, "latest", "onnx", True, Path(folder) / "net.onnx")
        session, _ = load_exported(file)
        yield onnx_call(file, images), file.stat().st_size, top1(session)
        network = experiment.build(chosen, dataset)
        last = checkpoint.latest(run / "checkpoints")
        checkpoint.load_network(last, network, [mx.cpu()])
        folded = fold(network)
        for kind in ENGINES[1:]:
            ready = folded
            if kind != "MXNet":
                seen = [batch for batch, _ in source.train(100, (0, 0))][: CALIBRATED // 100]
                data = mx.io.NDArrayIter(mx.nd.concat(*seen, dim=0), batch_size=100)
                ready = quantize_net(
                    folded, quantized_dtype="auto", calib_data=data, calib_mode="naive"
                )
            ready.hybridize(static_alloc=True, static_shape=True)
            found = top1(ready)
            ready.export(str(Path(folder) / "net"))
            n_bytes = sum(path.stat().st_size for path in Path(folder).glob("net-*"))
            yield _mxnet_call(ready, images), n_bytes, found


def onnx_call(file: Path, images: np.ndarray) -> Callable[[int], Callable[[], None]]:
    """From a batch to a call that computes an exported network for so many of the images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes())
    name = session.get_inputs()[0].name
    return lambda batch: lambda: session.run(None, {name: images[:batch]})


def _mxnet_call(network, images: np.ndarray) -> Callable[[int], Callable[[], None]]:
    from trnet.tensor.backend import mx

    return lambda batch: lambda: network(mx.nd.array(images[:batch])).wait_to_read()


def table(rows: list[dict]) -> str:
    """A row per network and engine, with the latencies of both batches."""
    lines = []
    for network, engine in dict.fromkeys((row["network"], row["engine"]) for row in rows):
        of = [row for row in rows if (row["network"], row["engine"]) == (network, engine)]
        times = [f"{row['ms']:.3g} ({row['of the first']:.2f})" for row in of]
        size, top1 = f"{of[0]['bytes'] / 1000:.0f}", f"{100 * of[0]['top1']:.2f}"
        lines.append([network, engine, size, top1, *times])
    heading = ["Network", "Engine", "kB on disk", "Top-1, %", *(f"batch {b}, ms" for b in BATCHES)]
    align = ["left", "left", "right", "right", *["right"] * len(BATCHES)]
    laid_out = tabulate.tabulate(lines, heading, "pipe", colalign=align, disable_numparse=True)
    return (
        "# Networks as they ship\n\n"
        "By `python benchmarks/deployed.py`, which says how. In brackets: the time, of the first\n"
        f"network's in the same engine. {rows[0]['machine']}.\n\n{laid_out}\n"
    )


if __name__ == "__main__":
    main()
