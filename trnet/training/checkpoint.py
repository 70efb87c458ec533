"""Checkpoints: one folder each, renamed into place, so that it is complete or does not exist.

A checkpoint holds the network's parameters, the optimiser's arrays, ``state.json`` and
``manifest.json``, which is written last and has the size and the SHA-256 of the other files. What
is read is checked against it. ``epoch-0003`` is of three whole epochs, and
``epoch-0004-step-000120`` of 120 steps more. Kept are the last two and the best by Top-1: a damaged
one is set aside, and a training resumes from the one before. Beside them is the log of all epochs'
metrics; each checkpoint has the size and the SHA-256 of the rows up to its epoch.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional, Union

from mxnet.gluon import HybridBlock, Parameter, Trainer
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from trnet import threads
from trnet.errors import UserError, lines_of
from trnet.files import File, check_described, described, naming, read_json, sync
from trnet.optimize import state_arrays
from trnet.tensor.backend import mx
from trnet.training.metrics import Metrics

VERSION = 2
NETWORK, _OPTIMIZER, _STATE = "network.params", "optimizer.params", "state.json"
MANIFEST = "manifest.json"
STATISTICS = ("running_mean", "running_var")  # of batch normalisation, which gradients do not train
_KEPT = 2  # of the latest
_PREFIX = "epoch-"
# Anything else in the folder is the user's.
_NAME = re.compile(_PREFIX + r"(\d{4,})(?:-step-(\d{6,}))?")


class Epoch(TypedDict):
    """What a training that resumes needs of an epoch's metrics; there are more."""

    epoch: Annotated[int, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=1)]


class Within(TypedDict):
    """Where in an epoch a checkpoint is: its steps, the images of these, and their summed loss.

    Of the steps, some were skipped, because a gradient was not finite.
    """

    step: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    loss: float
    skipped: NotRequired[Annotated[int, Field(ge=0)]]
    seconds: float


class _Versioned(TypedDict):
    version: int


class State(_Versioned):
    """``state.json``: whose a checkpoint is, and what a training needs beside the arrays.

    Attributes
    ----------
    version : int
        Of the checkpoint's structure.
    epoch : int
        The number of whole epochs.
    within : Within or None
        What was done of the next one.
    seed : int
    config_hash : str
        Of what decides the run so far: :meth:`trnet.config.Config.hash_until`.
    metrics : File or list of Epoch
        The size and the SHA-256 of the rows so far in the log; in version 1, the rows.
    updates : dict of str to int
        How often each parameter was updated, by its place in the network.
    numbers : dict of str to float
        What the optimiser keeps beside arrays.
    threads : str
        That the steps were computed with: see :func:`trnet.threads.in_use`.
    """

    epoch: Annotated[int, Field(ge=0)]
    within: Optional[Within]
    seed: int
    config_hash: str
    metrics: Union[File, list[Epoch]]
    updates: dict[str, Annotated[int, Field(ge=0)]]
    numbers: dict[str, float]
    threads: NotRequired[str]


def save(
    folder: Path,
    network: HybridBlock,
    trainer: Trainer,
    metrics: Metrics,
    seed: int,
    config_hash: str,
    within: Within | None = None,
) -> None:
    """Save the state after or within an epoch; delete what is neither recent nor the best.

    Raises
    ------
    OSError
        If not all of it reaches the disk. What was there stays.
    """
    epoch = metrics.rows[-1]["epoch"] if metrics.rows else 0
    clear(folder)
    target = _path(folder, epoch, within)
    aside = folder / f".{target.name}"
    aside.mkdir(parents=True)
    places = _places(network)
    parameters = {place: _value(parameter) for parameter, place in places.items()}
    _save_arrays(aside / NETWORK, parameters)
    held = {**_optimizer_arrays(trainer, places), **(_device_arrays(places) if within else {})}
    _save_arrays(aside / _OPTIMIZER, held)
    optimizer = trainer._optimizer
    names = [places[parameter] for parameter in trainer._params]
    state: State = {
        "version": VERSION,
        "epoch": epoch,
        "within": within,
        "seed": seed,
        "config_hash": config_hash,
        "metrics": metrics.described(),
        "updates": {names[i]: n for i, n in optimizer._index_update_count.items()},
        "numbers": _numbers(optimizer),
        "threads": threads.in_use(),
    }
    with naming(aside / _STATE):
        (aside / _STATE).write_text(json.dumps(state, indent=1))
    manifest = {path.name: described(path) for path in sorted(aside.iterdir())}
    with naming(aside / MANIFEST):
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    metrics.save(folder)
    for path in (*aside.iterdir(), aside):  # a rename may reach the disk before the files do
        sync(path)
    replaced = _gone(target)
    if target.exists():
        target.rename(replaced)
    aside.rename(target)
    sync(folder)
    if replaced.exists():  # only now: deleting takes a while, in which a process may be killed
        shutil.rmtree(replaced)
    prune(folder, metrics)


