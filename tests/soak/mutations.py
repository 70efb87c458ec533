"""Files of every format that is read, changed at random: refused in one line, or the same."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from soak.changes import mutated
from soak.experiment import run_folder
from soak.kills import Bench
from soak.trials import Tally, forked
from trnet import config, experiment, inference
from trnet.data import DATASETS, Request
from trnet.data.prepare import prepare
from trnet.errors import UserError
from trnet.models import load_pretrained
from trnet.result import read_failure, read_result, read_results, write_failure, write_results
from trnet.suite import Suite
from trnet.tensor.backend import mx
from trnet.training import checkpoint, loop
from trnet.training.devices import Compute

_BATCH = 50  # trials per process: a crash costs only one of them
_SECONDS = 60.0  # for a batch, after which it hangs


@dataclass(frozen=True)
class Format:
    """A kind of file: how it is read, and whether a change can be noticed.

    Attributes
    ----------
    name : str
    files : list of Path
        That are changed, one at a time.
    read : callable
        Gives what is read, to compare; errors are UserErrors.
    has_checksum : bool
        Without one, only crashes, hangs and tracebacks are wrong.
    is_text : bool
        Whether values in it are replaced by others, too.
    """

    name: str
    files: list[Path]
    read: Callable[[], object]
    has_checksum: bool = True
    is_text: bool = False


def tried(form: Format, trials: int, seed: int = 0) -> Tally:
    """Change a format's files, and read each."""
    tally, expected, trial = Tally(form.name), form.read(), 0
    whole = {path: path.read_bytes() for path in form.files}
    while trial < trials:
        begin, end = trial, min(trial + _BATCH, trials)

        def batch(begin: int = begin, end: int = end) -> None:
            for number in range(begin, end):
                outcome = _read(form, expected, whole, random.Random(f"{seed} {number}"))
                os.write(1, f"trial {json.dumps([number, *outcome])}\n".encode())

        ended = forked(batch, _SECONDS)
        said = re.findall(r"^trial (.*)$", ended.said, re.M)
        lines = [json.loads(line) for line in said]
        for number, outcome, wrong in lines:
            tally.count(outcome, wrong and f"{form.name}, trial {number}: {wrong}")
        trial = begin + len(lines)
        if ended.code != 0 or trial < end:
            fault = ended.fault or "crash"
            last = ended.said.strip().rpartition("\n")[2]
            tally.count(fault, f"{form.name}, trial {trial}: {fault}: {last}")
            trial += 1
        for path, content in whole.items():
            path.write_bytes(content)
    return tally


def _read(
    form: Format, expected: object, whole: dict[Path, bytes], rng: random.Random
) -> tuple[str, str | None]:
    """Change one file and read: how it ended, and what was wrong with that."""
    path = rng.choice(form.files)
    path.write_bytes(mutated(whole[path], rng, form.is_text))
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            found = form.read()
    except UserError as error:
        lines = str(error).splitlines()
        return "one line", None if len(lines) == 1 else f"{len(lines)} lines: {lines[:2]}"
    except Exception as error:
        return "traceback", f"{path.name}: {type(error).__name__}: {str(error)[:200]}"
    finally:
        path.write_bytes(whole[path])
    if _same(found, expected):
        return "no difference", None
    if form.has_checksum:
        return "silent difference", f"{path.name} is used as if it were whole"
    return "used as it is", None


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(
        other, sort_keys=True, default=str
    )


def formats(bench: Bench) -> Iterator[Format]:
    """All formats, with files that the small experiment made."""
    folder, run = bench.folder / "mutated", run_folder(bench.folder / "untouched")
    folder.mkdir()
    yield from _of_a_run(bench, run, folder)
    yield from _of_data(folder)


