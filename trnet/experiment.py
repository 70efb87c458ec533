"""An experiment: the network and data that a config names, trained into a run folder.

The data set of a config is resolved once per run, by :func:`find_dataset`, and passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from trnet import config as configs
from trnet import threads
from trnet.config import Config, Dataset, DenseHead
from trnet.data import DATASETS, WHOLE, DataSet, DataSource, Request, Shard
from trnet.errors import ConfigError, UserError
from trnet.files import check_checksum, write_aside
from trnet.models import (
    Network,
    ParameterCount,
    Start,
    attach_head,
    check_sizes,
    count_head,
    load_pretrained,
    make_backbone,
    rank_by_savings,
    rank_of_trl,
)
from trnet.result import VERSION, Result, processor, versions, write_result
from trnet.run_folder import earlier_result, held, run_folder
from trnet.savings import space_savings
from trnet.tensor.backend import mx
from trnet.tensor.factorizations import is_savings
from trnet.training import checkpoint, loop
from trnet.training.devices import Compute
from trnet.training.distributed import ALONE, Workers
from trnet.training.freezing import freeze
from trnet.training.metrics import tensorboard
from trnet.training.optimizers import make_optimizer
from trnet.training.progress import Progress
from trnet.training.stopping import Stop


def build(config: Config, dataset: DataSet, own: Path | None = None) -> Network:
    """Build the network that a config names, for images of its data set.

    A rank that trained weights choose is that of the run's ``own`` checkpoint, if it has one: the
    trained weights may be gone by then.

    Raises
    ------
    ConfigError
        For an unknown network, a head that does not fit it, or frozen parameters that it lacks.
    """
    with _naming(config, "model.backbone"):
        backbone = make_backbone(config.model.backbone, dataset.shape, dataset.classes)
    head = _with_chosen_rank(config, dataset, own)
    with _naming(config, "model.head"):
        network = attach_head(backbone, head, dataset.shape, dataset.classes)
    with _naming(config, "train.freeze"):
        freeze(network, config.train.freeze)
    return network


def _with_chosen_rank(config: Config, dataset: DataSet, own: Path | None) -> dict[str, Any]:
    """The keys of a config's head. Savings become the rank that trained weights choose."""
    model, head = config.model, config.model.head.model_dump()
    if head["type"] == "trl" and config.pretrained and is_savings(head["rank"]):
        chosen = None
        if own is not None:
            with suppress(ValueError):  # it is damaged, and will be set aside
                chosen = rank_of_trl(own / checkpoint.NETWORK, head["factorization"])
        with _naming(config, "model.head.rank"):
            chosen = chosen or rank_by_savings(
                model.backbone,
                config.pretrained,
                dataset.shape,
                dataset.classes,
                head["factorization"],
                head["rank"]["savings"],
            )
        head["rank"] = chosen or head["rank"]
    return head


def count(config: Config) -> ParameterCount:
    """Count the parameters of a config's head, without allocating them."""
    dataset = find_dataset(config)
    return count_head(build(config, dataset), dataset.shape)


def _own_head(config: Config) -> Config | None:
    """A config with the backbone's own head, for one that names no baseline of a TCL or TRL."""
    if isinstance(config.model.head, DenseHead):
        return None
    changes = {"head": DenseHead(type="dense"), "fit": None, "pretrained": False}
    model = config.model.model_copy(update=changes)
    train = config.train.model_copy(update={"freeze": []})  # may name parts of the other head
    return config.model_copy(update={"model": model, "train": train})


def check(config: Config, runs: Path, contexts: list[mx.Context]) -> None:
    """Refuse a config that cannot be trained into its run folder, before anything is trained.

    :func:`check_network` checks the network, which is the same for every seed.
    """
    if earlier_result(config, runs) is None:
        _check_start(config, run_folder(runs, config), contexts)


def check_network(config: Config, runs: Path) -> None:
    """Refuse a config whose network cannot be built, or whose head does not fit its images."""
    dataset = find_dataset(config)
    _build_checked(config, dataset, run_folder(runs, config))


def _build_checked(config: Config, dataset: DataSet, folder: Path) -> Network:
    network = build(config, dataset, checkpoint.newest(folder / "checkpoints"))
    with _naming(config, "model.head"):
        check_sizes(network, dataset.shape)
    return network