def prune(folder: Path, metrics: Metrics) -> None:
    """Delete what is neither recent nor the best; parts of an epoch only once it is whole."""
    everything, whole = _all(folder), _whole(folder)
    parts = everything[-_KEPT:] if everything and everything[-1] not in whole else []
    kept = {*whole[-_KEPT:], *parts, *([_best(folder, metrics)] if metrics.rows else [])}
    for path in everything:
        if path not in kept:
            _delete(path)


def clear(folder: Path) -> None:
    """Delete what a killed process has left: half of a new checkpoint, or of an old one."""
    for path in folder.glob(f".{_PREFIX}*"):
        shutil.rmtree(path)


def _delete(path: Path) -> None:
    """Delete a checkpoint; half of it is never taken for one."""
    path.rename(_gone(path))
    shutil.rmtree(_gone(path))


def _gone(path: Path) -> Path:
    return path.with_name(f".{path.name}.deleted")


def latest(folder: Path) -> Path | None:
    """The last checkpoint after a whole epoch, or None."""
    paths = _whole(folder)
    return paths[-1] if paths else None


def newest(folder: Path) -> Path | None:
    """The last checkpoint, after an epoch or within one, or None."""
    paths = _all(folder)
    return paths[-1] if paths else None


def best(folder: Path) -> Path | None:
    """The checkpoint of the first epoch with the highest Top-1, or None."""
    last = latest(folder)
    return None if last is None else _best(folder, load_metrics(last))


def _best(folder: Path, metrics: Metrics) -> Path:
    return _path(folder, metrics.best["epoch"])


