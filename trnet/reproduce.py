"""Reproduction of a suite: its missing runs are trained, several at a time, and reported."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from tqdm import tqdm

from trnet import threads
from trnet.config import Config
from trnet.errors import Diverged, Stopped, UserError
from trnet.report.write import write_report
from trnet.result import Result, write_failure
from trnet.run_folder import earlier_result, run_folder, standing
from trnet.suite import Suite
from trnet.training.stopping import GRACE, Stop, heard, stop_now

_SECONDS_PER_LINE = 60.0  # in which no run ends


def reproduce(
    suite: Suite, seeds: Sequence[int], devices: str, jobs: int | None = None
) -> tuple[Suite, list[str]]:
    """Train every experiment from every seed, unless it has a result, and write the report.

    Parameters
    ----------
    suite : Suite
    seeds : sequence of int
    devices, jobs
        As in :func:`train_missing`.

    Returns
    -------
    Suite, list of str
        The same suite, which reads what is measured now, and a line for each run without a result.
    """
    wanted = [config.with_seed(seed) for seed in seeds for config in suite.configs.values()]
    outcomes = train_missing(wanted, suite.runs, devices, jobs)
    suite = replace(suite)
    write_report(suite)
    return suite, [str(outcome) for outcome in outcomes if isinstance(outcome, UserError)]


def train_missing(
    wanted: Sequence[Config], runs: Path, devices: str, jobs: int | None = None
) -> list[Result | UserError]:
    """Train what has no result yet, each run in a process of its own.

    A small network leaves cores idle; several processes, with a share of the threads each, do not.
    All configs and data are checked before the first run starts. A run that diverges, is killed or
    cannot be written stops no other one.

    Parameters
    ----------
    wanted : sequence of Config
    runs : Path
        The folder of the run folders.
    devices : str
        As :func:`trnet.training.devices.parse_devices` takes them.
    jobs : int, optional
        Runs at a time: by default one per core, or one if it trains on GPUs.

    Returns
    -------
    list of Result or UserError
        Of each that was wanted its result, or why it has none: :class:`~trnet.errors.Diverged`,
        or another error.

    Raises
    ------
    UserError
        If a config, its data or its weights cannot be used; then nothing is trained.
    """
    from trnet import experiment
    from trnet.training.devices import parse_devices

    contexts = parse_devices(devices)
    on_cpu = contexts[0].device_type == "cpu"
    outcomes = [_earlier(config, runs) for config in wanted]
    missing = [config for config, outcome in zip(wanted, outcomes) if outcome is None]
    for config in missing:
        experiment.check(config, runs, contexts)
    networks = {(config.model_hash, str(config.train.freeze)): config for config in missing}
    for config in networks.values():
        experiment.check_network(config, runs)
    for config in {config.dataset: config for config in missing}.values():
        experiment.check_data(config)
    finished = sum(isinstance(outcome, dict) for outcome in outcomes)
    print(f"{len(wanted)} runs, of which {finished} have their result", flush=True)
    for line in dict.fromkeys(line for config in missing for line in config.train.cuts):
        print(line, flush=True)

    by_name = {config.name: config for config in wanted}
    tasks = {
        place: (config, by_name.get(config.baseline), runs, devices)
        for place, (config, outcome) in enumerate(zip(wanted, outcomes))
        if outcome is None
    }
    jobs = jobs or (threads.cores() if on_cpu else 1)
    begin = time.monotonic()
    trained = _train_all(tasks, jobs)
    for done, (place, outcome) in enumerate(trained, start=1):
        config, outcomes[place] = wanted[place], outcome
        minutes = (time.monotonic() - begin) / done * (len(tasks) - done) / 60
        if isinstance(outcome, UserError):
            with suppress(OSError):  # the disk may be full, and that be why there is no result
                write_failure(run_folder(runs, config), config.hash, str(outcome))
            said = "diverged" if isinstance(outcome, Diverged) else "no result"
        else:
            said = f"Top-1 {100 * outcome['top1']:6.2f} %"
        print(
            f"[{done:>{len(str(len(tasks)))}}/{len(tasks)}] {config.name:<20} "
            f"seed {config.seed}  {said:<14}  {minutes:4.0f} min left",
            flush=True,
        )
    return outcomes


def _earlier(config: Config, runs: Path) -> Result | UserError | None:
    """A run's result, or None without one, or why its folder cannot be used."""
    try:
        return earlier_result(config, runs)
    except UserError as error:
        return error


def _train_all(tasks: dict[int, tuple], jobs: int) -> Iterator[tuple[int, Result | UserError]]:
    """Run tasks in child processes; yields the key of each, and its result or why it has none."""
    left, suspected = dict(tasks), []
    while left:
        batch = [suspected.pop(0)] if suspected else [*left]
        try:
            for place, outcome in _train_in_pool({place: left[place] for place in batch}, jobs):
                del left[place]
                yield place, outcome
        except BrokenProcessPool:
            # A child was killed, and the pool does not say which one. They start in this order.
            if len(batch) > 1:
                suspected = [*left][: jobs + 1]
                continue
            config, *_ = left.pop(batch[0])
            why = "was killed, possibly out of memory; --jobs 1 needs the least memory"
            error = UserError(f"{config.suite}/{config.name}, seed {config.seed}: {why}")
            yield batch[0], error


def _train_in_pool(tasks: dict[int, tuple], jobs: int) -> Iterator[tuple[int, Result | UserError]]:
    """Run tasks in the processes of one pool, which all end if one is killed."""
    context = get_context("spawn")  # MXNet's threads do not survive a fork
    pool = ProcessPoolExecutor(jobs, context, initializer=_follow_parent)
    # The last digits of a result depend on the number of threads, so that number must not depend
    # on how many runs are missing.
    with threads.cores_shared(jobs), heard(stop_now), pool:
        try:
            futures = {pool.submit(_train, *task): place for place, task in tasks.items()}
            while futures:
                done, _ = wait(futures, _SECONDS_PER_LINE, FIRST_COMPLETED)
                if not done:
                    _say_standing(tasks.values())
                for future in done:
                    yield futures.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children = active_children()
            try:
                for process in children:
                    process.terminate()  # it saves a checkpoint first
                for process in children:
                    process.join()
            finally:  # after another signal
                for process in children:
                    process.kill()
            raise


def _say_standing(tasks: Iterable[tuple]) -> None:
    """Say where the runs are that are being trained."""
    processes = {process.pid for process in active_children()}
    found = (standing(config, runs, processes) for config, _, runs, _ in tasks)
    if said := "; ".join(filter(None, found)):
        print(f"under way: {said}", file=sys.stderr, flush=True)


def _train(config: Config, baseline: Config | None, runs: Path, devices: str) -> Result | UserError:
    """Train one run, in a child process."""
    from trnet import experiment
    from trnet.training.devices import parse_devices

    stop = Stop()
    try:
        write_failure(run_folder(runs, config), config.hash, None)
        contexts = parse_devices(devices)
        with heard(stop, GRACE):
            return experiment.train(config, baseline, runs, contexts, show=False, stop=stop)
    except Stopped as stopped:  # or the pool would hand it the next run
        os._exit(128 + stopped.signal)
    except UserError as error:
        return error
    except OSError as error:  # such as a full disk
        return UserError(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _follow_parent() -> None:
    """Leave Ctrl-C and hang-ups to the parent, and exit when it is killed."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # tqdm's own lock is a semaphore of the system. If this process is killed, Python warns of it.
    tqdm.set_lock(threading.RLock())

    def exit_with_parent() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
