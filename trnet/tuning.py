"""Tuning: the learning rate and weight decay of each experiment, chosen on held-out images.

Every experiment of a suite has the same budget: the pairs, epochs and seeds of its ``tune``. The
trials are scored on training images that are held out. The validation images take no part, so that
later measurements on them are not biased by the choice.
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
from trnet.errors import Diverged, UserError
from trnet.files import write_aside
from trnet.reproduce import train_missing
from trnet.suite import Suite

_FIRST_SEED = 1000  # above the seeds that are measured
_DIVERGED = {"top1": 0.0, "loss": float("inf")}


@dataclass(frozen=True)
class Trial:
    """A pair that was tried, and its scores on the held-out images.

    Attributes
    ----------
    experiment : str
    learning_rate, weight_decay : float
    top1, loss : float
        Means over the seeds. A seed from which it diverged counts as 0 and infinity.
    chosen : bool
        Whether it is the experiment's best by Top-1, and by loss among equals. One that diverged
        from a seed is chosen only if all did.
    """

    experiment: str
    learning_rate: float
    weight_decay: float
    top1: float
    loss: float
    chosen: bool = False


def tune(suite: Suite, devices: str, jobs: int | None = None) -> list[Trial]:
    """Try the pairs of each experiment, and write the best into its config.

    In the config ``train.learning_rate`` and ``train.weight_decay`` are set; its comments and the
    order of its keys stay. All trials are written into ``results/<suite>/tuning.csv``.

    Parameters
    ----------
    suite : Suite
        Trials are trained into ``runs/<suite>/tuning``. Those that were stopped resume.
    devices, jobs
        As in :func:`trnet.reproduce.train_missing`.

    Returns
    -------
    list of Trial
        All of them, by experiment.

    Raises
    ------
    UserError
        If an experiment has no ``tune``, its file has another name, or all its pairs diverged.
    """
    configs = suite.configs.values()
    for config in configs:
        file = _file(suite, config.name)
        if config.tune is None:
            raise UserError(f"{config.suite}/{config.name}: tune: is missing")
        if not file.is_file() or load(file).name != config.name:
            raise UserError(
                f"{config.suite}/{config.name}: name: expected the name of its file, "
                f"so that {file.name} can be updated"
            )
    wanted = [run for config in configs for run in _trials(config)]
    by_run = {}
    for config, outcome in zip(wanted, train_missing(wanted, suite.runs, devices, jobs)):
        if isinstance(outcome, UserError) and not isinstance(outcome, Diverged):
            raise outcome
        by_run[config.name, config.seed] = _DIVERGED if isinstance(outcome, Diverged) else outcome
    scored = [trial for config in configs for trial in _scored(config, by_run)]
    suite.output.mkdir(parents=True, exist_ok=True)
    write_aside(suite.output / "tuning.csv", _csv(scored))
    chosen = [trial for trial in scored if trial.chosen]
    for trial in chosen:
        if trial.top1 == 0 and not math.isfinite(trial.loss):
            raise UserError(
                f"{suite.name}/{trial.experiment}: every pair diverged; lower tune.learning_rate"
            )
    for trial in chosen:
        _write(_file(suite, trial.experiment), trial)
    return scored


def _file(suite: Suite, name: str) -> Path:
    return suite.folder / f"{name}.yaml"


def _pairs(config: Config) -> list[tuple[float, float]]:
    return list(product(config.tune.learning_rate, config.tune.weight_decay))


def _trials(config: Config) -> Iterator[Config]:
    """The runs of every pair, on a part of the training images, from seeds of their own."""
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
        of = [by_run[_name(config, *pair), seed] for seed in _seeds(config)]
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
    """Set a config's learning rate and weight decay; keeps its comments and order."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 100, True
    tree = yaml.load(path.read_text(encoding="utf-8"))
    recipe = tree.setdefault("train", {})
    recipe["learning_rate"] = trial.learning_rate
    recipe["weight_decay"] = trial.weight_decay
    stream = io.StringIO()
    yaml.dump(tree, stream)
    write_aside(path, stream.getvalue())
