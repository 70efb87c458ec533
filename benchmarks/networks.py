#!/usr/bin/env python
"""Measure a suite's networks on synthetic batches: images per second, and peak memory.

python benchmarks/networks.py configs/imagenet --batch 8

A baseline and the experiments that are measured against it take turns, step by step, in one
process; ratios are those of neighbouring turns. Peak memory is that of a separate process that
trains for two steps. The script writes throughput.md beside the suite's results, and
benchmark/networks.csv.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from timing import in_own_process, write_csv

from trnet import config
from trnet.config import Config
from trnet.threads import use_cores

WARM_UP = 3
LEAST = 20.0  # seconds of turns, so that fast networks take many
MEMORY_STEPS = 2
KIB = 1024


def main() -> None:
    """Parse the arguments, measure, and write throughput.md and networks.csv."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("suite", type=Path)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument(
        "--also", nargs=2, default=(), metavar=("BASELINE", "BATCH"), help="one at another batch"
    )
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--results", type=Path, default=Path("results"))
    options = arguments.parse_args()
    use_cores()
    configs = config.load_suite(options.suite)
    baselines = [(c, options.batch) for c in configs if c.baseline is None]
    if options.also:
        name, batch = options.also
        baselines += [(c, int(batch)) for c, _ in baselines if c.name == name]
    rows = []
    for baseline, batch in baselines:
        group = [baseline, *(c for c in configs if c.baseline == baseline.name)]
        seconds = in_own_process(take_turns, group, batch, options.rounds)
        memory = [in_own_process(peak_memory, c, batch) for c in group]
        rows += summarize(group, batch, seconds, memory)
        print(f"measured {', '.join(c.name for c in group)} at batch {batch}", flush=True)
    also = f" --also {' '.join(options.also)}" if options.also else ""
    command = (
        f"python benchmarks/networks.py {options.suite} --batch {options.batch}{also} "
        f"--rounds {options.rounds}"
    )
    path = options.results / configs[0].suite / "throughput.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(rows, command, options), encoding="utf-8")
    rounded = [
        {
            key: float(f"{cell:.4g}") if isinstance(cell, float) else cell
            for key, cell in row.items()
        }
        for row in rows
    ]
    write_csv(options.results / "benchmark" / "networks.csv", rounded)
    print(f"Written to {path}")


def take_turns(configs: Sequence[Config], batch: int, rounds: int) -> list[dict]:
    """Seconds of training steps and of forwards, one list per config, measured turn by turn."""
    from trnet.tensor.backend import mx

    steps = [make_steps(c, batch) for c in configs]
    seconds = [{"train": [], "forward": []} for _ in configs]
    # One kind after the other: at each change a static graph allocates its memory again.
    for kind in ("train", "forward"):
        turn, begun = 0, time.perf_counter()
        while turn < WARM_UP + rounds or time.perf_counter() - begun < LEAST:
            for of_one, into in zip(steps, seconds):
                begin = time.perf_counter()
                of_one[kind]()
                mx.nd.waitall()
                if turn >= WARM_UP:
                    into[kind].append(time.perf_counter() - begin)
            turn += 1
    return seconds


def make_steps(chosen: Config, batch: int) -> dict[str, Callable]:
    """A training step and a forward of an experiment, on one synthetic batch."""
    from trnet import experiment
    from trnet.tensor.backend import mx
    from trnet.training import loop
    from trnet.training.devices import Compute
    from trnet.training.progress import Progress
    from trnet.training.saving import nothing

    compute, recipe = Compute([mx.cpu()]), chosen.train
    dataset = experiment.find_dataset(chosen)
    network = experiment.build(chosen, dataset)
    loop.initialize(network, dataset.shape, chosen.seed, compute)
    network.hybridize(static_alloc=True, static_shape=True)
    trainer = loop.make_trainer(network, recipe)
    loss = loop.make_loss(recipe.label_smoothing, dataset.classes)
    images = mx.nd.random.normal(shape=(batch, *dataset.shape))
    labels = mx.nd.array(np.arange(batch) % dataset.classes)

    progress = Progress("", 1, batch, show=False)

    def train() -> None:
        one = [(images, labels)]
        loop.train_epoch(
            network, trainer, loss, one, [1e-4], batch, compute, progress, recipe, nothing()
        )

    return {"train": train, "forward": lambda: network(images)}


def peak_memory(chosen: Config, batch: int) -> float:
    """Peak memory, in MiB, of a process that trains for a few steps."""
    from trnet.tensor.backend import mx

    step = make_steps(chosen, batch)["train"]
    for _ in range(MEMORY_STEPS):
        step()
        mx.nd.waitall()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB


def report(rows: Sequence[dict], command: str, options) -> str:
    """Format the measurements in Markdown."""
    import tabulate

    from trnet import result
    from trnet.tensor.backend import mx

    networks = [
        {
            "Experiment": row["experiment"],
            "Batch": row["batch"],
            "Training, images/s": f"{row['train images/s']:.3g}",
            "Training, × baseline": against(row, "train"),
            "Inference, images/s": f"{row['forward images/s']:.3g}",
            "Inference, × baseline": against(row, "forward"),
            "Peak memory, MiB": f"{row['memory MiB']:.0f}",
            "Memory, × baseline": f"{row['memory, × baseline']:.2f}",
        }
        for row in rows
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions().items())
    return "\n\n".join(
        [
            f"# {options.suite.name}: throughput on this machine",
            tabulate.tabulate(networks, headers="keys", tablefmt="pipe", disable_numparse=True),
            f"Synthetic batches, float32, medians of {options.rounds} turns or more; × baseline is "
            "the median ratio of images a second in neighbouring turns, with quartiles in "
            "brackets: a range that holds 1 shows no difference on this shared machine. Inference "
            "is a hybridized forward. Peak memory is that of "
            f"a process that trains for {MEMORY_STEPS} steps, with Python and MXNet.",
            f"Measured by `{command}` on {result.processor([mx.cpu()])}; {versions}.\n",
        ]
    )


def summarize(
    group: Sequence[Config], batch: int, seconds: Sequence[dict], memory: Sequence[float]
) -> list[dict]:
    """One row per experiment of a group, whose first is the baseline."""
    rows = []
    for c, taken, peak in zip(group, seconds, memory):
        row = {"experiment": c.name, "batch": batch}
        for kind, spent in taken.items():
            ratios = [base / own for base, own in zip(seconds[0][kind], spent)]
            row[f"{kind} images/s"] = batch / median(spent)
            row[f"{kind}, × baseline"] = median(ratios)
            row[f"{kind}, quartile 1"], row[f"{kind}, quartile 3"] = np.quantile(
                ratios, [0.25, 0.75]
            )
            row[f"{kind}, turns"] = len(spent)
        rows.append({**row, "memory MiB": peak, "memory, × baseline": peak / memory[0]})
    return rows


def against(row: dict, kind: str) -> str:
    """Speed as a multiple of the baseline's, by neighbouring turns."""
    low, high = row[f"{kind}, quartile 1"], row[f"{kind}, quartile 3"]
    return f"{row[f'{kind}, × baseline']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
