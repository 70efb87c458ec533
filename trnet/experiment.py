"""Experiments: what a config names, built, trained into a run folder, and scored."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np

from trnet import config as configs
from trnet.config import Config
from trnet.data import DATASETS, WHOLE, DataSet, DataSource, Request, Shard
from trnet.errors import ConfigError, UserError
from trnet.files import Result, read_json, write_aside
from trnet.models import (
    Network,
    ParameterCount,
    count_head,
    exchange_head,
    load_pretrained,
    make_backbone,
    space_savings,
    spatial_patterns,
)
from trnet.tensor.backend import mx
from trnet.training import checkpoint, loop
from trnet.training.evaluation import Scores, evaluate
from trnet.training.machines import ALONE, Workers
from trnet.training.progress import Progress

_PACKAGES = ("mxnet", "gluoncv", "tensorly", "numpy", "trnet")


def run_folder(runs: Path, config: Config) -> Path:
    """The folder of a config's run: ``runs/<suite>/<name>/seed<k>``."""
    return runs / config.suite / config.name / f"seed{config.seed}"


def build(config: Config) -> Network:
    """Build the network that a config names.

    Raises
    ------
    ConfigError
        For an unknown data set or network, or a head that does not fit it.
    """
    dataset = find_dataset(config)
    with _naming(config, "model.backbone"):
        backbone = make_backbone(config.model.backbone, dataset.shape, dataset.classes)
    with _naming(config, "model.head"):
        head = config.model.head.model_dump()
        return exchange_head(backbone, head, dataset.shape, dataset.classes)


def count(config: Config) -> ParameterCount:
    """Count the parameters of a config's head; no memory is allocated for them."""
    return count_head(build(config), find_dataset(config).shape)


def check(config: Config, runs: Path) -> None:
    """Refuse, before anything is trained, a config that cannot be trained into its run folder.

    Whether its network can be built, which no seed decides, :func:`build` tells.
    """
    if earlier_result(config, runs) is None:
        _check_pretrained(config, run_folder(runs, config))


def _check_pretrained(config: Config, folder: Path) -> None:
    """Refuse a file of weights that is not there, where the run still needs it."""
    source = config.model.pretrained
    if isinstance(source, str) and checkpoint.latest(folder / "checkpoints") is None:
        with _naming(config, "model.pretrained"):
            if not Path(source).is_file():
                raise ValueError(f"got {source!r}: there is no such file")


def check_data(config: Config) -> None:
    """Refuse a config whose images are not there, where to look is quick: they fit into memory.

    Raises
    ------
    UserError
        That names the experiment.
    """
    if find_dataset(config).in_memory:
        try:
            load(config)
        except UserError as error:
            raise UserError(f"{config.suite}/{config.name}: {error}") from None


def is_finished(config: Config, runs: Path) -> bool:
    """Whether a config's run has its result."""
    return (run_folder(runs, config) / "result.json").is_file()


