"""``result.json``: what a finished run measured. It is described, written and read here only.

A run writes it last, so a run folder without it is not finished. ``results/<suite>/runs.json`` has
the results of a suite in a list.

A result without a ``version`` is of version 1, which had no ``checksum``. The rule for changes: a
new key is ``NotRequired`` and keeps the version. To remove a key, or to change its meaning or its
unit, raise :data:`VERSION` and convert earlier versions in the readers here, so that no other
module has to know them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from typing_extensions import NotRequired, TypedDict

from trnet import __version__
from trnet.errors import UserError
from trnet.files import Sealed, check_seal, read_json, sealed, write_aside
from trnet.tensor import cuda

VERSION = 2
_FAILURE = "failed.json"
_PACKAGES = ("mxnet", "gluoncv", "tensorly", "numpy", "trnet")


_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# MXNet's log_softmax is a rounding above 0, to 1.5e-6, for images that are classified for certain.
_Loss = Annotated[float, Field(ge=-1e-5, allow_inf_nan=False)]


class Images(TypedDict):
    """The data set of a run: its name, and how many images were trained on and scored.

    ``note`` is what else there is to say: what drew the images, and their checksums.
    """

    name: str
    train: _Count
    validation: _Count
    note: NotRequired[dict[str, str]]


class Curve(TypedDict):
    """One value per epoch: the mean training loss in nats, and Top-1 as a share from 0 to 1."""

    train_loss: list[_Loss]
    top1: list[_Share]


class Parameters(TypedDict):
    """Numbers of parameters by what they are for."""

    weights: _Count
    biases: _Count
    normalisation: _Count


class Fit(TypedDict):
    """Relative errors of a head against the trained one, as :class:`trnet.tensor.fitting.Fit`."""

    weight_error: _Positive
    output_error: NotRequired[_Positive]


class Result(TypedDict):
    """A finished run.

    Attributes
    ----------
    version : int
        Of this structure.
    name, suite : str
        The experiment.
    seed : int
    config_hash : str
        Of all that decides the outcome except the seed; see :attr:`trnet.config.Config.hash`.
    dataset : Images
    top1, top5 : float
        Shares of the scored images, from 0 to 1, after the last epoch.
    loss : float
        Mean cross entropy of the scored images, in nats, after the last epoch.
    curve : Curve
    head_parameters : Parameters
    baseline_head_weights : int
        Weights in the head of the experiment's baseline. Without one: of the backbone's own head,
        or of itself if it is dense.
    space_savings : float
        1 − weights / baseline's weights, a share.
    epochs : int
    wall_seconds : float
        Seconds that the epochs took, with their evaluations, all sessions together.
    images_per_second : float
        Images trained on per second, the median over the epochs; 0 if there are none.
    versions : dict of str to str
        Of Python and of the packages that the outcome depends on.
    processor : str
        The CPU and its cores, or the GPUs.
    threads : str
        That MXNet computed with: see :func:`trnet.threads.in_use`.
    workers : int
        Processes that trained together.
    fit : Fit
        How close the head is to the trained one, if nothing was trained since.
    skipped : int
        Steps whose gradients were not finite, if such steps are skipped.
    """

    version: int
    name: str
    suite: str
    seed: _Count
    config_hash: str
    dataset: Images
    top1: _Share
    top5: _Share
    loss: _Loss
    curve: Curve
    head_parameters: Parameters
    baseline_head_weights: _Count
    space_savings: Annotated[float, Field(le=1, allow_inf_nan=False)]
    epochs: _Count
    wall_seconds: _Positive
    images_per_second: _Positive
    versions: dict[str, str]
    processor: str
    threads: str
    workers: _Count
    fit: NotRequired[Fit]
    skipped: NotRequired[Annotated[int, Field(ge=0)]]


def _current(content: Any) -> Any:
    """A result in this version's form; another version is refused before its keys are."""
    if not isinstance(content, dict):
        return content
    version = content.get("version", 1)
    if version == 1 and "checksum" not in content:
        return _noted(content)
    if version != VERSION:
        raise ValueError(
            f"expected a result of version {VERSION}, got version {version}; "
            "it was written by another release of trnet"
        )
    return check_seal(content)


