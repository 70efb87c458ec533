"""Compression of a trained network: its head, decomposed at one rank after another, and scored.

A compression is a suite of experiments. Its baseline is the trained network; each of the others
starts as that network with another head, fitted to what the trained head gives for training images,
and is scored without any training. They are configs and run folders as any other.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tabulate
from mxnet.gluon import HybridBlock
from ruamel.yaml import YAML

from trnet import config as configs
from trnet import experiment
from trnet.config import Config, Fit
from trnet.errors import ConfigError, UserError
from trnet.files import write_aside
from trnet.layers import TRL
from trnet.models import rank_of_trl
from trnet.models.head_removal import LINEAR
from trnet.models.heads import SPATIAL_MODES
from trnet.models.pretrained import trl_truncation
from trnet.report.summary import Row
from trnet.report.write import write_report
from trnet.run_folder import run_folder
from trnet.savings import most_weights
from trnet.suite import Suite
from trnet.tensor.backend import as_numpy, mx
from trnet.tensor.factorizations import FACTORIZATIONS, Rank, is_savings
from trnet.tensor.fitting import whitened
from trnet.tensor.ranks import mode_spectra, truncated
from trnet.training import checkpoint

SAVINGS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)  # that are tried for a tolerance
_SHORT = {"tensor_train": "tt"}
_TUNED = "tuned"
_SLOWER = 0.1  # fine-tuning uses this fraction of the learning rate


@dataclass(frozen=True)
class Compression:
    """What a trained network is compressed to, and where that is written.

    Attributes
    ----------
    donor : Config
        The trained network, with its weights in ``model.pretrained``.
    head : {"trl", "tcl"}
    factorization : str
        Of a TRL.
    fit : Fit
    folder : Path
        The folder of the suite's configs.
    runs, results : Path
        As in :class:`~trnet.suite.Suite`.
    """

    donor: Config
    head: str
    factorization: str
    fit: Fit
    folder: Path
    runs: Path
    results: Path

    def __post_init__(self) -> None:
        if self.factorization not in FACTORIZATIONS:
            raise UserError(
                f"--factorization: expected one of {', '.join(FACTORIZATIONS)}, "
                f"got {self.factorization}"
            )
        if self.head == "tcl" and self.donor.model.head.type == "trl":
            raise UserError(f"{self.donor.name}: expected a dense head, for a TCL, got a TRL")

    @property
    def baseline(self) -> str:
        """The name of the experiment that is the trained network itself."""
        return "dense" if self.donor.model.head.type == "dense" else "trained"

    @property
    def suite(self) -> Suite:
        """The suite as its files are now."""
        return Suite.load(self.folder, self.runs, self.results)

    def head_of(self, rank: Rank) -> dict[str, Any]:
        """A head of the wanted kind, as a config has it; a TCL keeps the trained dense layers."""
        rank = list(rank) if isinstance(rank, tuple) else rank
        if self.head == "trl":
            return {"type": "trl", "factorization": self.factorization, "rank": rank}
        dense = self.donor.model.head.model_dump(include={"hidden", "dropout"}, exclude_none=True)
        return {"type": "tcl", "rank": rank, "norm": False, **dense}

    def name_of(self, rank: Rank) -> str:
        """An experiment's name: trl_8_4_4_10, trl_cp_30, tcl_12_5_5."""
        ranks = rank if isinstance(rank, (list, tuple)) else [rank]
        forms = [_SHORT.get(self.factorization, self.factorization)]
        if self.head == "tcl" or self.factorization == "tucker":
            forms = []
        return "_".join([self.head, *forms, *map(str, ranks)])


def open_donor(source: Path, overrides: Sequence[str]) -> Config:
    """The config of a trained network, with its weights in ``model.pretrained``.

    Parameters
    ----------
    source : Path
        A run folder, or a config that names trained weights.
    overrides : sequence of str
        As :func:`trnet.config.load` takes them.

    Raises
    ------
    UserError
        For a run without a checkpoint, a config without weights, or a head that is neither dense
        nor a plain TRL.
    """
    if source.is_dir():
        donor = configs.load(source / "config.yaml", overrides)
        last = checkpoint.latest(source / "checkpoints")
        if last is None:
            raise UserError(f"{source}: has no checkpoint yet")
        weights, head = last / "network.params", donor.model.head
        if head.type == "trl" and is_savings(head.rank):
            rank = rank_of_trl(weights, head.factorization) or head.rank
            rank = list(rank) if isinstance(rank, tuple) else rank
            head = head.model_copy(update={"rank": rank})
        model = donor.model.model_copy(update={"pretrained": str(weights), "head": head})
        donor = donor.model_copy(update={"model": model})
    else:
        donor = configs.load(source, overrides)
    if not donor.model.pretrained:
        raise ConfigError(
            f"{source}: model.pretrained: expected trained weights to compress, got none; give a "
            ".params file by --set model.pretrained=FILE"
        )
    head = donor.model.head
    if head.type not in ("dense", "trl"):
        raise ConfigError(
            f"{source}: model.head.type: expected a trained dense head or TRL, got {head.type!r}"
        )
    if head.type == "trl" and (head.norm or head.weight_norm or head.tcl):
        raise ConfigError(
            f"{source}: model.head: expected a trained TRL without norm, weight_norm and tcl"
        )
    return donor


