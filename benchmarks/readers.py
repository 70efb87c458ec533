#!/usr/bin/env python
"""Measure how fast images are read, decoded and augmented, from records and from folders.

python benchmarks/readers.py [--dali]

Writes results/benchmark/readers.md: images per second by the number of threads, beside MXNet's own
iterator and DALI, and how long the index of as many records as ImageNet has takes to be checked.

DALI needs a CUDA of its own, so it is no dependency: `pip install nvidia-dali-cuda120==1.53.0`. Its
operators run on the CPU here; without a GPU, its decoder on the GPU cannot be measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import tabulate
from timing import in_own_process, parser_of

from trnet.threads import cores

PHOTOGRAPHS = 512
BATCH = 32
SHORTER = 256  # side of the smaller records
IMAGENET = 1_281_167  # training images
ROUNDS = 5
DALI_EPOCHS = 2  # at a time, because it reads ahead of what is asked for


def main() -> None:
    """Parse the arguments, measure, and write the table."""
    arguments = parser_of(__doc__)
    arguments.add_argument("--dali", action="store_true", help="measure DALI, too")
    options = arguments.parse_args()
    threads = sorted({1, 2, cores(), 2 * cores()})
    rows = in_own_process(rates, threads, options.dali)
    seconds = in_own_process(opening, cores())
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "readers.md"
    path.write_text(report(rows, threads, seconds, options.dali), encoding="utf-8")
    print(f"Written to {path}")


def rates(threads: list[int], with_dali: bool) -> list[dict]:
    """Images per second of every reader, the best of some rounds that take turns."""
    from trnet.data.prepare import prepare

    with tempfile.TemporaryDirectory() as name:
        folder, records, smaller = (Path(name) / form for form in ("folder", "records", "smaller"))
        for part in ("train", "val"):
            write_photographs(folder / part)
            for root, size in ((records, None), (smaller, SHORTER)):
                prepare(folder / part, root / part, size, jobs=max(threads), show=False)
        readers = {
            "records": partial(ours, records),
            f"records, `--resize {SHORTER}`": partial(ours, smaller),
            "folder": partial(ours, folder),
            "records, by MXNet's `ImageRecordIter`": partial(by_mxnet, records),
        }
        if with_dali:
            readers["records, by DALI on the CPU"] = partial(by_dali, records)
        best: dict[tuple, float] = {}
        for _, (form, reader), n in product(range(ROUNDS), readers.items(), threads):
            for purpose, epoch in reader(n).items():
                key = (form, purpose, n)
                best[key] = max(best.get(key, 0.0), rate(epoch))
    rows = dict.fromkeys((form, purpose) for form, purpose, _ in best)
    return [
        {"form": form, "purpose": purpose, **{n: best[form, purpose, n] for n in threads}}
        for form, purpose in rows
    ]


def ours(root: Path, threads: int) -> dict[str, Iterator]:
    """An epoch of the ImageNet pipeline, to train on and to score."""
    from trnet.data import DATASETS, Request

    dataset = DATASETS["imagenet"]
    source = dataset.load(Request(str(root), True, 2, dataset.shape, threads))
    return {"training": source.train(BATCH, (0, 1)), "evaluation": source.validation(BATCH)}


def by_mxnet(root: Path, threads: int) -> dict[str, Iterator]:
    """The same augmentation by MXNet's own iterator of records, which checks nothing."""
    from trnet.data.crops import AREA, ASPECT, JITTER, LIGHTING, MEAN, STD
    from trnet.tensor.backend import mx

    jitter = dict.fromkeys(("brightness", "contrast", "saturation"), JITTER)
    area = dict(zip(("min_random_area", "max_random_area"), AREA))
    aspect = dict(zip(("min_aspect_ratio", "max_aspect_ratio"), ASPECT))
    crop = {"random_resized_crop": True, "rand_mirror": True, **area, **aspect}

    def epoch(part: str, **changes) -> Iterator:
        batches = mx.io.ImageRecordIter(
            path_imgrec=str(root / f"{part}.rec"),
            path_imgidx=str(root / f"{part}.idx"),
            data_shape=(3, 224, 224),
            batch_size=BATCH,
            preprocess_threads=threads,
            verbose=False,
            **dict(zip(("mean_r", "mean_g", "mean_b"), MEAN)),
            **dict(zip(("std_r", "std_g", "std_b"), STD)),
            **changes,
        )
        for batch in batches:
            yield batch.data[0], batch.label[0]

    return {
        "training": epoch("train", shuffle=True, pca_noise=LIGHTING, **crop, **jitter),
        "evaluation": epoch("val", resize=256),
    }


def by_dali(root: Path, threads: int) -> dict[str, Iterator]:
    """The same augmentation, but for the lighting, by DALI's operators for the CPU."""
    from nvidia.dali import fn, pipeline_def, types

    from trnet.data.crops import AREA, ASPECT, JITTER, MEAN, STD
    from trnet.tensor.backend import mx

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, seed=0)
    def pipeline(part: str, augments: bool):
        rec = root / f"{part}.rec"
        files, labels = fn.readers.mxnet(
            path=[str(rec)], index_path=[str(rec.with_suffix(".idx"))], random_shuffle=augments
        )
        if augments:
            images = fn.decoders.image_random_crop(
                files, random_area=list(AREA), random_aspect_ratio=list(ASPECT)
            )
            images = fn.resize(images, size=(224, 224))
            jitter = [fn.random.uniform(range=(1 - JITTER, 1 + JITTER)) for _ in range(3)]
            names = ("brightness", "contrast", "saturation")
            images = fn.color_twist(images, **dict(zip(names, jitter)))
        else:
            images = fn.resize(fn.decoders.image(files), resize_shorter=256)
        mirror = fn.random.coin_flip() if augments else 0
        return labels, fn.crop_mirror_normalize(
            images,
            crop=(224, 224),
            mirror=mirror,
            mean=list(MEAN),
            std=list(STD),
            dtype=types.FLOAT,
            output_layout="CHW",
        )

    def epochs(running) -> Iterator:
        for _ in range(DALI_EPOCHS * PHOTOGRAPHS // BATCH):
            labels, images = running.run()
            yield mx.nd.array(images.as_array()), labels.as_array()

    pipelines = {"training": pipeline("train", True), "evaluation": pipeline("val", False)}
    for built in pipelines.values():
        built.build()
    return {purpose: epochs(built) for purpose, built in pipelines.items()}


def rate(epoch: Iterator) -> float:
    """Images per second of a whole epoch: MXNet decodes many batches before it gives the first."""
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


def report(rows: list[dict], threads: list[int], seconds: float, with_dali: bool) -> str:
    """Format the measurements in Markdown."""
    from trnet import result
    from trnet.tensor.backend import mx

    table = [
        {
            "Form": row["form"],
            "For": row["purpose"],
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
            "which all of these took turns; files in the system's cache. Our records are checked "
            "against their checksums; other readers check none.",
            f"The index and the beginnings of {IMAGENET:,} records, as many as ImageNet has, are "
            f"checked in {seconds:.1f} s, from the system's cache.",
            f"Measured by `python benchmarks/readers.py{' --dali' if with_dali else ''}` on "
            f"{result.processor([mx.cpu()])}; {versions}.\n",
        ]
    )


if __name__ == "__main__":
    main()