def set_damaged_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Rename damaged checkpoints, so that the latest one is whole; nothing is deleted.

    Parameters
    ----------
    folder : Path
    say : callable
        Gets a line for each of them.

    Raises
    ------
    UserError
        If there are checkpoints, and all are damaged, or another release wrote one: all stay.
    """
    damaged: dict[Path, UserError] = {}
    for path in reversed(_all(folder)):
        try:
            for name in (NETWORK, _OPTIMIZER, _STATE):
                _checked(path, name)
            load_metrics(path)
            break
        except OfAnotherRelease:
            raise
        except UserError as error:
            damaged[path] = error
    else:
        n_damaged = len(damaged) + len([*folder.glob(f"{_PREFIX}*.damaged*")])
        if n_damaged:
            why = f" ({next(iter(damaged.values()))})" if damaged else ""
            raise UserError(
                f"{folder}: expected an undamaged checkpoint, got {n_damaged} that are damaged"
                f"{why}; to start again, delete the run folder or use another --runs"
            )
    for path, error in damaged.items():
        aside = path.with_name(f"{path.name}.damaged")
        while aside.exists():
            aside = aside.with_name(f"{aside.name}-again")
        path.rename(aside)
        say(f"{error}; {path.name} is set aside as {aside.name}")


class OfAnotherRelease(UserError):
    """A checkpoint whose structure this release does not know."""


def load_state(checkpoint: Path) -> State:
    """Load ``state.json``, and check it against the checkpoint's name.

    Raises
    ------
    UserError
        If it is damaged, or the state of another checkpoint.
    OfAnotherRelease
    """
    path = _checked(checkpoint, _STATE)
    version = read_json(path, _Versioned)["version"]
    if not 1 <= version <= VERSION:
        raise OfAnotherRelease(
            f"{path}: expected version {VERSION}, got {version}; another release of trnet wrote it"
        )
    state = read_json(path, State)
    own = _path(checkpoint.parent, state["epoch"], state["within"])
    if checkpoint != own:
        raise UserError(f"{path}: expected the state of {checkpoint.name}, got that of {own.name}")
    return state


def load_metrics(checkpoint: Path) -> Metrics:
    """Load the metrics of every epoch up to a checkpoint's.

    Raises
    ------
    UserError
        If the checkpoint is damaged, or both copies of the metrics are.
    """
    state = load_state(checkpoint)
    found = state["metrics"]
    is_first_version = isinstance(found, list)
    metrics = Metrics(found) if is_first_version else Metrics.load(checkpoint.parent, found)
    epochs = [row["epoch"] for row in metrics.rows]
    if epochs not in ([*range(1, state["epoch"] + 1)], [0]):
        raise UserError(
            f"{checkpoint / _STATE}: expected the metrics of {state['epoch']} epochs, got {epochs}"
        )
    return metrics


def load_network(checkpoint: Path, network: HybridBlock, devices: list) -> None:
    """Load a checkpoint's parameters onto devices, in the network's own dtypes."""
    path = _checked(checkpoint, NETWORK)
    with _loading(path):
        network.load_parameters(str(path), ctx=devices, cast_dtype=True)


def load_trainer(
    checkpoint: Path, network: HybridBlock, trainer: Trainer, seed: int, config_hash: str
) -> None:
    """Load a checkpoint's optimiser states into a network's trainer.

    Raises
    ------
    UserError
        If the checkpoint is of another seed or config, or its arrays are of another optimiser.
    """
    state, path = load_state(checkpoint), _checked(checkpoint, _OPTIMIZER)
    for name, expected in {"seed": seed, "config_hash": config_hash}.items():
        if state[name] != expected:
            raise UserError(
                f"{checkpoint / _STATE}: expected {name} {expected}, got {state[name]}: it is the "
                "checkpoint of another run"
            )
    with _loading(path):
        arrays = mx.nd.load(str(path))
        arrays = arrays if isinstance(arrays, dict) else {}  # MXNet's, of a file without arrays
        places = _places(network)
        for name, own in _device_arrays(places).items():
            if name in arrays:
                arrays[name].copyto(own)
        held = {name: array for name, array in arrays.items() if ":" in name}
        _set_optimizer(trainer, places, held, state)


def check_file(path: Path) -> None:
    """Check a checkpoint's file against its manifest; another file has none.

    Raises
    ------
    UserError
        If it is damaged.
    """
    if path.name == NETWORK and (path.parent / MANIFEST).is_file():
        _checked(path.parent, path.name)


def _places(network: HybridBlock) -> dict[Parameter, str]:
    """Each parameter's place in the network: the first one, if it is shared."""
    places = network._collect_params_with_prefix()
    return {places[place]: place for place in sorted(places, reverse=True)}


def _optimizer_arrays(trainer: Trainer, places: dict[Parameter, str]) -> dict[str, mx.nd.NDArray]:
    """What an optimiser holds of each parameter, such as momentum, by place and number."""
    states = trainer._updaters[0].states
    return {
        f"{places[parameter]}:{number}": array
        for index, parameter in enumerate(trainer._params)
        for number, array in enumerate(state_arrays(states.get(index)))
    }


def _value(parameter: Parameter) -> mx.nd.NDArray:
    """A parameter on the CPU: the first device's, and of what devices have their own the mean.

    All devices hold the same weights; their mean would be rounded where they are three.
    """
    if parameter.name.endswith(STATISTICS):
        return parameter._reduce()
    return parameter.list_data()[0].copyto(mx.cpu())


def _device_arrays(places: dict[Parameter, str]) -> dict[str, mx.nd.NDArray]:
    """Running statistics, by place and device, if there are several devices.

    Each device has its own until the end of an epoch; the network's file has their mean.
    """
    return {
        f"{place}@{number}": array
        for parameter, place in places.items()
        if parameter.name.endswith(STATISTICS) and len(parameter.list_ctx()) > 1
        for number, array in enumerate(parameter.list_data())
    }


