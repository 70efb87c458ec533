"""Run all trials, and write results/reliability.md.

python -m soak --kills 100 --mutations 1000 --disks 50 --faults 10 --minutes 60
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tabulate

from soak import faults, kills, long, mutations
from soak.kills import Bench
from soak.long import Long
from soak.trials import Tally
from trnet.result import processor, versions
from trnet.tensor.backend import mx

COUNTS = {"kills": 100, "mutations": 1000, "disks": 50, "faults": 10, "minutes": 60.0}


def main() -> None:
    """Parse the counts, run the trials, and write the table; exit code 1 if a trial went wrong."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, default in COUNTS.items():
        arguments.add_argument(f"--{name}", type=type(default), default=default)
    arguments.add_argument("--output", type=Path, default=Path("results/reliability.md"))
    options = arguments.parse_args()
    tallies = []
    # The long trainings go on beside the trials, and what they take of the processor is measured.
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        forms = ("arrays", "records") if options.minutes else ()
        under_way = [
            pool.submit(long.train, Path(name) / form, form, options.minutes / len(forms))
            for form in forms
        ]
        bench = Bench(Path(name))
        for source in (
            kills.all_of(bench, options.kills, options.disks),
            mutations.all_of(bench, options.mutations),
            [faults.faults(bench, options.faults)] if options.faults else [],
        ):
            for tally in source:
                tallies.append(tally)
                print(tally.what, dict(tally.ends), *tally.wrong[:5], sep="\n  ", flush=True)
        longs = [future.result() for future in under_way]
    given = " ".join(f"--{name} {getattr(options, name):g}" for name in COUNTS)
    text = report(tallies, longs, f"PYTHONPATH=tests python -m soak {given}")
    options.output.write_text(text, encoding="utf-8")
    print(f"Written to {options.output}")
    raise SystemExit(any(found.wrong for found in (*tallies, *longs)))


def report(tallies: list[Tally], longs: list[Long], command: str) -> str:
    """Lay out what was counted, in Markdown."""
    counted = [
        {
            "What": tally.what,
            "Trials": sum(tally.ends.values()),
            "How they ended": ", ".join(f"{n} {end}" for end, n in sorted(tally.ends.items())),
            "Wrong": len(tally.wrong),
        }
        for tally in tallies
    ]
    trained = [
        {
            "From": run.form,
            "Epochs": run.epochs,
            "ms of a core per epoch": _by_part([1000 * s for s in run.seconds], "{:.1f}"),
            "MiB": _by_part(run.memory, "{:.0f}"),
            "Open files": _by_part(run.files, "{:.0f}"),
            "Threads": _by_part(run.threads, "{:.0f}"),
        }
        for run in longs
    ]
    wrong = [f"- {line}" for found in (*tallies, *longs) for line in found.wrong]
    measured = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts = [
        "# What was tried to lose a run, or to be given a wrong number",
        _table(counted),
        "*bit-identical*: parameters, optimiser, metrics and result of the resumed training are "
        "those of an untouched one. *One line*: a message of one line and exit code 2. *No "
        "difference*: the change was in nothing that is read, or turned nothing into something "
        "else. *Used as it is*: the format has no checksum, and the changed file is valid.",
        *(["## Wrong", "\n".join(wrong)] if wrong else []),
        *(["## A long training", _table(trained), _LONG] if trained else []),
        f"Measured by `{command}` on {processor([mx.cpu()])}, in "
        f"{(time.monotonic() - _BEGUN) / 60:.0f} minutes, with OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}; {measured}.\n",
    ]
    return "\n\n".join(parts)


_BEGUN = time.monotonic()
_LONG = (
    "Epochs of 80 images from arrays, and of 40 JPEG images from records, each with a scoring and "
    "a checkpoint, beside the trials; in six equal parts of the time, without its first twentieth."
)


def _by_part(values: list[float], form: str) -> str:
    return ", ".join(form.format(value) for value in values)


def _table(rows: list[dict]) -> str:
    return tabulate.tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    main()
