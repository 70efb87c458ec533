"""Use a trained run: score it, export it with its card, read the patterns that it has learnt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trnet import config as configs
from trnet import experiment
from trnet.config import Config
from trnet.data import Batch, DataSet
from trnet.errors import UserError
from trnet.export import export_onnx, export_symbol, load_exported
from trnet.files import check_checksum, write_aside, write_checksum
from trnet.layers import fold
from trnet.models import Network, spatial_patterns
from trnet.result import read_result
from trnet.run_folder import run_folder
from trnet.tensor.backend import mx
from trnet.training import checkpoint
from trnet.training.devices import Compute
from trnet.training.evaluation import Scores, evaluate

_CONFIG = "trnet_config"  # the key of an exported file's metadata
_CHECKED_IMAGES = 32


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
        dataset, epoch, contexts = experiment.find_dataset(config), None, [mx.cpu()]
    elif path.is_file():
        raise UserError(f"{path}: expected a run folder, an .onnx or a -symbol.json file")
    else:
        config = configs.load(path / "config.yaml", _moved(root))
        dataset = experiment.find_dataset(config)
        network, epoch = _trained(config, dataset, path, which, contexts)
        network.hybridize(static_alloc=True)
    source = experiment.load(config, dataset, used=("val",))
    compute = Compute(contexts)
    size = config.train.batch_size
    steps = math.ceil(source.validation_size / size)

    def shown(size: int) -> Iterator[Batch]:
        """Batches, with a bar on a terminal."""
        batches = source.validation(size)
        return iter(tqdm(batches, "score", steps, unit=" batches", leave=False, disable=None))

    scored = replace(source, validation=shown)
    return config, epoch, evaluate(network, scored, dataset.classes, size, compute)


def _moved(root: str | None) -> tuple[str, ...]:
    """What overrides a run's config where its data have moved."""
    return () if root is None else (f"dataset.root={json.dumps(root)}",)


def _exported(path: Path, overrides: Sequence[str]) -> tuple[Config, Callable]:
    """The config that an exported file carries, and its network."""
    for file in _files(path):
        check_checksum(file)
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
        The file's, or the symbol's. Beside it is its SHA-256.

    Raises
    ------
    UserError
        For a run that has no checkpoint yet, and for a network that ONNX cannot express.
    """
    config = configs.load(folder / "config.yaml", _moved(root))
    dataset = experiment.find_dataset(config)
    network, _ = _trained(config, dataset, folder, which, [mx.cpu()])
    network = fold(network) if folds else network
    metadata = {_CONFIG: configs.dump(config)}
    output = output or folder / (config.name + (".onnx" if form == "onnx" else ""))
    if form == "symbol":
        written = export_symbol(network, output, dataset.shape, metadata)
    else:
        source = experiment.load(config, dataset, used=("val",))
        images, _ = next(source.validation(_CHECKED_IMAGES))
        try:
            written = export_onnx(network, output, dataset.shape, images.asnumpy(), metadata)
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from None
    for file in _files(written):
        write_checksum(file)
    return written


def _files(exported: Path) -> list[Path]:
    """The files of what was exported: a symbol has its parameters beside it."""
    weights = exported.with_name(exported.name.replace("-symbol.json", "-0000.params"))
    return [exported] if weights == exported else [exported, weights]


def write_card(folder: Path, which: str, file: Path) -> Path:
    """Write the card of what was exported of a run, beside it; returns its path.

    Parameters
    ----------
    folder, which
        As for :func:`export`, of a finished run.
    file : Path
        What that returned.
    """
    from trnet.report.card import card  # SciPy's statistics take a second to import

    result = read_result(folder)
    config = configs.load(folder / "config.yaml")
    last = getattr(checkpoint, which)(folder / "checkpoints")
    scores = checkpoint.load_metrics(last).rows[-1]
    weights = _files(file)[-1]
    stem = file.name.removesuffix("-symbol.json").removesuffix(".onnx")
    path = file.with_name(f"{stem}.md")
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
    dataset = experiment.find_dataset(config)
    network, _ = _trained(config, dataset, folder, "latest", [mx.cpu()])
    return spatial_patterns(network, dataset.shape, count)


def _trained(
    config: Config, dataset: DataSet, folder: Path, which: str, contexts: list[mx.Context]
) -> tuple[Network, int]:
    """A run's network with the parameters of a checkpoint, and the checkpoint's epoch."""
    path = getattr(checkpoint, which)(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder}: has no checkpoint yet")
    network = experiment.build(config, dataset, path)
    checkpoint.load_network(path, network, contexts)
    return network, checkpoint.load_state(path)["epoch"]
