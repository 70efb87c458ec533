"""A suite: every experiment of a folder of configs, trained, tabulated and plotted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import numpy as np

from trnet.config import Config, load_suite
from trnet.errors import Diverged, UserError
from trnet.files import Head, read_json, write_aside
from trnet.report import claims, summary, table
from trnet.report.claims import Finding
from trnet.report.published import read_published
from trnet.report.summary import Row
from trnet.savings import space_savings

_PATTERNS = 5  # of pixels that are drawn of every head


def head_weights(configs: Sequence[Config], results: Path) -> dict[str, int]:
    """Weights in each experiment's head, by walking its network.

    Counting needs MXNet, which takes seconds to import; so what was counted is noted in
    ``results/<suite>/parameters.json``, under the hash of what decides it.
    """
    path = results / configs[0].suite / "parameters.json"
    noted = read_json(path, dict[str, Head]) if path.is_file() else {}
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
        read_published(results / "published.yaml").of(suite),
    )


def reproduce(
    configs: Sequence[Config],
    seeds: Sequence[int],
    runs: Path,
    results: Path,
    devices: str,
    jobs: int | None = None,
    beside: Sequence[Row] = (),
) -> None:
    """Train what has no result yet, some runs at a time, then write the suite's report.

    Parameters
    ----------
    configs : sequence of Config
        A suite.
    seeds : sequence of int
        Every experiment is trained from each of them.
    runs, results : Path
    devices : str
        As :func:`trnet.training.devices.parse_devices` takes them.
    jobs : int, optional
        Runs at a time: by default as many as there are cores, and one on GPUs.
    beside
        As in :func:`write_report`.
    """
    train_missing([c.with_seed(seed) for seed in seeds for c in configs], runs, devices, jobs)
    write_report(configs, runs, results, beside)


def train_missing(
    wanted: Sequence[Config],
    runs: Path,
    devices: str,
    jobs: int | None = None,
    may_diverge: bool = False,
) -> list[dict | None]:
    """Train what has no result yet, some runs at a time; gives the results of all.

    Small networks do not fill a processor's cores; several at a time do, on a share of its threads
    each. Nothing is trained where one of them could not be. One that diverges ends them all, or,
    where they may, has no result.
    """
    from trnet import experiment
    from trnet.training.devices import parse_devices

    on_cpu = parse_devices(devices)[0].device_type == "cpu"
    by_name = {config.name: config for config in wanted}
    missing = [config for config in wanted if not experiment.is_finished(config, runs)]
    for config in wanted:
        experiment.check(config, runs)
    for config in {config.model_hash: config for config in wanted}.values():
        experiment.build(config)
    for config in {config.dataset: config for config in missing}.values():
        experiment.check_data(config)
    print(
        f"{len(wanted)} runs, of which {len(wanted) - len(missing)} have their result", flush=True
    )
    tasks = [
        (config, by_name.get(config.baseline), runs, devices, may_diverge) for config in missing
    ]
    cores = len(os.sched_getaffinity(0))
    jobs = jobs or (cores if on_cpu else 1)
    begin = time.monotonic()
    # The last digits of a run depend on its threads, so these must not on how many runs are left.
    trained = _train_all(tasks, jobs, threads=max(1, cores // jobs))
    for done, (config, result) in enumerate(trained, start=1):
        minutes = (time.monotonic() - begin) / done * (len(tasks) - done) / 60
        outcome = "diverged" if result is None else f"Top-1 {100 * result['top1']:6.2f} %"
        print(
            f"[{done:>{len(str(len(tasks)))}}/{len(tasks)}] {config.name:<20} "
            f"seed {config.seed}  {outcome:<14}  {minutes:4.0f} min left",
            flush=True,
        )
    return [experiment.earlier_result(config, runs) for config in wanted]


def _train_all(
    tasks: Sequence[tuple], jobs: int, threads: int
) -> Iterator[tuple[Config, dict | None]]:
    """Configs and results of training tasks in processes of their own, as they come."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_follow_parent) as pool:
        try:
            for future in as_completed([pool.submit(_train, *task) for task in tasks]):
                yield future.result()
        except BaseException as error:
            for process in active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                why = "a run was killed, perhaps for want of memory; --jobs 1 needs the least"
                raise UserError(why) from None
            raise