class _Noted(Result, Sealed):
    """A result as it stands in a file."""


_Checked = Annotated[_Noted, BeforeValidator(_current)]


def read_result(folder: Path) -> Result | None:
    """Read the result in a run folder; None if the run is not finished.

    Raises
    ------
    UserError
        One line with the file and what is wrong with it: it is damaged, lacks a key, or is of
        another version or another run.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = _opened(read_json(path, _Checked))
    own = f"{result['suite']}/{result['name']}/seed{result['seed']}"
    # Links are not followed: the runs of a suite may be on another disk.
    if not Path(os.path.abspath(folder)).as_posix().endswith(f"/{own}"):
        raise UserError(f"{path}: expected the result of this run folder, got that of {own}")
    return result


def write_result(folder: Path, result: Result) -> None:
    """Write the result of a run into its folder; this finishes the run."""
    write_aside(folder / "result.json", json.dumps(_noted(result), indent=2) + "\n")


def _noted(result: Result) -> dict:
    return sealed({**result, "version": VERSION})


def _opened(content: dict) -> Result:
    return {
        **{key: value for key, value in content.items() if key != "checksum"},
        "version": VERSION,
    }


class _Collection(Sealed):
    """The results of a suite as they stand in one file, which has a checksum of all of them."""

    results: list[_Checked]


def _collected(content: Any) -> Any:
    """A suite's results, also where they are the plain list that earlier releases wrote."""
    return sealed({"results": content}) if isinstance(content, list) else check_seal(content)


def read_results(path: Path) -> list[Result]:
    """Read the results of a suite from its ``runs.json``; none if there is no such file.

    Raises
    ------
    UserError
        As :func:`read_result` does.
    """
    if not path.is_file():
        return []
    content = read_json(path, Annotated[_Collection, BeforeValidator(_collected)])
    return [*map(_opened, content["results"] if isinstance(content, dict) else content)]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the results of a suite into its ``runs.json``."""
    noted = [*map(_noted, results)]
    checksum = sealed({"results": noted})["checksum"]
    # One space for each level, as if the list were all: the files are long, and are compared.
    text = json.dumps(noted, indent=1)
    write_aside(path, f'{{"checksum": "{checksum}", "results": {text}}}\n')


class Failure(Sealed):
    """Why a run has no result: it diverged, or its process was killed."""

    config_hash: str
    why: str


def read_failure(folder: Path) -> Failure | None:
    """Read why a run folder has no result; None if it has one, or was not tried to the end.

    The result of another config is none: of fewer epochs, say, than those that then failed.

    Raises
    ------
    UserError
        As :func:`read_result` does.
    """
    path = folder / _FAILURE
    if not path.is_file():
        return None
    failure = read_json(path, Annotated[Failure, BeforeValidator(check_seal)])
    result = read_result(folder)
    has_result = result is not None and result["config_hash"] == failure["config_hash"]
    return None if has_result else failure


def write_failure(folder: Path, config_hash: str, why: str | None) -> None:
    """Note in a run folder why it has no result; None takes the note away."""
    if why is not None:
        folder.mkdir(parents=True, exist_ok=True)
        content = sealed({"config_hash": config_hash, "why": why})
        write_aside(folder / _FAILURE, json.dumps(content, indent=2) + "\n")
    else:
        (folder / _FAILURE).unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def processor(devices: Sequence) -> str:
    """What computes on MXNet's ``devices``: the CPU and its cores, or the GPUs."""
    if devices[0].device_type == "gpu":
        names = [gpu.name for gpu in cuda.gpus()]
        return ", ".join(
            names[d.device_id] if d.device_id < len(names) else str(d) for d in devices
        )
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def _version(package: str) -> str:
    candidates = ("mxnet", "mxnet-cu112") if package == "mxnet" else (package,)
    for candidate in candidates:
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return __version__ if package == "trnet" else "unknown"