def write_donor(wanted: Compression) -> None:
    """Write the config of the trained network, the suite's baseline."""
    donor = wanted.donor
    train = donor.train.model_copy(update={"epochs": 0, "freeze": []})
    # A fit makes the run fail if any layer of the head is not loaded.
    model = donor.model.model_copy(update={"fit": wanted.fit})
    update = {
        "name": wanted.baseline,
        "baseline": None,
        "tune": None,
        "train": train,
        "model": model,
    }
    values = donor.model_copy(update=update).model_dump(exclude_none=True, exclude={"suite"})
    _write(wanted.folder / f"{wanted.baseline}.yaml", values)


def add(wanted: Compression, rank: Rank) -> str:
    """Write the config of a compressed head; returns its name."""
    name = wanted.name_of(rank)
    model = {"head": wanted.head_of(rank)}
    values = {
        "extends": f"{wanted.baseline}.yaml",
        "name": name,
        "baseline": wanted.baseline,
        "model": model,
    }
    path = wanted.folder / f"{name}.yaml"
    is_new = _write(path, values)
    with _kept_if_usable(path, is_new):
        config = configs.load(path)
        experiment.build(config, experiment.find_dataset(config))
    return name


def add_tuned(wanted: Compression, name: str, epochs: int, freezes: bool) -> str:
    """Write the config that trains a compressed head on; returns its name."""
    compressed = configs.load(wanted.folder / f"{name}.yaml")
    folder = run_folder(wanted.runs, compressed)
    last = checkpoint.latest(folder / "checkpoints")
    if last is None:
        raise UserError(f"{folder}: has no checkpoint any more; delete it")
    values = {
        "extends": f"{name}.yaml",
        "name": f"{name}_{_TUNED}",
        "model": {"pretrained": str(last / "network.params"), "fit": None},
        "train": {
            "epochs": epochs,
            "learning_rate": float(f"{_SLOWER * wanted.donor.train.learning_rate:g}"),
            **({"freeze": "backbone"} if freezes else {}),
        },
    }
    _write(wanted.folder / f"{values['name']}.yaml", values)
    return values["name"]


def _write(path: Path, values: dict) -> bool:
    """Write a config, unless another one is there; returns whether it is new."""
    if path.exists():
        if configs.parse_yaml(path.read_text(encoding="utf-8"), str(path)) == values:
            return False
        raise UserError(f"{path}: is another config already; delete it or use another --configs")
    stream = io.StringIO()
    YAML().dump(values, stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, stream.getvalue())
    return True


@contextmanager
def _kept_if_usable(path: Path, is_new: bool) -> Iterator[None]:
    """Delete a new config if it turns out to be impossible: its suite could not be loaded."""
    try:
        yield
    except ConfigError:
        if is_new:
            path.unlink()
        raise


def measure(wanted: Compression, name: str, contexts: list[mx.Context]) -> None:
    """Train or score an experiment of the suite into its run folder.

    Raises
    ------
    UserError
        As :func:`trnet.experiment.train`; a config whose head cannot be fitted is deleted.
    """
    path = wanted.folder / f"{name}.yaml"
    chosen = configs.load(path)
    never_ran = not (run_folder(wanted.runs, chosen) / "config.yaml").exists()
    with _kept_if_usable(path, never_ran):
        experiment.train(chosen, configs.load_baseline(path, chosen), wanted.runs, contexts)


