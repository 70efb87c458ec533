"""A suite: the experiments in one folder of configs, and all that is known of them.

MXNet, which takes seconds to import, is imported only to count heads that were not counted before,
and to look into trained networks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field
from typing_extensions import NotRequired, TypedDict

from trnet.config import Config, load_suite
from trnet.errors import ConfigError, UserError
from trnet.files import check_seal, read_json, sealed, write_aside
from trnet.report import summary
from trnet.report.published import Publications, read_published
from trnet.report.summary import Row
from trnet.result import Result, read_failure, read_result, read_results


class Head(TypedDict):
    """What ``parameters.json`` notes of a head, and for which model it was counted."""

    model_hash: str
    weights: Annotated[int, Field(ge=0)]
    checksum: NotRequired[str]


_Noted = Annotated[Head, BeforeValidator(check_seal)]


@dataclass(frozen=True)
class Suite:
    """The experiments of a folder, with what was counted, measured and published of them.

    Each property is read from the files when it is first used, and kept. After a training,
    ``dataclasses.replace(suite)`` is a suite that has read nothing yet.

    Attributes
    ----------
    folder : Path
        The folder of the configs.
    configs : dict of str to Config
        By name, baselines first.
    runs : Path
        The folder of the run folders.
    results : Path
        The folder of what was published, and of what was measured before.
    """

    folder: Path
    configs: dict[str, Config]
    runs: Path
    results: Path

    @classmethod
    def load(cls, folder: Path, runs: Path, results: Path) -> Suite:
        """Load the configs of a folder.

        Raises
        ------
        ConfigError
            As :func:`trnet.config.load_suite` does.
        """
        return cls(folder, {config.name: config for config in load_suite(folder)}, runs, results)

    @property
    def name(self) -> str:
        """The suite's name: its folder's path below ``configs/``."""
        return next(iter(self.configs.values())).suite

    @property
    def root(self) -> Path:
        """The folder of all suites.

        Raises
        ------
        ConfigError
            If the suite's name has more parts than its folder's path.
        """
        folder = self.folder.resolve()
        if self.name.count("/") >= len(folder.parents):
            raise ConfigError(f"{folder}: suite: expected a path that ends there, got {self.name}")
        return folder.parents[self.name.count("/")]

    @property
    def output(self) -> Path:
        """The folder in ``results`` that this suite's tables, plots and notes are written into."""
        return self.results / self.name

    @cached_property
    def weights(self) -> dict[str, int]:
        """Weights in the head of each experiment.

        To count them, a network is built by MXNet. The counts are noted in ``parameters.json``
        together with the model's hash, so that each head is counted once.
        """
        path = self.output / "parameters.json"
        noted = read_json(path, dict[str, _Noted]) if path.is_file() else {}
        noted = {name: head for name, head in noted.items() if "checksum" in head}
        missing = [
            config
            for name, config in self.configs.items()
            if noted.get(name, {}).get("model_hash") != config.model_hash
        ]
        if missing:
            from trnet import experiment

            for config in missing:
                count = experiment.count(config)
                noted[config.name] = sealed({"model_hash": config.model_hash, **vars(count)})
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = {name: noted[name] for name in self.configs}
            write_aside(path, json.dumps(kept, indent=2) + "\n")
        return {name: noted[name]["weights"] for name in self.configs}

    @cached_property
    def measured(self) -> list[Result]:
        """Results of the configs as they are now, by name and seed."""
        return summary.current(self.noted, [*self.configs.values()])

    @cached_property
    def noted(self) -> list[Result]:
        """The results in ``runs.json``, also of configs that have changed, and in the run folders.

        Run folders take precedence; of theirs, only those of the configs as they are now count.
        """
        folders = summary.current([*self._in_run_folders.values()], [*self.configs.values()])
        found = [*read_results(self.output / "runs.json"), *folders]
        latest = {(run["name"], run["seed"], run["config_hash"]): run for run in found}
        return [latest[key] for key in sorted(latest)]

    @cached_property
    def _in_run_folders(self) -> dict[Path, Result]:
        found = {folder: read_result(folder) for folder in self._run_folders("*")}
        return {folder: result for folder, result in found.items() if result is not None}

    def _run_folders(self, name: str) -> list[Path]:
        """Those of an experiment, and none that a user has renamed."""
        folders = sorted((self.runs / self.name).glob(f"{name}/seed*"))
        return [folder for folder in folders if folder.name.removeprefix("seed").isdecimal()]

    @property
    def others(self) -> dict[Path, Result]:
        """Results in the suite's run folders of other configs, such as those changed by ``--set``.

        No table has them.
        """
        hashes = {(name, config.hash) for name, config in self.configs.items()}
        return {
            folder: result
            for folder, result in self._in_run_folders.items()
            if (result["name"], result["config_hash"]) not in hashes
        }

    @cached_property
    def publications(self) -> Publications:
        """What ``published.yaml`` says of all suites."""
        return read_published(self.results / "published.yaml")

    @cached_property
    def rows(self) -> list[Row]:
        """A row per experiment: published, computed, and measured if there are runs."""
        published = self.publications.of(self.name)
        rows = summary.summarise([*self.configs.values()], self.weights, self.measured, published)
        return [
            replace(row, twin=self._twins.get(row.name), failed=self._failed(row.name))
            for row in rows
        ]

    def _failed(self, name: str) -> tuple[tuple[int, str], ...]:
        """Seeds of an experiment without a result, and why; as the run folders note."""
        failed = []
        for folder in self._run_folders(name):
            failure = read_failure(folder)
            if failure is not None and failure["config_hash"] == self.configs[name].hash:
                failed.append((int(folder.name.removeprefix("seed")), failure["why"]))
        return tuple(sorted(failed))

    @cached_property
    def _twins(self) -> dict[str, Row]:
        """By an experiment's name, the row of the one with the same head on other images."""
        named = self.publications.twins.get(self.name, {})
        others = {name.rpartition("/")[0] for name in named.values()}
        rows = {f"{suite}/{row.name}": row for suite in others for row in self._other(suite).rows}
        for name, twin in named.items():
            if twin not in rows:
                path = self.results / "published.yaml"
                raise UserError(
                    f"{path}: twins.{self.name}.{name}: expected one of {', '.join(sorted(rows))}, "
                    f"got {twin!r}"
                )
        return {name: rows[twin] for name, twin in named.items()}

    @cached_property
    def beside(self) -> list[Row]:
        """The rows of the suite whose published curves are drawn beside this one's; often none."""
        other = self.publications.beside.get(self.name)
        if other is None:
            return []
        return self._other(other).rows

    def _other(self, name: str) -> Suite:
        return Suite.load(self.root / name, self.runs, self.results)

    def spatial_patterns(self, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The leading ``count`` patterns of pixels in each head, from the experiment's first seed.

        As :func:`trnet.models.spatial_patterns` returns them. Left out are experiments without a
        run folder, and heads that have no such patterns.
        """
        if not (self.runs / self.name).is_dir():
            return {}
        from trnet import inference

        patterns = {}
        for row in self.rows:
            seeds = [run["seed"] for run in self.measured if run["name"] == row.name]
            trained = (self.configs[row.name].with_seed(seed) for seed in seeds)
            found = (inference.patterns(config, self.runs, count) for config in trained)
            first = next(filter(None, found), None)
            if first is not None:
                patterns[row.name] = first
        return patterns