def _check_start(config: Config, folder: Path, contexts: list[mx.Context]) -> None:
    """Refuse what cannot start: float16 on a CPU, an unknown optimiser, missing weights."""
    if config.train.dtype == "float16" and contexts[0].device_type == "cpu":
        raise UserError(
            f"{config.suite}/{config.name}: train.dtype: expected float32 on a CPU, for which "
            "MXNet has no float16 products, or --devices gpu:0; got float16"
        )
    with _naming(config, "train.optimizer"):
        make_optimizer(config.train)
    source = config.pretrained
    if isinstance(source, str) and checkpoint.newest(folder / "checkpoints") is None:
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
    stop: Stop | None = None,
    logs_to_tensorboard: bool = False,
) -> Result:
    """Train an experiment into its run folder, or resume it from its latest checkpoint.

    Parameters
    ----------
    config : Config
    baseline : Config or None
        The experiment whose head the savings are measured against. None for the backbone's own
        head, or for itself if its head is dense.
    runs : Path
        The folder of the run folders.
    contexts : list of Context
        Devices.
    show : bool
        Whether to show progress.
    workers : Workers
        The processes that train together. They share the run folder; one of them writes.
    stop : Stop, optional
        Ends the training when it becomes true, with a checkpoint.
    logs_to_tensorboard : bool
        Whether metrics are logged there, too, into the run folder.

    Returns
    -------
    Result
        As in ``result.json``; that of an earlier session if the run is finished.

    Raises
    ------
    Stopped
        When ``stop`` has become true.
    UserError
        If the config, the data or the run folder cannot be used, before anything is written.
    """
    folder = run_folder(runs, config)
    finished = earlier_result(config, runs)
    workers.agree("the config's hash", int(config.hash, 16))
    workers.agree("the seed", config.seed)
    workers.agree("the number of results", int(finished is not None))
    if finished is not None:
        return finished
    _check_start(config, folder, contexts)

    dataset = find_dataset(config)
    network = _build_checked(config, dataset, folder)
    head = count_head(network, dataset.shape)
    baseline = baseline or _own_head(config)
    baseline_weights = count(baseline).weights if baseline else head.weights
    source = load(config, dataset, Shard(workers.index, workers.count))
    source = source.repeated(config.dataset.repeat)
    workers.agree("the number of images to train on", source.train_size)
    workers.agree("the number of images to score", source.validation_size)

    recipe = config.train
    compute = Compute(contexts, recipe.dtype, workers)
    images = source.train_batches(recipe.batch_size) * min(recipe.batch_size, source.train_size)
    label = f"{config.name} seed {config.seed}"
    show = show and workers.writes
    logs = tensorboard(folder) if logs_to_tensorboard and workers.writes else nullcontext()
    progressing = Progress(label, recipe.epochs, images, show)
    with held(folder, workers), progressing as progress, logs as log:
        for line in recipe.cuts:
            progress.say(line)
        loop.initialize(network, dataset.shape, config.seed, compute)
        earlier, found = checkpoint.newest(folder / "checkpoints"), {}
        if config.pretrained and earlier is None:
            start = _start_trained(network, config, dataset, compute)
            progress.say(str(start))
            found = {} if start.fit is None else {"fit": start.fit.known}
        if workers.writes:
            write_aside(folder / "config.yaml", configs.dump(config))
        if recipe.epochs > 0:
            metrics = loop.train(
                network,
                source,
                dataset.classes,
                recipe,
                config.seed,
                compute,
                folder,
                progress,
                config.hash_until,
                stop,
                log,
            )
        else:
            metrics = loop.score_start(
                network,
                source,
                dataset.classes,
                recipe,
                compute,
                folder,
                found,
                config.seed,
                config.hash,
            )

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
            **({"note": source.note} if source.note else {}),
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
        "threads": threads.in_use(),
        "workers": compute.workers.count,
        **({"fit": last["fit"]} if "fit" in last else {}),
        **({"skipped": sum(row["skipped"] for row in trained)} if "skipped" in last else {}),
    }


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
        "damaged": dataset.takes_damaged,
    }
    for key, is_taken in taken.items():
        value = getattr(wanted, key)
        if value != Dataset.model_fields[key].default and not is_taken:
            with _naming(config, f"dataset.{key}"):
                raise ValueError(f"expected none for {wanted.name}, got {value}")
    channels, height, width = dataset.shape
    return replace(
        dataset,
        classes=wanted.classes or dataset.classes,
        shape=(channels, wanted.size or height, wanted.size or width),
    )


def _start_trained(network: Network, config: Config, dataset: DataSet, compute: Compute) -> Start:
    """Start an initialised network from trained weights; returns how its head starts."""
    model = config.model

    def images() -> list[mx.nd.NDArray]:
        return _sample(config, dataset, compute, model.fit.images)

    if isinstance(config.pretrained, str):
        checkpoint.check_file(Path(config.pretrained))
        check_checksum(Path(config.pretrained))
    with _naming(config, "model.pretrained"):
        start = load_pretrained(
            network,
            model.backbone,
            config.pretrained,
            dataset.shape,
            dataset.classes,
            None if model.fit is None else images,
            model.fit is not None and model.fit.weigh_classes,
        )
    if model.fit is not None and not start.is_whole:
        with _naming(config, "model.fit"):
            raise ValueError(
                f"expected a head that can be fitted to the trained one of {config.pretrained}; "
                f"but {start}"
            )
    return start


def _sample(config: Config, dataset: DataSet, compute: Compute, images: int) -> list[mx.nd.NDArray]:
    """Batches of training images, augmented as in the training, on one device.

    Of all images, also where several workers share them: all fit the same head.
    """
    batches = []
    source = load(config, dataset, used=("train",))
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
    network = build(config, dataset)
    loop.initialize(network, dataset.shape, config.seed, compute)
    _start_trained(network, config, dataset, compute)
    sample = _sample(config, dataset, compute, images)
    return network, list(network.head_inputs(sample))


def load(
    config: Config,
    dataset: DataSet,
    shard: Shard = WHOLE,
    used: tuple[str, ...] = ("train", "val"),
) -> DataSource:
    """Load the images that a config names, or a worker's share of them.

    Of the parts that are ``used``, damaged images are left out if the config says so.
    """
    request = Request(
        config.dataset.root,
        config.dataset.augment,
        dataset.classes,
        dataset.shape,
        threads=threads.cores(),
        shard=shard,
        samples=config.dataset.samples,
        holdout=config.dataset.holdout or 0.0,
        seed=config.seed,
        skip_damaged=used if config.dataset.damaged == "skip" else (),
    )
    return dataset.load(request)