def _of_a_run(bench: Bench, run: Path, folder: Path) -> Iterator[Format]:
    chosen = config.load(str(bench.config), [])
    checkpoints = folder / "checkpoints"
    shutil.copytree(run / "checkpoints/epoch-0003", checkpoints / "epoch-0003")
    log = Path(shutil.copy(run / "metrics.jsonl", checkpoints))
    files = sorted((checkpoints / "epoch-0003").iterdir())
    resumed = _resumed(chosen, checkpoints)
    yield Format("checkpoint: arrays", [f for f in files if f.suffix == ".params"], resumed)
    yield Format(
        "checkpoint: state, manifest",
        [f for f in files if f.suffix == ".json"],
        resumed,
        is_text=True,
    )
    yield Format("metrics of all epochs", [log], resumed, is_text=True)

    own = run_folder(folder / "run")
    own.mkdir(parents=True)
    shutil.copy(run / "result.json", own)
    yield Format("result.json", [own / "result.json"], lambda: read_result(own), is_text=True)
    runs = folder / "runs.json"
    write_results(runs, [read_result(run), {**read_result(run), "seed": 1}])
    yield Format("runs.json", [runs], lambda: read_results(runs), is_text=True)
    failed = folder / "failed"
    write_failure(failed, chosen.hash, "diverged")
    yield Format(
        "failed.json", [failed / "failed.json"], lambda: read_failure(failed), is_text=True
    )

    results = folder / "results"

    def weights() -> dict[str, int]:
        return Suite.load(bench.config.parent, bench.folder / "untouched", results).weights

    weights()
    noted = results / "soak/parameters.json"
    yield Format("parameters.json", [noted], weights, is_text=True)
    yaml = folder / "configs/soak/small.yaml"
    yaml.parent.mkdir(parents=True)
    shutil.copy(bench.config, yaml)

    def built() -> str:
        loaded = config.load(str(yaml), [])
        experiment.build(loaded, experiment.find_dataset(loaded))
        return loaded.hash

    yield Format("config", [yaml], built, has_checksum=False, is_text=True)

    pretrained = folder / "pretrained.params"
    shutil.copy(run / "checkpoints/epoch-0003/network.params", pretrained)

    def loaded() -> list:
        dataset = experiment.find_dataset(chosen)
        network = experiment.build(chosen, dataset)
        loop.initialize(network, dataset.shape, 0, Compute([mx.cpu()]))
        try:
            load_pretrained(network, "small_vgg2", str(pretrained), dataset.shape, dataset.classes)
        except ValueError as error:
            raise UserError(str(error)) from None
        return _values(network)

    yield Format("trained weights of others", [pretrained], loaded, has_checksum=False)
    yield from _exports(run, folder)


def _exports(run: Path, folder: Path) -> Iterator[Format]:
    for has_checksum in (True, False):
        own = folder / f"exported-{has_checksum}"
        own.mkdir()
        files = [
            inference.export(run, "latest", "onnx", True, own / "net.onnx"),
            inference.export(run, "latest", "symbol", True, own / "net"),
        ]
        if not has_checksum:
            for path in own.glob("*.sha256"):
                path.unlink()

        def scored(files: list[Path] = files) -> list:
            return [vars(inference.score(file, "latest", [mx.cpu()])[2]) for file in files]

        name = "exported networks" + ("" if has_checksum else ", without their checksums")
        changed = sorted(path for path in own.iterdir() if path.suffix != ".sha256")
        yield Format(name, changed, scored, has_checksum=has_checksum)


def _resumed(chosen: config.Config, checkpoints: Path) -> Callable[[], list]:
    dataset = experiment.find_dataset(chosen)
    network = experiment.build(chosen, dataset)
    loop.initialize(network, dataset.shape, 0, Compute([mx.cpu()]))

    def resumed() -> list:
        trainer = loop.make_trainer(network, chosen.train)
        try:
            checkpoint.set_damaged_aside(checkpoints, lambda line: None)
        finally:
            for aside in checkpoints.glob("*.damaged*"):
                aside.rename(checkpoints / "epoch-0003")
        last = checkpoint.newest(checkpoints)
        checkpoint.load_network(last, network, [mx.cpu()])
        checkpoint.load_trainer(last, network, trainer, 0, chosen.hash_until(3))
        states = trainer._updaters[0].states
        return [_values(network), repr(states), checkpoint.load_metrics(last).rows]

    return resumed


def _values(network: mx.gluon.Block) -> list:
    return [
        parameter.data().asnumpy().tobytes().hex()
        for parameter in network.collect_params().values()
    ]


