"""SIGKILL, at random moments and at every operation on a file; disks that are full."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from soak.experiment import differences, outcome, run_folder, write_config
from soak.trials import Ended, Tally, command, forked

_CHANGING = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "shutil.rmtree")


class Bench:
    """The small experiment, and what an untouched training of it leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, write_config(folder)
        begin = time.monotonic()
        self.train("untouched")
        self.seconds = time.monotonic() - begin
        self.expected = outcome(folder / "untouched")

    def training(self, runs: str) -> Callable[[], None]:
        """The command that trains into a folder, or resumes there."""
        return command("train", self.config, "--runs", self.folder / runs, "--devices", "cpu")

    def train(self, runs: str) -> Ended:
        """Train, and expect success."""
        ended = forked(self.training(runs))
        assert ended.code == 0, ended.said
        return ended

    def finish(self, tally: Tally, runs: str, what: str, *before: Ended) -> None:
        """Resume what a trial left, and compare what comes of it; ``before`` it had to end well."""
        wrong = next((end for end in before if end.fault or not end.is_expected), None)
        ended = forked(self.training(runs))
        if wrong is not None:
            tally.count(wrong.fault or "no line", f"{what}: {wrong.said.strip()[-300:]}")
        elif ended.code != 0:
            tally.count("not resumed", f"{what}: {ended.fault or ended.said.strip()}")
        elif other := differences(outcome(self.folder / runs), self.expected):
            tally.count("other bits", f"{what}: other bits in {', '.join(other)}")
        else:
            tally.count("bit-identical")
        shutil.rmtree(self.folder / runs, ignore_errors=True)  # killed before it was made


def at_random(bench: Bench, trials: int, seed: int = 0) -> Tally:
    """Kill at random moments, up to three times, and resume."""
    tally, rng = Tally("SIGKILL at random moments"), random.Random(seed)
    for trial in range(trials):
        ends = [
            forked(bench.training("random"), kill_after=rng.uniform(0.01, 1.0) * bench.seconds)
            for _ in range(rng.randint(1, 3))
        ]
        bench.finish(tally, "random", f"random {trial}", *ends)
    return tally


def at_operations(bench: Bench, trials: int) -> Tally:
    """Kill at operations on files, evenly over all that a training makes, and resume."""
    tally = Tally("SIGKILL at an operation on a file")

    def counting(limit: int | None) -> Callable[[], None]:
        def work() -> None:
            _kill_at_operation(limit)
            bench.training("operations")()

        return work

    ended = forked(counting(None))
    n_operations = max(int(line) for line in ended.said.splitlines() if line.isdigit())
    shutil.rmtree(bench.folder / "operations")
    for trial in range(trials):
        limit = 1 + trial * n_operations // trials
        ended = forked(counting(limit))
        bench.finish(tally, "operations", f"operation {limit} of {n_operations}", ended)
    return tally


def _kill_at_operation(limit: int | None) -> None:
    """Kill this process before its operation of that number; without one, print the numbers."""
    done = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal done
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
        )
        if not writes and event not in _CHANGING:
            return
        done += 1
        if done == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        if limit is None:
            os.write(2, f"{done}\n".encode())

    sys.addaudithook(hook)


def full_disks(bench: Bench, trials: int, seed: int = 0) -> Tally:
    """Let files grow to some size only, as on a disk that is full: one line, and a resume."""
    tally, rng = Tally("disk full within a file"), random.Random(seed)
    sizes = [path.stat().st_size for path in run_folder(bench.folder / "untouched").rglob("*.*")]
    for trial in range(trials):
        limit = rng.randrange(max(sizes))

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            bench.training("full")()

        bench.finish(tally, "full", f"full {trial}, at {limit} bytes", forked(limited))
    return tally


def folders(bench: Bench) -> Tally:
    """Take folders away, or the right to write: one line, and a resume where they are back."""
    tally = Tally("folder removed or not writable, few descriptors, little memory")
    for what, damage in _damages(bench).items():
        bench.finish(tally, "damaged", what, forked(damage))
    return tally


def _damages(bench: Bench) -> dict[str, Callable[[], None]]:
    folder = run_folder(bench.folder / "damaged")
    train = bench.training("damaged")

    def during(damage: Callable[[], None]) -> Callable[[], None]:
        """Damage when the first whole epoch is saved."""

        def work() -> None:
            begun = [False]

            def hook(event: str, arguments: tuple) -> None:
                if event == "os.rename" and "epoch-0001" in str(arguments[1]) and not begun[0]:
                    begun[0] = True
                    damage()

            sys.addaudithook(hook)
            train()

        return work

    def limited(kind: int, value: int) -> Callable[[], None]:
        def work() -> None:
            resource.setrlimit(kind, (value, value))
            train()

        return work

    return {
        "the run folder is removed": during(lambda: shutil.rmtree(folder)),
        "the checkpoints are removed": during(lambda: shutil.rmtree(folder / "checkpoints")),
        "the run folder is moved": during(lambda: folder.rename(folder.with_name("seed9"))),
        "few descriptors": limited(resource.RLIMIT_NOFILE, 24),
    }


def all_of(bench: Bench, kills: int, disks: int) -> Iterator[Tally]:
    """All trials of this module, some kills at random and as many at operations."""
    yield at_random(bench, kills)
    yield at_operations(bench, kills)
    yield full_disks(bench, disks)
    yield folders(bench)