def _train(
    config: Config, baseline: Config | None, runs: Path, devices: str, may_diverge: bool
) -> tuple[Config, dict | None]:
    from trnet import experiment
    from trnet.training.devices import parse_devices

    try:
        result = experiment.train(config, baseline, runs, parse_devices(devices), show=False)
    except Diverged:
        if not may_diverge:
            raise
        result = None
    return config, result


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, which ends its children, and end with it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def write_report(
    configs: Sequence[Config], runs: Path, results: Path, beside: Sequence[Row] = ()
) -> None:
    """Write what was measured of a suite: tables, results of the runs, and plots.

    What the heads have learnt is drawn of those whose run folders are there. ``beside`` are rows
    of another suite, whose published curves are drawn as well.
    """
    from trnet.report import plot

    suite = configs[0].suite
    folder = results / suite
    folder.mkdir(parents=True, exist_ok=True)
    measured = summary.current(summary.read_runs(runs, results, suite), configs)
    found = rows(configs, runs, results)
    heading = f"# {suite}: rank, space savings and accuracy\n\n"
    if measured:
        write_aside(folder / "runs.json", json.dumps(measured, indent=1) + "\n")
    write_aside(
        folder / "table.md", f"{heading}{table.table(found, 'md')}\n\n{_origin(measured)}\n"
    )
    write_aside(folder / "table.csv", table.table(found, "csv"))
    if any(row.baseline and (row.top1 or row.published.top1) for row in found):
        path = folder / "rank_vs_accuracy.png"
        plot.plot_rank_accuracy(found, plot_title(suite, found), path, beside)
    if any(row.curve for row in found):
        title = f"{suite}: Top-1 by epoch, mean over seeds"
        plot.plot_learning_curves(found, title, folder / "learning_curves.png")
    by_name = {config.name: config for config in configs}
    patterns = _spatial_patterns([by_name[row.name] for row in found], measured, runs)
    if patterns:
        title = f"{suite}: patterns of pixels in the heads' weights\nred +, blue −, share of square"
        plot.plot_spatial_patterns(patterns, title, folder / "spatial_patterns.png")


def _spatial_patterns(
    configs: Sequence[Config], measured: Sequence[dict], runs: Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The leading patterns of pixels in each head, of the first seed whose run folder is there."""
    if not (runs / configs[0].suite).is_dir():  # then MXNet, which takes seconds, is not needed
        return {}
    from trnet import experiment

    patterns = {}
    for config in configs:
        seeds = sorted(run["seed"] for run in measured if run["name"] == config.name)
        trained = (config.with_seed(seed) for seed in seeds)
        found = next(filter(None, (experiment.patterns(c, runs, _PATTERNS) for c in trained)), None)
        if found is not None:
            patterns[config.name] = found
    return patterns


def beside(folder: Path, runs: Path, results: Path) -> list[Row]:
    """The rows of the suite that ``published.yaml`` wants beside the one in a folder; or none."""
    suite = load_suite(folder)[0].suite
    other = read_published(results / "published.yaml").beside.get(suite)
    if other is None:
        return []
    root = folder.resolve().parents[suite.count("/")]
    return rows(load_suite(root / other), runs, results)


def findings(folder: Path, runs: Path, results: Path) -> list[Finding]:
    """What the measurements say of the claims in ``published.yaml``.

    Parameters
    ----------
    folder : Path
        Where the suites' folders are.
    runs, results : Path

    Raises
    ------
    UserError
        Where a claim names an experiment that is not there, or a baseline against nothing.
    """
    path = results / "published.yaml"
    wanted = read_published(path).cited_claims()
    suites = {
        name: _measured_suite(folder / name, runs, results)
        for name in dict.fromkeys(c.suite for claim in wanted for c in claim.tested_by)
    }
    found = []
    for claim in wanted:
        for comparison in claim.tested_by:
            configs, weights, measured = suites[comparison.suite]
            name = comparison.name
            if name not in configs or comparison.against not in (None, *configs):
                wrong = name if name not in configs else comparison.against
                raise UserError(f"{path}: claims: {wrong!r} is no experiment of {comparison.suite}")
            against = comparison.against or configs[name].baseline
            if against is None:
                raise UserError(f"{path}: claims: {name!r} is a baseline; against is missing")
            savings = 100 * space_savings(weights[name], weights[against])
            change = summary.change(measured, configs[name], configs[against])
            settled = comparison.model_copy(update={"against": against})
            found.append(Finding(claim, settled, savings, change))
    return found


def _measured_suite(
    folder: Path, runs: Path, results: Path
) -> tuple[dict[str, Config], dict[str, int], list[dict]]:
    """A suite's configs and heads' weights by name, and the results of its runs."""
    configs = load_suite(folder)
    measured = summary.read_runs(runs, results, configs[0].suite)
    return {c.name: c for c in configs}, head_weights(configs, results), measured


def write_claims(folder: Path, runs: Path, results: Path) -> None:
    """Write ``claims.md``: every published claim with what we measured, and a verdict."""
    found = findings(folder, runs, results)
    sources = dict.fromkeys(finding.claim.source for finding in found)
    parts = [
        "# Published claims, and what we measured",
        claims.overview(found),
        claims.details(found),
        "\n".join(f"Published: {source}." for source in sources),
    ]
    write_aside(results / "claims.md", "\n\n".join(parts) + "\n")


def plot_title(suite: str, found: Sequence[Row]) -> str:
    """What a suite's plot shows, and over how many seeds."""
    seeds = summary.seeds_text(found)
    over = f", mean and 95 % interval over {seeds}" if seeds not in (None, "one seed") else ""
    return f"{suite}: Top-1 by the head's rank{over}"


def _origin(measured: Sequence[dict]) -> str:
    """Where the measurements come from: the command, the machine, the versions, the data."""
    if not measured:
        return ""
    run = measured[-1]
    seeds = ",".join(map(str, sorted({run["seed"] for run in measured})))
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    name = run["dataset"]["name"]
    train, scored = (
        " or ".join(map(str, sorted({run["dataset"][part] for run in measured})))
        for part in ("train", "validation")
    )
    return (
        f"Measured by `python scripts/reproduce.py configs/{run['suite']} --seeds {seeds}` on "
        f"{name} ({train} images to train on, {scored} to score), {run['processor']}; {versions}."
    )
