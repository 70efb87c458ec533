"""An experiment: the network and data that a config names, trained into a run folder and scored.

The data set of a config is resolved once per run, by :func:`find_dataset`, and passed on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import numpy as np

from trnet import config as configs
from trnet.config import Config
from trnet.data import DATASETS, WHOLE, DataSet, DataSource, Request, Shard
from trnet.errors import ConfigError, UserError
from trnet.export import export_onnx, export_symbol, load_exported
from trnet.files import write_aside
from trnet.layers import fold
from trnet.models import (
    Network,
    ParameterCount,
    Start,
    attach_head,
    count_head,
    load_pretrained,
    make_backbone,
    spatial_patterns,
)
from trnet.result import VERSION, Result, processor, read_result, versions, write_result
from trnet.run_folder import earlier_result, held, run_folder
from trnet.savings import space_savings
from trnet.tensor.backend import mx
from trnet.training import checkpoint, loop
from trnet.training.devices import Compute
from trnet.training.distributed import ALONE, Workers
from trnet.training.evaluation import Scores, evaluate
from trnet.training.freezing import freeze
from trnet.training.optimizers import make_optimizer
from trnet.training.progress import Progress

_CONFIG = "trnet_config"  # the key of an exported file's metadata
_CHECKED_IMAGES = 32


def build(config: Config, dataset: DataSet) -> Network:
    """Build the network that a config names, for images of its data set.

    Raises
    ------
    ConfigError
        For an unknown network, a head that does not fit it, or frozen parameters that it lacks.
    """
    with _naming(config, "model.backbone"):
        backbone = make_backbone(config.model.backbone, dataset.shape, dataset.classes)
    with _naming(config, "model.head"):
        head = config.model.head.model_dump()
        network = attach_head(backbone, head, dataset.shape, dataset.classes)
    with _naming(config, "train.freeze"):
        freeze(network, config.train.freeze)
    return network


def count(config: Config) -> ParameterCount:
    """Count the parameters of a config's head, without allocating them."""
    dataset = find_dataset(config)
    return count_head(build(config, dataset), dataset.shape)


def check(config: Config, runs: Path) -> None:
    """Refuse a config that cannot be trained into its run folder, before anything is trained.

    :func:`build` checks the network, which is the same for every seed.
    """
    if earlier_result(config, runs) is None:
        _check_start(config, run_folder(runs, config))


def _check_start(config: Config, folder: Path) -> None:
    """Refuse an unknown optimiser, and a missing file of weights if the run starts from it."""
    with _naming(config, "train.optimizer"):
        make_optimizer(config.train)
    source = config.model.pretrained
    if isinstance(source, str) and checkpoint.latest(folder / "checkpoints") is None:
        with _naming(config, "model.pretrained"):
            if not Path(source).is_file():
                raise ValueError(f"expected an existing file, got {source!r}")


def check_data(config: Config) -> None:
    """Refuse a config whose images cannot be loaded, if loading is quick: they fit into memory.

    Raises
    ------
    UserError
        With the experiment's name.
    """
    dataset = find_dataset(config)
    if dataset.in_memory:
        try:
            load(config, dataset)
        except UserError as error:
            raise UserError(f"{config.suite}/{config.name}: {error}") from None