def _of_data(folder: Path) -> Iterator[Format]:
    root = folder / "images"
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(8):
            path = root / part / f"n{i % 2}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (6, 8, 3)).astype("uint8").repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(path, quality=80)
    records, bare = folder / "records", folder / "bare"
    bare.mkdir()
    for part in ("train", "val"):
        prepare(root / part, records / part, show=False)
        for suffix in ("rec", "idx"):
            shutil.copy(records / f"{part}.{suffix}", bare)

    def images(of: Path, labels_alone: bool = False) -> Callable[[], list]:
        def read() -> list:
            request = Request(str(of), False, 2, (3, 32, 32), 1)
            batches = list(DATASETS["imagenet"].load(request).validation(4))
            seen = [labels.asnumpy().tolist() for _, labels in batches]
            if labels_alone:
                return [len(labels) for labels in seen]
            return [*seen, *(pixels.asnumpy().tobytes().hex() for pixels, _ in batches)]

        return read

    yield Format("records: .rec", [records / "val.rec"], images(records))
    beside = [records / f"val.{s}" for s in ("idx", "crc32", "json", "classes.txt")]
    yield Format("records: beside", beside, images(records), is_text=True)
    yield Format("records of others: .rec", [bare / "val.rec"], images(bare), has_checksum=False)
    # A label may change unnoticed, the number of images may not.
    yield Format("records of others: .idx", [bare / "val.idx"], images(bare, True), is_text=True)
    yield Format(
        "images in folders", sorted(root.glob("val/*/*")), images(root), has_checksum=False
    )
    yield from _of_arrays(folder, rng)


def _of_arrays(folder: Path, rng: np.random.Generator) -> Iterator[Format]:
    digits = {}
    for form in ("gz", "raw"):
        own = folder / f"digits-{form}"
        own.mkdir()
        for part in ("train", "t10k"):
            arrays = {
                "images-idx3": rng.integers(0, 256, (20, 28, 28)),
                "labels-idx1": np.arange(20) % 10,
            }
            for kind, array in arrays.items():
                content = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
                content += array.astype("uint8").tobytes()
                name = f"{part}-{kind}-ubyte" + (".gz" if form == "gz" else "")
                packed = gzip.compress(content, mtime=0) if form == "gz" else content
                (own / name).write_bytes(packed)
        digits[form] = own

    def arrays(name: str, root: Path, classes: int, shape: tuple) -> Callable[[], list]:
        def read() -> list:
            source = DATASETS[name].load(Request(str(root), False, classes, shape))
            batches = [*source.train(20, (0, 1)), *source.validation(20)]
            return [array.asnumpy().tobytes().hex() for batch in batches for array in batch]

        return read

    for form, own in digits.items():
        yield Format(
            f"digits, {form}",
            sorted(own.iterdir()),
            arrays("fashion_mnist", own, 10, (1, 28, 28)),
            has_checksum=form == "gz",
        )
    cifar = folder / "cifar"
    cifar.mkdir()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (4, 3073)).astype("uint8")
        rows[:, 0] = np.arange(4)
        (cifar / name).write_bytes(rows.tobytes())
    yield Format(
        "CIFAR",
        sorted(cifar.iterdir()),
        arrays("cifar10", cifar, 10, (3, 32, 32)),
        has_checksum=False,
    )
    yield _glyphs(folder, arrays)


def _glyphs(folder: Path, arrays: Callable) -> Format:
    import hashlib

    own = folder / "glyphs"
    own.mkdir()
    sums = {}
    for split in ("train", "test"):
        buffer = BytesIO()
        np.save(buffer, np.zeros((1, 1000, 28, 28), "uint8"))
        (own / f"{split}.npy").write_bytes(buffer.getvalue())
        sums[split] = hashlib.sha256(buffer.getvalue()).hexdigest()
    noted = {"freetype": "2", "characters": "", "pillow": "9", "sha256": sums}
    (own / "glyphs.json").write_text(json.dumps(noted))
    return Format(
        "glyphs", sorted(own.iterdir()), arrays("glyphs", own, 1000, (1, 28, 28)), is_text=True
    )


def all_of(bench: Bench, trials: int) -> Iterator[Tally]:
    """Trials of every format."""
    for form in formats(bench):
        yield tried(form, trials)