def train(
    config: Config,
    baseline: Config | None,
    runs: Path,
    contexts: list[mx.Context],
    show: bool = True,
    workers: Workers = ALONE,
) -> dict:
    """Train an experiment into its run folder, or go on where an earlier session stopped.

    Parameters
    ----------
    config : Config
    baseline : Config or None
        The experiment whose head the savings are measured against; None for itself.
    runs : Path
    contexts : list of Context
    show : bool
        Whether to show progress.
    workers : Workers
        Who trains; several share the run folder, in which one of them writes.

    Returns
    -------
    dict
        What ``result.json`` holds.

    Raises
    ------
    UserError
        For what is wrong with the config, the data or the run folder, before anything is written.
    """
    if config.train.dtype == "float16" and contexts[0].device_type == "cpu":
        raise UserError(
            f"{config.suite}/{config.name}: train.dtype: got float16 on a CPU, for which MXNet has "
            "no float16 products; --devices gpu:0, or float32, would fit"
        )
    folder = run_folder(runs, config)
    finished = earlier_result(config, runs)
    workers.agree("the config's hash", int(config.hash, 16))
    workers.agree("the seed", config.seed)
    workers.agree("the number of results", int(finished is not None))
    if finished is not None:
        return finished
    _check_pretrained(config, folder)
    network = build(config)
    dataset = find_dataset(config)
    weights = count_head(network, dataset.shape)
    baseline_weights = count(baseline).weights if baseline else weights.weights
    source = load(config, Shard(workers.index, workers.count))
    workers.agree("the number of images to train on", source.train_size)
    workers.agree("the number of images to score", source.validation_size)
    recipe = config.train
    images = source.train_batches(recipe.batch_size) * min(recipe.batch_size, source.train_size)
    label = f"{config.name} seed {config.seed}"
    show = show and workers.writes
    with _held(folder, workers), Progress(label, recipe.epochs, images, show) as progress:
        if workers.writes:
            write_aside(folder / "config.yaml", configs.dump(config))
        loop.initialize(network, dataset.shape, config.seed, contexts, recipe.dtype)
        if config.model.pretrained and checkpoint.latest(folder / "checkpoints") is None:
            progress.say(_start_trained(network, config))
        metrics = loop.train(
            network,
            source,
            dataset.classes,
            recipe,
            config.seed,
            contexts,
            folder,
            progress,
            workers,
        )
    last = metrics[-1]
    result = {
        "name": config.name,
        "suite": config.suite,
        "seed": config.seed,
        "config_hash": config.hash,
        "dataset": {
            "name": config.dataset.name,
            "train": source.train_size,
            "validation": source.validation_size,
        },
        "top1": last["top1"],
        "top5": last["top5"],
        "loss": last["loss"],
        "curve": {key: [row[key] for row in metrics] for key in ("train_loss", "top1")},
        "head_parameters": asdict(weights),
        "baseline_head_weights": baseline_weights,
        "space_savings": space_savings(weights.weights, baseline_weights),
        "epochs": recipe.epochs,
        "wall_seconds": sum(row["seconds"] for row in metrics),
        "images_per_second": median(row["images_per_second"] for row in metrics),
        "versions": versions(),
        "processor": processor(contexts),
        "threads": os.environ.get("OMP_NUM_THREADS", "MXNet's default"),
        "workers": workers.count,
    }
    if workers.writes:
        write_aside(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def score(
    folder: Path, which: str, contexts: list[mx.Context], root: str | None = None
) -> tuple[Config, int, Scores]:
    """Score a run's checkpoint on the validation images.

    Parameters
    ----------
    folder : Path
        A run folder.
    which : {"latest", "best"}
    contexts : list of Context
    root : str, optional
        Where the data are, if not where they were.

    Returns
    -------
    Config, int, Scores
        The run's config and the checkpoint's epoch beside its scores.
    """
    moved = () if root is None else (f"dataset.root={json.dumps(root)}",)
    config = configs.load(folder / "config.yaml", moved)
    network, epoch = _trained(config, folder, which, contexts)
    network.hybridize(static_alloc=True)
    dataset = find_dataset(config)
    source = load(config)
    scores = evaluate(network, source, dataset.classes, config.train.batch_size, contexts)
    return config, epoch, scores


def patterns(config: Config, runs: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The leading patterns of pixels that a config's run has learnt, where they are still there.

    As :func:`trnet.models.spatial_patterns` finds them; None without a finished run of this very
    config, its checkpoint, or a head that has any.
    """
    folder = run_folder(runs, config)
    path = folder / "result.json"
    if not path.is_file() or read_json(path, Result)["config_hash"] != config.hash:
        return None
    if checkpoint.latest(folder / "checkpoints") is None:
        return None
    network, _ = _trained(config, folder, "latest", [mx.cpu()])
    return spatial_patterns(network, find_dataset(config).shape, count)


def _trained(
    config: Config, folder: Path, which: str, contexts: list[mx.Context]
) -> tuple[Network, int]:
    """A run's network as a checkpoint of it has it, and the checkpoint's epoch."""
    path = getattr(checkpoint, which)(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder}: holds no checkpoint yet")
    network = build(config)
    checkpoint.load_network(path, network, contexts)
    return network, checkpoint.load_metrics(path)[-1]["epoch"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def processor(contexts: list[mx.Context]) -> str:
    """What computed: the CPU's name and its cores, or the GPUs."""
    if contexts[0].device_type == "gpu":
        return ", ".join(map(str, contexts))
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def _version(package: str) -> str:
    from trnet import __version__

    candidates = ("mxnet", "mxnet-cu112") if package == "mxnet" else (package,)
    for candidate in candidates:
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return __version__ if package == "trnet" else "unknown"


@contextmanager
def _held(folder: Path, workers: Workers = ALONE) -> Iterator[None]:
    """Keep a run folder for these workers while they train; the one that writes holds it."""
    if not workers.writes:
        workers.wait()
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is training it; wait for its end") from None
        workers.wait()
        yield


@contextmanager
def _naming(config: Config, key: str) -> Iterator[None]:
    """Name the experiment and the key in what is wrong with the key's value."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{config.suite}/{config.name}: {key}: {error}") from None


def find_dataset(config: Config) -> DataSet:
    """What is known of a config's data set, with the classes and the size that it asks for."""
    wanted = config.dataset
    with _naming(config, "dataset.name"):
        if wanted.name not in DATASETS:
            raise ValueError(f"got {wanted.name!r}; known: {', '.join(DATASETS)}")
    dataset = DATASETS[wanted.name]
    for key in ("classes", "size"):
        value = getattr(wanted, key)
        if value is not None and not dataset.takes_size:
            with _naming(config, f"dataset.{key}"):
                raise ValueError(f"got {value}; {wanted.name} has its own, leave it")
    for key in ("samples", "holdout"):
        value = getattr(wanted, key)
        if value is not None and not dataset.takes_samples:
            with _naming(config, f"dataset.{key}"):
                raise ValueError(f"got {value}; {wanted.name} is used whole, leave it")
    channels, height, width = dataset.shape
    return replace(
        dataset,
        classes=wanted.classes or dataset.classes,
        shape=(channels, wanted.size or height, wanted.size or width),
    )


def _start_trained(network: Network, config: Config) -> str:
    """Start an initialised network from trained weights; says how its head starts."""
    dataset, source = find_dataset(config), config.model.pretrained
    with _naming(config, "model.pretrained"):
        return load_pretrained(
            network, config.model.backbone, source, dataset.shape, dataset.classes
        )


def load(config: Config, shard: Shard = WHOLE) -> DataSource:
    """The images that a config names, or a worker's share of them."""
    dataset = find_dataset(config)
    request = Request(
        config.dataset.root,
        config.dataset.augment,
        dataset.classes,
        dataset.shape,
        threads=len(os.sched_getaffinity(0)),
        shard=shard,
        samples=config.dataset.samples,
        holdout=config.dataset.holdout or 0.0,
        seed=config.seed,
    )
    return dataset.load(request)


def earlier_result(config: Config, runs: Path) -> dict | None:
    """The result of a run that is finished; refuses a folder that another config made."""
    folder = run_folder(runs, config)
    if checkpoint.latest(folder / "checkpoints") or (folder / "result.json").is_file():
        earlier = configs.load(folder / "config.yaml")
        if earlier.hash != config.hash:
            raise UserError(
                f"{folder}: was made by another config ({_difference(earlier, config)}); "
                "another --runs, or the folder removed, would fit"
            )
    path = folder / "result.json"
    return read_json(path, Result) if path.is_file() else None


def _difference(earlier: Config, config: Config) -> str:
    """The first key in which two configs differ."""
    then, now = (
        _leaves(c.model_dump(include={"dataset", "model", "train"})) for c in (earlier, config)
    )
    keys = [key for key in {**then, **now} if key != "dataset.root"]
    key = next(key for key in keys if repr(then.get(key)) != repr(now.get(key)))
    return f"{key}: {then.get(key)!r} there, {now.get(key)!r} here"


def _leaves(values: dict, prefix: str = "") -> dict:
    leaves = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        leaves.update(_leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return leaves