def train(
    config: Config,
    baseline: Config | None,
    runs: Path,
    contexts: list[mx.Context],
    show: bool = True,
    workers: Workers = ALONE,
) -> Result:
    """Train an experiment into its run folder, or resume it after its last complete epoch.

    Parameters
    ----------
    config : Config
    baseline : Config or None
        The experiment whose head the savings are measured against; None for itself.
    runs : Path
        The folder of the run folders.
    contexts : list of Context
        Devices.
    show : bool
        Whether to show progress.
    workers : Workers
        The processes that train together. They share the run folder; one of them writes.

    Returns
    -------
    Result
        As in ``result.json``; that of an earlier session if the run is finished.

    Raises
    ------
    UserError
        If the config, the data or the run folder cannot be used, before anything is written.
    """
    if config.train.dtype == "float16" and contexts[0].device_type == "cpu":
        raise UserError(
            f"{config.suite}/{config.name}: train.dtype: expected float32 on a CPU, for which "
            "MXNet has no float16 products, or --devices gpu:0; got float16"
        )
    folder = run_folder(runs, config)
    finished = earlier_result(config, runs)
    workers.agree("the config's hash", int(config.hash, 16))
    workers.agree("the seed", config.seed)
    workers.agree("the number of results", int(finished is not None))
    if finished is not None:
        return finished
    _check_start(config, folder)

    dataset = find_dataset(config)
    network = build(config, dataset)
    head = count_head(network, dataset.shape)
    baseline_weights = count(baseline).weights if baseline else head.weights
    source = load(config, dataset, Shard(workers.index, workers.count))
    workers.agree("the number of images to train on", source.train_size)
    workers.agree("the number of images to score", source.validation_size)

    recipe = config.train
    compute = Compute(contexts, recipe.dtype, workers)
    images = source.train_batches(recipe.batch_size) * min(recipe.batch_size, source.train_size)
    label = f"{config.name} seed {config.seed}"
    show = show and workers.writes
    with held(folder, workers), Progress(label, recipe.epochs, images, show) as progress:
        if workers.writes:
            write_aside(folder / "config.yaml", configs.dump(config))
        for line in recipe.cuts:
            progress.say(line)
        loop.initialize(network, dataset.shape, config.seed, compute)
        earlier, found = checkpoint.latest(folder / "checkpoints"), {}
        if config.model.pretrained and earlier is None:
            start = _start_trained(network, config, dataset, source, compute)
            progress.say(str(start))
            found = {} if start.fit is None else {"fit": start.fit.known}
        if recipe.epochs > 0:
            metrics = loop.train(
                network, source, dataset.classes, recipe, config.seed, compute, folder, progress
            )
        elif earlier is None:
            metrics = loop.score_start(
                network, source, dataset.classes, recipe, compute, folder, found
            )
        else:
            metrics = checkpoint.load_metrics(earlier)

    result = _result(config, source, head, baseline_weights, metrics, compute)
    if workers.writes:
        write_result(folder, result)
    return result


def _result(
    config: Config,
    source: DataSource,
    head: ParameterCount,
    baseline_weights: int,
    metrics: list[dict],
    compute: Compute,
) -> Result:
    last, trained = metrics[-1], [row for row in metrics if row["epoch"] > 0]
    speeds = [row["images_per_second"] for row in trained] or [0.0]
    return {
        "version": VERSION,
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
        "curve": {key: [row[key] for row in trained] for key in ("train_loss", "top1")},
        "head_parameters": asdict(head),
        "baseline_head_weights": baseline_weights,
        "space_savings": space_savings(head.weights, baseline_weights),
        "epochs": config.train.epochs,
        "wall_seconds": sum(row["seconds"] for row in metrics),
        "images_per_second": median(speeds),
        "versions": versions(),
        "processor": processor(compute.devices),
        "threads": os.environ.get("OMP_NUM_THREADS", "MXNet's default"),
        "workers": compute.workers.count,
        **({"fit": last["fit"]} if "fit" in last else {}),
    }


