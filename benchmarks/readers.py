#!/usr/bin/env python
"""Measure how fast images are read, decoded and augmented, from records and from folders.

python benchmarks/readers.py

Writes results/benchmark/readers.md: images per second by the number of threads, and how long the
index of as many records as ImageNet has takes to be checked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tabulate
from timing import in_own_process

from trnet.threads import cores

PHOTOGRAPHS = 512
IMAGENET = 1_281_167  # training images
ROUNDS = 5


def main() -> None:
    """Parse the arguments, measure, and write the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--results", type=Path, default=Path("results/benchmark"))
    options = arguments.parse_args()
    threads = sorted({1, 2, cores(), 2 * cores()})
    rows = in_own_process(rates, threads)
    seconds = in_own_process(opening, cores())
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "readers.md"
    path.write_text(report(rows, threads, seconds), encoding="utf-8")
    print(f"Written to {path}")


def rates(threads: list[int]) -> list[dict]:
    """Images per second of the ImageNet pipelines, the best of some rounds that take turns."""
    from trnet.data import DATASETS, Request
    from trnet.data.prepare import prepare

    dataset = DATASETS["imagenet"]
    with tempfile.TemporaryDirectory() as name:
        folder, records = Path(name) / "folder", Path(name) / "records"
        for part in ("train", "val"):
            write_photographs(folder / part)
            prepare(folder / part, records / part, jobs=max(threads), show=False)
        best = {}
        for _ in range(ROUNDS):
            for form, root in (("records", records), ("folder", folder)):
                for n in threads:
                    source = dataset.load(Request(str(root), True, 2, dataset.shape, n))
                    for kind, epoch in (
                        ("training", source.train(32, (0, 1))),
                        ("evaluation", source.validation(32)),
                    ):
                        key = (form, kind, n)
                        best[key] = max(best.get(key, 0.0), rate(epoch))
    return [
        {"form": form, "kind": kind, **{n: best[form, kind, n] for n in threads}}
        for form in ("records", "folder")
        for kind in ("training", "evaluation")
    ]


def rate(epoch: Iterator) -> float:
    """Images per second of an epoch, without its first batch."""
    next(epoch)[0].wait_to_read()
    begin, images = time.perf_counter(), 0
    for batch, _ in epoch:
        batch.wait_to_read()
        images += len(batch)
    return images / (time.perf_counter() - begin)


def opening(threads: int) -> float:
    """Seconds to read an index of as many records as ImageNet has, and to check them all."""
    from trnet.data.recordio import pack
    from trnet.data.records import open_records

    with tempfile.TemporaryDirectory() as name:
        rec, lines, offset = Path(name) / "train.rec", [], 0
        with rec.open("wb") as file:
            for key in range(IMAGENET):
                record = pack(key, key % 1000, bytes(40))
                file.write(record)
                lines.append(f"{key}\t{offset}\n")
                offset += len(record)
        rec.with_suffix(".idx").write_text("".join(lines))
        begin = time.perf_counter()
        open_records(rec, threads)
        return time.perf_counter() - begin


def write_photographs(folder: Path) -> None:
    """Write crops of photographs, of ImageNet's usual size 500×375, in two classes."""
    from PIL import Image
    from skimage import data

    photographs = [Image.fromarray(f()) for f in (data.astronaut, data.coffee, data.chelsea)]
    rng = np.random.default_rng(0)
    for i in range(PHOTOGRAPHS):
        photograph = photographs[i % len(photographs)]
        width = int(rng.integers(200, min(photograph.width, photograph.height * 4 // 3)))
        left = int(rng.integers(photograph.width - width + 1))
        upper = int(rng.integers(photograph.height - width * 3 // 4 + 1))
        box = (left, upper, left + width, upper + width * 3 // 4)
        path = folder / f"class{i % 2}" / f"{i:04d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize((500, 375), Image.BICUBIC, box).save(path, quality=90)


def report(rows: list[dict], threads: list[int], seconds: float) -> str:
    """Format the measurements in Markdown."""
    from trnet import result
    from trnet.tensor.backend import mx

    table = [
        {
            "Form": row["form"],
            "For": row["kind"],
            **{f"{n} thread{'s' if n > 1 else ''}": f"{row[n]:.0f}" for n in threads},
        }
        for row in rows
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions().items())
    return "\n\n".join(
        [
            "# Images per second that are read, decoded and augmented",
            tabulate.tabulate(table, headers="keys", tablefmt="pipe", disable_numparse=True),
            f"JPEG photographs of 500×375 to 224×224, batches of 32, best of {ROUNDS} rounds, in "
            "which all of these took turns; files in the system's cache. Records are checked "
            "against their checksums.",
            f"The index and the beginnings of {IMAGENET:,} records, as many as ImageNet has, are "
            f"checked in {seconds:.1f} s, from the system's cache.",
            "Measured by `python benchmarks/readers.py` on "
            f"{result.processor([mx.cpu()])}; {versions}.\n",
        ]
    )


if __name__ == "__main__":
    main()