def ranks_for(
    wanted: Compression, savings: Sequence[float], contexts: list[mx.Context]
) -> list[Rank]:
    """The ranks that lose least of the trained head, for those space savings that can be had.

    Its weight is compared in the metric of the activations that the trained network gives; see
    :mod:`trnet.tensor.ranks`.

    Raises
    ------
    UserError
        If no rank saves as much, or the head cannot be decomposed.
    """
    name, form = wanted.donor.name, FACTORIZATIONS[wanted.factorization]
    config = configs.load(wanted.folder / f"{wanted.baseline}.yaml")
    network, activations = experiment.activations(config, wanted.fit.images, contexts)
    first, *others = _dense_weights(network.output, contexts[0])
    if wanted.head == "trl" and others:
        raise UserError(
            f"{name}: expected one dense layer in the head, for a TRL to decompose, "
            f"got {1 + len(others)}; use --head tcl"
        )
    in_shape = activations[0].shape[1:]
    is_pooled = first.shape[1] == in_shape[0] < np.prod(in_shape)
    if is_pooled and wanted.head == "tcl":
        raise UserError(f"{name}: expected a head that does not pool, for a TCL")
    if is_pooled and not form.supports_pooling:
        raise UserError(f"{name}: expected a head that does not pool, for {form.title}")
    samples = map(as_numpy, activations)
    if is_pooled:
        samples = (batch.mean(axis=SPATIAL_MODES) for batch in samples)
    kept = in_shape[:1] if is_pooled else in_shape
    weight = whitened(first.T.reshape(*kept, len(first)), samples, centred=True)
    rest = sum(layer.size for layer in others)
    if wanted.head == "tcl":
        rank_of = _tcl_truncation(weight)
    else:
        rank_of = trl_truncation(form, weight, in_shape)
    ranks, why, weights = [], None, experiment.count(config).weights
    for share in savings:
        most = most_weights(share, weights) - rest
        try:
            ranks.append(rank_of(most))
        except ValueError as error:
            why = f"{name}: savings of {share:g}: {error}"
            why += f" beside the {rest} of the other dense layers" if rest else ""
    if not ranks:
        raise UserError(why)
    return list(dict.fromkeys(ranks))


def _dense_weights(head: HybridBlock, context: mx.Context) -> list[np.ndarray]:
    """Weights (O, I) of a head's dense layers and 1×1 convolutions, or that of a TRL."""
    if isinstance(head, TRL):
        return [as_numpy(head.to_dense_weight())]
    layers = [block for block in head._children.values() if isinstance(block, LINEAR)]
    weights = [as_numpy(layer.weight.data(context)) for layer in layers]
    return [weight.reshape(len(weight), -1) for weight in weights]


def _tcl_truncation(weight: np.ndarray) -> Callable[[int], Rank]:
    """The rank of a TCL that has at most some parameters with the dense layer after it."""
    *in_shape, units = weight.shape

    def size(rank: tuple[int, ...]) -> int:
        return sum(map(prod, zip(rank, in_shape))) + prod(rank) * units

    return partial(truncated, mode_spectra(weight, len(in_shape)), size)


def choose(rows: Sequence[Row], tolerance: float) -> Row:
    """The head that saves most, of those that lose no more than a tolerance of Top-1.

    Parameters
    ----------
    rows : sequence of Row
        The suite's, of which the first is the trained network.
    tolerance : float
        A share, as 0.005 for half a point.

    Raises
    ------
    UserError
        If every one loses more.
    """
    lowest = rows[0].top1.mean - 100 * tolerance
    good = [row for row in rows[1:] if row.top1 and row.top1.mean >= lowest - 1e-9]
    if not good:
        best = max(rows[1:], key=lambda row: row.top1.mean)
        raise UserError(
            f"--tolerance {tolerance:g}: expected a head with a Top-1 of {lowest:.2f} % or more; "
            f"the best, {best.name}, has {best.top1.mean:.2f} %"
        )
    return max(good, key=lambda row: row.space_savings)


def report(suite: Suite, chosen: str) -> None:
    """Write the suite's tables and plots, and of this choice ``compression.md`` and its plot."""
    from trnet.report.plot import plot_savings

    write_report(suite)
    heading = f"# {suite.name}: heads of a trained network, decomposed"
    write_aside(suite.output / "compression.md", f"{heading}\n\n{table(suite, chosen)}")
    title = f"{suite.name}: Top-1 by space savings"
    plot_savings(suite.rows, chosen, title, suite.output / "compression.png")


def table(suite: Suite, chosen: str) -> str:
    """Heads by their savings: how close they are to the trained one, and their Top-1; Markdown."""
    fits = {run["name"]: run.get("fit", {}) for run in suite.measured}  # of one seed
    measured = [row for row in suite.rows if row.top1]
    first, *others = measured
    rows = []
    for row in [first, *sorted(others, key=lambda row: row.space_savings)]:
        fit = fits[row.name]
        errors = (fit.get(key) for key in ("weight_error", "output_error"))
        rows.append(
            [
                f"{row.name} (chosen)" if row.name == chosen else row.name,
                f"{row.space_savings:.2f}",
                *("" if error is None else f"{100 * error:.2f}" for error in errors),
                f"{row.top1.mean:.2f}",
                f"{row.top1.mean - first.top1.mean:+.2f}",
            ]
        )
    heading = ["Head", "Savings", "Weight off by", "Outputs off by", "Top-1", "Change"]
    align = ["left", *["right"] * (len(heading) - 1)]
    laid_out = tabulate.tabulate(rows, heading, "pipe", colalign=align, disable_numparse=True)
    note = "All in percent. Errors are of heads that start as the trained one, before training."
    return f"{laid_out}\n\n{note}\n"