def score(
    path: Path, which: str, contexts: list[mx.Context], root: str | None = None
) -> tuple[Config, int | None, Scores]:
    """Score a run's checkpoint, or what was exported of it, on the validation images.

    Parameters
    ----------
    path : Path
        A run folder, or a file that :func:`export` wrote.
    which : {"latest", "best"}
    contexts : list of Context
        Devices.
    root : str, optional
        The folder of the data, if they have moved.

    Returns
    -------
    Config, int or None, Scores
        The run's config, the checkpoint's epoch (None for an exported file), and its scores.

    Raises
    ------
    UserError
        For a path that is neither, and for data that cannot be loaded.
    """
    if path.suffix in (".onnx", ".json"):
        config, network = _exported(path, _moved(root))
        dataset, epoch, contexts = find_dataset(config), None, [mx.cpu()]
    elif path.is_file():
        raise UserError(f"{path}: expected a run folder, an .onnx or a -symbol.json file")
    else:
        config = configs.load(path / "config.yaml", _moved(root))
        dataset = find_dataset(config)
        network, epoch = _trained(config, dataset, path, which, contexts)
        network.hybridize(static_alloc=True)
    source = load(config, dataset)
    compute = Compute(contexts)
    scores = evaluate(network, source, dataset.classes, config.train.batch_size, compute)
    return config, epoch, scores


def _moved(root: str | None) -> tuple[str, ...]:
    """What overrides a run's config where its data have moved."""
    return () if root is None else (f"dataset.root={json.dumps(root)}",)


