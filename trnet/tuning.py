"""Tuning: learning rate and weight decay of every experiment, chosen on held-out training images.

Every experiment of a suite has the same budget: the pairs, the epochs and the seeds of its
``tune``. The validation images take no part, so that what is measured on them later was not chosen
by them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean

from ruamel.yaml import YAML

from trnet.config import Config, load
from trnet.errors import UserError
from trnet.files import write_aside
from trnet.suite import train_missing

_FIRST_SEED = 1000  # apart from the seeds that are measured
_DIVERGED = {"top1": 0.0, "loss": float("inf")}


@dataclass(frozen=True)
class Trial:
    """A pair that was tried, and how it did on the images held out.

    Attributes
    ----------
    experiment : str
    learning_rate, weight_decay : float
    top1, loss : float
        Mean over the seeds, of which one that diverged counts as 0 and infinity.
    chosen : bool
        Whether it is the experiment's best by Top-1, and by loss among equals; one that diverged
        from some seed only where all did.
    """

    experiment: str
    learning_rate: float
    weight_decay: float
    top1: float
    loss: float
    chosen: bool = False


def tune(
    configs: Sequence[Config],
    folder: Path,
    runs: Path,
    results: Path,
    devices: str,
    jobs: int | None = None,
) -> list[Trial]:
    """Try every experiment's pairs, note all in ``tuning.csv``, and write the best into its file.

    Parameters
    ----------
    configs : sequence of Config
        A suite.
    folder : Path
        Where its files are: of each, ``train.learning_rate`` and ``train.weight_decay`` are set;
        its comments and the order of its keys stay.
    runs, results : Path
        Trials are trained into ``runs/<suite>/tuning``; one that was stopped goes on.
    devices, jobs
        As in :func:`trnet.suite.reproduce`.

    Raises
    ------
    UserError
        For an experiment that says not how it is tuned, whose file has another name, or of which
        every pair diverged.
    """
    for config in configs:
        file = _file(folder, config.name)
        if config.tune is None:
            raise UserError(f"{config.suite}/{config.name}: tune: is missing")
        if not file.is_file() or load(file).name != config.name:
            raise UserError(
                f"{config.suite}/{config.name}: name: {file.name} would fit as its file"
            )
    wanted = [run for config in configs for run in _trials(config)]
    trained = train_missing(wanted, runs, devices, jobs, may_diverge=True)
    by_run = {(run["name"], run["seed"]): run for run in trained if run is not None}
    scored = [trial for config in configs for trial in _scored(config, by_run)]
    path = results / configs[0].suite / "tuning.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, _csv(scored))
    for trial in scored:
        if trial.chosen and trial.top1 == 0 and not math.isfinite(trial.loss):
            raise UserError(
                f"{configs[0].suite}/{trial.experiment}: every pair diverged; a lower "
                "tune.learning_rate would fit"
            )
    for trial in scored:
        if trial.chosen:
            _write(_file(folder, trial.experiment), trial)
    return scored


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.yaml"


def _pairs(config: Config) -> list[tuple[float, float]]:
    return list(product(config.tune.learning_rate, config.tune.weight_decay))


def _trials(config: Config) -> Iterator[Config]:
    """Every pair's runs, on a part of the experiment's training images, from seeds of their own."""
    for learning_rate, weight_decay in _pairs(config):
        values = config.model_dump(exclude={"baseline", "tune"})
        values["suite"] += "/tuning"
        values["name"] = _name(config, learning_rate, weight_decay)
        values["dataset"]["holdout"] = config.tune.holdout
        values["train"].update(
            epochs=config.tune.epochs, learning_rate=learning_rate, weight_decay=weight_decay
        )
        trial = Config.model_validate(values)
        for seed in _seeds(config):
            yield trial.with_seed(seed)


def _seeds(config: Config) -> range:
    return range(_FIRST_SEED, _FIRST_SEED + config.tune.seeds)


def _name(config: Config, learning_rate: float, weight_decay: float) -> str:
    return f"{config.name}-lr{learning_rate}-wd{weight_decay}".replace("+", "")


def _scored(config: Config, by_run: dict) -> list[Trial]:
    trials = []
    for pair in _pairs(config):
        of = [by_run.get((_name(config, *pair), seed), _DIVERGED) for seed in _seeds(config)]
        top1, loss = (mean(run[key] for run in of) for key in ("top1", "loss"))
        trials.append(Trial(config.name, *pair, top1, loss))
    best = max(trials, key=lambda trial: (math.isfinite(trial.loss), trial.top1, -trial.loss))
    return [replace(trial, chosen=trial is best) for trial in trials]


def _csv(trials: Sequence[Trial]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, vars(trials[0]), lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        scores = {"top1": f"{trial.top1:.4f}", "loss": f"{trial.loss:.4f}"}
        writer.writerow({**vars(trial), **scores, "chosen": int(trial.chosen)})
    return stream.getvalue()


def _write(path: Path, trial: Trial) -> None:
    """Set a config's learning rate and weight decay, its comments and order kept."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 100, True
    tree = yaml.load(path.read_text(encoding="utf-8"))
    recipe = tree.setdefault("train", {})
    recipe["learning_rate"] = trial.learning_rate
    recipe["weight_decay"] = trial.weight_decay
    stream = io.StringIO()
    yaml.dump(tree, stream)
    write_aside(path, stream.getvalue())
