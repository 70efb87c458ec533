"""Reproduction of a suite: its missing runs are trained, several at a time, and reported."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from trnet.config import Config
from trnet.errors import Diverged, UserError
from trnet.report.write import write_report
from trnet.result import Result
from trnet.suite import Suite
from trnet.training.stopping import Stop, heard, stop_now

_STOP = Stop()  # of a child process


def reproduce(suite: Suite, seeds: Sequence[int], devices: str, jobs: int | None = None) -> Suite:
    """Train every experiment from every seed, unless it has a result, and write the report.

    Parameters
    ----------
    suite : Suite
    seeds : sequence of int
    devices, jobs
        As in :func:`train_missing`.

    Returns
    -------
    Suite
        The same suite, which reads what is measured now.
    """
    wanted = [config.with_seed(seed) for seed in seeds for config in suite.configs.values()]
    train_missing(wanted, suite.runs, devices, jobs)
    suite = replace(suite)
    write_report(suite)
    return suite


def train_missing(
    wanted: Sequence[Config],
    runs: Path,
    devices: str,
    jobs: int | None = None,
    may_diverge: bool = False,
) -> list[Result | None]:
    """Train what has no result yet, each run in a process of its own.

    A small network leaves cores idle; several processes, with a share of the threads each, do not.
    All configs and data are checked before the first run starts.

    Parameters
    ----------
    wanted : sequence of Config
    runs : Path
        The folder of the run folders.
    devices : str
        As :func:`trnet.training.devices.parse_devices` takes them.
    jobs : int, optional
        Runs at a time: by default one per core, or one if it trains on GPUs.
    may_diverge : bool
        Whether a run that diverges is left without a result. If not, it stops all others.

    Returns
    -------
    list of Result or None
        The results of all that was wanted; None for a run that diverged.

    Raises
    ------
    UserError
        If a run cannot be trained, is killed, or diverges.
    """
    from trnet import experiment
    from trnet.training.devices import parse_devices

    on_cpu = parse_devices(devices)[0].device_type == "cpu"
    missing = [config for config in wanted if experiment.earlier_result(config, runs) is None]
    for config in missing:
        experiment.check(config, runs)
    networks = {(config.model_hash, str(config.train.freeze)): config for config in wanted}
    for config in networks.values():
        experiment.build(config, experiment.find_dataset(config))
    for config in {config.dataset: config for config in missing}.values():
        experiment.check_data(config)
    finished = len(wanted) - len(missing)
    print(f"{len(wanted)} runs, of which {finished} have their result", flush=True)
    for line in dict.fromkeys(line for config in missing for line in config.train.cuts):
        print(line, flush=True)

    by_name = {config.name: config for config in wanted}
    tasks = [
        (config, by_name.get(config.baseline), runs, devices, may_diverge) for config in missing
    ]
    cores = len(os.sched_getaffinity(0))
    jobs = jobs or (cores if on_cpu else 1)
    begin = time.monotonic()
    # The last digits of a result depend on the number of threads, so that number must not depend
    # on how many runs are missing.
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
) -> Iterator[tuple[Config, Result | None]]:
    """Run the tasks in child processes; yields each config and its result when it is trained."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    context = get_context("spawn")  # MXNet's threads do not survive a fork
    with heard(stop_now), ProcessPoolExecutor(jobs, context, initializer=_follow_parent) as pool:
        try:
            for future in as_completed([pool.submit(_train, *task) for task in tasks]):
                yield future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()  # it saves a checkpoint first
            if isinstance(error, BrokenProcessPool):
                why = "a run was killed, possibly out of memory; --jobs 1 needs the least memory"
                raise UserError(why) from None
            raise


def _train(
    config: Config, baseline: Config | None, runs: Path, devices: str, may_diverge: bool
) -> tuple[Config, Result | None]:
    """Train one run, in a child process."""
    from trnet import experiment
    from trnet.training.devices import parse_devices

    try:
        devices = parse_devices(devices)
        result = experiment.train(config, baseline, runs, devices, show=False, stop=_STOP)
    except Diverged:
        if not may_diverge:
            raise
        result = None
    return config, result


def _follow_parent() -> None:
    """Leave signals to the parent, which stops its children, and exit when the parent is killed."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _STOP)

    def exit_with_parent() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