def _set_optimizer(
    trainer: Trainer, places: dict[Parameter, str], arrays: dict[str, mx.nd.NDArray], state: State
) -> None:
    """Give a trainer, on all of its devices, what :func:`_optimizer_arrays` had of another one."""
    optimizer, left = trainer._optimizer, set(arrays)
    counts = {}
    for index, parameter in enumerate(trainer._params):
        place = places[parameter]
        if place not in state["updates"]:
            continue
        counts[index] = state["updates"][place]
        for updater, weight in zip(trainer._updaters, parameter.list_data()):
            own = optimizer.create_state_multi_precision(index, weight.as_nd_ndarray())
            for number, array in enumerate(state_arrays(own)):
                saved = arrays[f"{place}:{number}"]
                if saved.shape != array.shape or saved.dtype != array.dtype:
                    raise ValueError(f"{place}: expected {array.shape}, got {saved.shape}")
                saved.copyto(array)
                left.discard(f"{place}:{number}")
            updater.states[index], updater.states_synced[index] = own, True
    if left:
        raise ValueError(f"expected arrays of train.optimizer, got {min(left)} as well")
    optimizer._all_index_update_counts = {
        device.device_id: dict(counts) for device in trainer._contexts
    }
    optimizer._set_current_context(trainer._contexts[0].device_id)
    vars(optimizer).update(state["numbers"])
    optimizer.num_update = max(counts.values(), default=0)


def _numbers(optimizer: mx.optimizer.Optimizer) -> dict[str, float]:
    """Numbers that an optimiser changes: those which no argument of its constructor sets."""
    arguments = {
        name for of in type(optimizer).__mro__ for name in inspect.signature(of.__init__).parameters
    }
    return {
        name: value
        for name, value in vars(optimizer).items()
        if type(value) in (int, float) and name not in arguments
    }


def _save_arrays(path: Path, arrays: dict[str, mx.nd.NDArray]) -> None:
    """Write arrays, and read them again: MXNet does not always notice that a disk is full."""
    try:
        mx.nd.save(str(path), arrays)
        read = mx.nd.load(str(path)) if arrays else {}
        same = [_bits(read[name]) == _bits(array) for name, array in arrays.items()]
    except (mx.MXNetError, KeyError):
        same = [False]
    if not all(same):
        raise OSError(f"{path}: was not written completely; is the disk full?")


def _bits(array: mx.nd.NDArray) -> bytes:
    """An array's bytes, in which a NaN equals itself."""
    return array.asnumpy().tobytes()


def _checked(checkpoint: Path, name: str) -> Path:
    """A file's path, once it is as the manifest has it.

    Raises
    ------
    UserError
        If it is not, or there is no manifest.
    """
    path, noted = checkpoint / name, checkpoint / MANIFEST
    if not noted.is_file():
        raise UserError(
            f"{checkpoint}: expected {MANIFEST}, got none; the checkpoint is damaged, or of an "
            "earlier release of trnet"
        )
    check_described(path, read_json(noted, dict[str, File]).get(name), noted)
    return path


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # MXNet raises errors of many types for what does not fit
        reason = lines_of(error)[-1]
        raise UserError(f"{path}: cannot be loaded: {reason}") from error


def _path(folder: Path, epoch: int, within: Within | None = None) -> Path:
    if within is None:
        return folder / f"{_PREFIX}{epoch:04d}"
    return folder / f"{_PREFIX}{epoch + 1:04d}-step-{within['step']:06d}"


def _whole(folder: Path) -> list[Path]:
    return [path for path in _all(folder) if "-step-" not in path.name]


def _all(folder: Path) -> list[Path]:
    """All checkpoints, in the order of the training."""

    def place(path: Path) -> tuple[int, int]:
        epoch, step = _NAME.fullmatch(path.name).groups()
        return (int(epoch) - 1, int(step)) if step else (int(epoch), 0)

    return sorted(filter(lambda p: _NAME.fullmatch(p.name), folder.glob(f"{_PREFIX}*")), key=place)
