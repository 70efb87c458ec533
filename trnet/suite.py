"""A suite: every experiment of a folder of configs, trained, tabulated and plotted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from trnet.config import Config
from trnet.files import write_aside
from trnet.report import summary, table
from trnet.report.summary import Row


def head_weights(configs: Sequence[Config], results: Path) -> dict[str, int]:
    """Weights in each experiment's head, by walking its network.

    Counting needs MXNet, which takes seconds to import; so what was counted is noted in
    ``results/<suite>/parameters.json``, under the hash of what decides it.
    """
    path = results / configs[0].suite / "parameters.json"
    noted = json.loads(path.read_text()) if path.is_file() else {}
    missing = [c for c in configs if noted.get(c.name, {}).get("model_hash") != c.model_hash]
    if missing:
        from trnet import experiment

        for config in missing:
            count = experiment.count(config)
            noted[config.name] = {"model_hash": config.model_hash, **vars(count)}
        noted = {config.name: noted[config.name] for config in configs}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, json.dumps(noted, indent=2) + "\n")
    return {config.name: noted[config.name]["weights"] for config in configs}


def rows(configs: Sequence[Config], runs: Path, results: Path) -> list[Row]:
    """A suite's rows: published, computed, and measured as far as there are runs."""
    suite = configs[0].suite
    return summary.summarise(
        configs,
        head_weights(configs, results),
        summary.read_runs(runs, results, suite),
        summary.read_published(results / "published.yaml", suite),
    )


def reproduce(
    configs: Sequence[Config],
    seeds: Sequence[int],
    runs: Path,
    results: Path,
    devices: str,
) -> None:
    """Train what has no result yet, a line each, then write the suite's report."""
    from trnet import experiment
    from trnet.training.devices import parse_devices

    contexts = parse_devices(devices)
    by_name = {config.name: config for config in configs}
    jobs = [config.model_copy(update={"seed": seed}) for seed in seeds for config in configs]
    for config in jobs:
        experiment.check(config, runs)
    trained, begin = 0, time.monotonic()
    for number, config in enumerate(jobs, start=1):
        finished = experiment.is_finished(config, runs)
        baseline = by_name.get(config.baseline)
        result = experiment.train(config, baseline, runs, contexts, lines=False)
        trained += not finished
        left = sum(not experiment.is_finished(job, runs) for job in jobs[number:])
        pace = (time.monotonic() - begin) / max(1, trained)
        seconds = "done before" if finished else f"{result['wall_seconds']:.0f} s"
        print(
            f"[{number:>{len(str(len(jobs)))}}/{len(jobs)}] {config.name:<20} seed {config.seed}  "
            f"Top-1 {100 * result['top1']:6.2f} %  {seconds:>11}  "
            f"{pace * left / 60:.0f} min left",
            flush=True,
        )
    write_report(configs, runs, results)


def write_report(configs: Sequence[Config], runs: Path, results: Path) -> None:
    """Write ``table.md``, ``table.csv``, ``runs.json`` and the plot of a suite's measurements."""
    from trnet.report.plot import plot_rank_accuracy

    suite = configs[0].suite
    folder = results / suite
    folder.mkdir(parents=True, exist_ok=True)
    measured = summary.current(summary.read_runs(runs, results, suite), configs)
    found = rows(configs, runs, results)
    heading = f"# {suite}: rank, space savings and accuracy\n\n"
    write_aside(folder / "runs.json", json.dumps(measured, indent=1) + "\n")
    write_aside(
        folder / "table.md", f"{heading}{table.table(found, 'md')}\n\n{_origin(measured)}\n"
    )
    write_aside(folder / "table.csv", table.table(found, "csv"))
    plot_rank_accuracy(found, plot_title(suite, found), folder / "rank_vs_accuracy.png")


def plot_title(suite: str, found: Sequence[Row]) -> str:
    """What a suite's plot shows, and over how many seeds."""
    seeds = max((row.top1.seeds for row in found if row.top1), default=0)
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    return f"{suite}: Top-1 by the head's rank{over}"


def _origin(measured: Sequence[dict]) -> str:
    """Where the measurements come from: the command, the machine, the versions, the data."""
    if not measured:
        return ""
    run = measured[-1]
    seeds = ",".join(map(str, sorted({run["seed"] for run in measured})))
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    data = run["dataset"]
    return (
        f"Measured by `python scripts/reproduce.py configs/{run['suite']} --seeds {seeds}` on "
        f"{data['name']} ({data['train']} images to train on, {data['validation']} to score), "
        f"{run['processor']}; {versions}."
    )