def _exported(path: Path, overrides: Sequence[str]) -> tuple[Config, Callable]:
    """The config that an exported file carries, and its network."""
    try:
        network, metadata = load_exported(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    if _CONFIG not in metadata:
        raise UserError(f"{path}: expected a file that `trnet export` wrote, found no config in it")
    return configs.parse(metadata[_CONFIG], path, overrides), network


def export(
    folder: Path, which: str, form: str, folds: bool, output: Path | None, root: str | None = None
) -> Path:
    """Export a run's network, with its config, for inference without trnet.

    Parameters
    ----------
    folder : Path
        A run folder.
    which : {"latest", "best"}
        Which checkpoint.
    form : {"onnx", "symbol"}
    folds : bool
        Whether its tensor layers are folded.
    output : Path, optional
        Of the file, for a symbol without its endings: by default the run's name, in its folder.
    root : str, optional
        The folder of the data, if they have moved. ONNX files are checked on validation images.

    Returns
    -------
    Path
        The file's, or the symbol's.

    Raises
    ------
    UserError
        For a run that has no checkpoint yet, and for a network that ONNX cannot express.
    """
    config = configs.load(folder / "config.yaml", _moved(root))
    dataset = find_dataset(config)
    network, _ = _trained(config, dataset, folder, which, [mx.cpu()])
    network = fold(network) if folds else network
    metadata = {_CONFIG: configs.dump(config)}
    output = output or folder / (config.name + (".onnx" if form == "onnx" else ""))
    if form == "symbol":
        return export_symbol(network, output, dataset.shape, metadata)
    images, _ = next(load(config, dataset).validation(_CHECKED_IMAGES))
    try:
        return export_onnx(network, output, dataset.shape, images.asnumpy(), metadata)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None


def write_card(folder: Path, which: str, file: Path) -> Path:
    """Write the card of what was exported of a run, beside it; returns its path.

    Parameters
    ----------
    folder, which
        As for :func:`export`.
    file : Path
        What that returned.

    Raises
    ------
    UserError
        If the run is not finished.
    """
    from trnet.report.card import card  # SciPy's statistics take a second to import

    result = read_result(folder)
    if result is None:
        raise UserError(f"{folder}: expected a finished run for a card, found no result.json")
    config = configs.load(folder / "config.yaml")
    last = getattr(checkpoint, which)(folder / "checkpoints")
    scores = checkpoint.load_metrics(last)[-1]
    path = file.with_name(f"{file.name}.md")
    weights = file.with_name(file.name.replace("-symbol.json", "-0000.params"))
    write_aside(path, card(config, result, scores, weights))
    return path


def patterns(config: Config, runs: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The leading ``count`` patterns of pixels that a config's run has learnt.

    As :func:`trnet.models.spatial_patterns` returns them. None if there is no finished run of this
    config with its checkpoint, or its head has no such patterns.
    """
    folder = run_folder(runs, config)
    result = read_result(folder)
    if result is None or result["config_hash"] != config.hash:
        return None
    if checkpoint.latest(folder / "checkpoints") is None:
        return None
    dataset = find_dataset(config)
    network, _ = _trained(config, dataset, folder, "latest", [mx.cpu()])
    return spatial_patterns(network, dataset.shape, count)


def _trained(
    config: Config, dataset: DataSet, folder: Path, which: str, contexts: list[mx.Context]
) -> tuple[Network, int]:
    """A run's network with the parameters of a checkpoint, and the checkpoint's epoch."""
    path = getattr(checkpoint, which)(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder}: has no checkpoint yet")
    network = build(config, dataset)
    checkpoint.load_network(path, network, contexts)
    return network, checkpoint.load_metrics(path)[-1]["epoch"]


@contextmanager
def _naming(config: Config, key: str) -> Iterator[None]:
    """Name the experiment and the key in errors about the key's value."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{config.suite}/{config.name}: {key}: {error}") from None


def find_dataset(config: Config) -> DataSet:
    """The data set that a config names, with the classes and the size that it asks for.

    Raises
    ------
    ConfigError
        For an unknown data set, or a key that this one does not take.
    """
    wanted = config.dataset
    with _naming(config, "dataset.name"):
        if wanted.name not in DATASETS:
            raise ValueError(f"expected one of {', '.join(DATASETS)}, got {wanted.name!r}")
    dataset = DATASETS[wanted.name]
    taken = {
        "classes": dataset.takes_size,
        "size": dataset.takes_size,
        "samples": dataset.takes_samples,
        "holdout": dataset.takes_samples,
    }
    for key, is_taken in taken.items():
        value = getattr(wanted, key)
        if value is not None and not is_taken:
            with _naming(config, f"dataset.{key}"):
                raise ValueError(f"expected none, since {wanted.name} has a fixed one, got {value}")
    channels, height, width = dataset.shape
    return replace(
        dataset,
        classes=wanted.classes or dataset.classes,
        shape=(channels, wanted.size or height, wanted.size or width),
    )


def _start_trained(
    network: Network, config: Config, dataset: DataSet, source: DataSource, compute: Compute
) -> Start:
    """Start an initialised network from trained weights; returns how its head starts."""
    model = config.model
    images = None if model.fit is None else _sample(config, source, compute, model.fit.images)
    with _naming(config, "model.pretrained"):
        start = load_pretrained(
            network,
            model.backbone,
            model.pretrained,
            dataset.shape,
            dataset.classes,
            images,
            model.fit is not None and model.fit.weigh_classes,
        )
    if model.fit is not None and not start.is_whole:
        with _naming(config, "model.fit"):
            raise ValueError(
                f"expected a head that can be fitted to the trained one of {model.pretrained}, "
                f"got one of which {start}"
            )
    return start


def _sample(
    config: Config, source: DataSource, compute: Compute, images: int
) -> list[mx.nd.NDArray]:
    """Batches of training images, augmented as in the training, on one device."""
    batches = []
    for batch, _ in source.train(config.train.batch_size, (config.seed, 0)):
        batch = batch[:images]
        batches.append(batch.as_in_context(compute.devices[0]).astype(compute.dtype))
        images -= len(batch)
        if images == 0:
            break
    return batches


def activations(
    config: Config, images: int, contexts: list[mx.Context]
) -> tuple[Network, list[mx.nd.NDArray]]:
    """A network with its trained weights, and what its head gets of training images, in batches."""
    dataset, compute = find_dataset(config), Compute(contexts, config.train.dtype)
    source = load(config, dataset)
    network = build(config, dataset)
    loop.initialize(network, dataset.shape, config.seed, compute)
    _start_trained(network, config, dataset, source, compute)
    sample = _sample(config, source, compute, images)
    return network, [network.features(batch) for batch in sample]


def load(config: Config, dataset: DataSet, shard: Shard = WHOLE) -> DataSource:
    """Load the images that a config names, or a worker's share of them."""
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
