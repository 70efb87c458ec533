"""A suite: what it reads, when it reads it, and what is damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy_suite import make_result, make_results, make_suite

from trnet import experiment, inference
from trnet.cli import main
from trnet.errors import UserError
from trnet.files import sealed
from trnet.report.table import table
from trnet.result import write_failure, write_result, write_results
from trnet.suite import Suite


@pytest.fixture
def suite(tmp_path) -> Suite:
    return make_suite(tmp_path)


def test_weights_are_counted_once_and_again_when_the_model_changes(suite, monkeypatch):
    counted = suite.weights
    assert counted["small"] == 3 * 2 * 2 * 4 + 32 * 3 + 7 * 2 + 7 * 2 + 10 * 4
    assert list(counted) == ["base", "small", "tiny"]

    built, build = [], experiment.build
    monkeypatch.setattr(
        experiment, "build", lambda config, *of: built.append(config.name) or build(config, *of)
    )
    noted = suite.output / "parameters.json"
    entry = json.loads(noted.read_text())
    small = {**entry["small"], "weights": 1}
    noted.write_text(json.dumps({**entry, "small": small}))
    with pytest.raises(UserError, match=r"parameters\.json: small: is damaged"):
        replace(suite).weights  # noqa: B018
    noted.write_text(json.dumps({**entry, "small": sealed(small)}))
    assert replace(suite).weights["small"] == 1 and built == []
    noted.write_text(json.dumps({**entry, "small": sealed({**small, "model_hash": "0"})}))
    assert replace(suite).weights == counted and built == ["small"]
    del small["checksum"]  # as an earlier release noted it
    noted.write_text(json.dumps({**entry, "small": small}))
    assert replace(suite).weights == counted and built == ["small", "small"]


def test_a_suite_whose_weights_are_noted_imports_no_mxnet(suite, run_python):
    """With runs that are noted, and without run folders."""
    assert suite.weights
    write_results(suite.output / "runs.json", make_results(suite))
    where = [str(path) for path in (suite.folder, suite.runs, suite.results)]
    run_python(
        f"""
        import sys
        from trnet.report.write import write_report
        from trnet.suite import Suite
        suite = Suite.load(*map(__import__("pathlib").Path, {where!r}))
        assert [row.name for row in suite.rows] == ["base", "tiny", "small"]
        assert suite.rows[0].top1.seeds == 2 and suite.beside == []
        assert not {{"mxnet", "matplotlib"}} & set(sys.modules)
        write_report(suite)
        assert "mxnet" not in sys.modules
        """
    )


def test_results_are_read_from_run_folders_before_those_that_are_noted(suite):
    suite.output.mkdir(parents=True)
    write_results(suite.output / "runs.json", make_results(suite))
    folder = suite.runs / "toy/base/seed1"
    folder.mkdir(parents=True)
    write_result(folder, make_result(suite.configs["base"], 1, 0.5))
    assert [(run["name"], run["seed"], run["top1"]) for run in suite.measured] == [
        ("base", 0, 0.90),
        ("base", 1, 0.5),
        ("small", 0, 0.91),
        ("small", 1, 0.93),
        ("small", 2, 0.80),
    ]


def test_results_of_earlier_configs_are_left_out(suite):
    suite.output.mkdir(parents=True)
    stale = [{**run, "config_hash": "0"} for run in make_results(suite)]
    write_results(suite.output / "runs.json", stale)
    assert suite.measured == [] and all(row.top1 is None for row in suite.rows)


def test_what_was_read_is_kept_until_the_suite_is_replaced(suite):
    assert suite.measured == []
    suite.output.mkdir(parents=True)
    write_results(suite.output / "runs.json", make_results(suite))
    assert suite.measured == [] and len(replace(suite).measured) == 5


@pytest.mark.parametrize(
    "file, content",
    [
        ("results/toy/parameters.json", "{"),
        ("results/toy/runs.json", "[{]"),
        ("results/toy/parameters.json", "[]"),
        ("results/toy/parameters.json", '{"base": {"weights": 3}}'),
        ("results/toy/runs.json", '{"runs": []}'),
        ("results/toy/runs.json", '[{"name": "base", "seed": "first"}]'),
        ("runs/toy/base/seed0/result.json", "3"),
        ("results/published.yaml", "toy: {base: [1, 2]}"),
        ("results/published.yaml", "toy: {base: {top9: 1}}"),
        ("results/published.yaml", "toy: [1"),
        ("results/published.yaml", "toy: {base: {source: hearsay}}"),
        ("runs/toy/base/seed0/result.json", ""),
    ],
)
def test_damaged_files_are_named(file, content, suite, tmp_path):
    assert suite.weights
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^[^\n]*{path.name}[^\n]*$"):
        replace(suite).rows  # noqa: B018
    assert path.read_text() == content


def test_beside_is_the_suite_that_is_named(suite):
    suite.results.mkdir()
    assert suite.beside == []
    (suite.results / "published.yaml").write_text("beside: {toy: toy}")
    assert [row.name for row in replace(suite).beside] == ["base", "tiny", "small"]


def test_a_twin_is_the_experiment_of_another_suite(suite, tmp_path):
    other = tmp_path / "configs/other"
    other.mkdir()
    (other / "twin.yaml").write_text(
        (suite.folder / "base.yaml").read_text().replace("base", "twin")
    )
    suite.results.mkdir()
    published = suite.results / "published.yaml"
    published.write_text("twins: {toy: {base: other/twin}}")
    twins = [row.twin and row.twin.name for row in suite.rows]
    assert twins == ["twin", None, None] and suite.rows[0].twin.dataset == "mnist"
    assert "Top-1 on mnist" in table(suite.rows, "md")

    published.write_text("twins: {toy: {base: other/wrong}}")
    with pytest.raises(
        UserError, match=r"twins.toy.base: expected one of other/twin, got 'other/w"
    ):
        replace(suite).rows  # noqa: B018
    published.write_text("twins: {toy: {base: other/twin}, other: {twin: toy/base}}")
    with pytest.raises(
        UserError, match=r"expected an experiment of a suite without twins of its o"
    ):
        replace(suite).rows  # noqa: B018


def test_patterns_are_of_the_configs_own_runs(suite):
    """A run folder of another config with that name, or without its checkpoint, is skipped."""
    config = suite.configs["tiny"].with_seed(0)
    folder = suite.runs / "toy/tiny/seed0"
    assert inference.patterns(config, suite.runs, 3) is None
    (folder / "checkpoints").mkdir(parents=True)
    for config_hash in (config.hash, "another"):
        write_result(folder, make_result(config, 0, 0.5, config_hash=config_hash))
        assert inference.patterns(config, suite.runs, 3) is None
        assert replace(suite).spatial_patterns(3) == {}


def test_runs_of_other_configs_are_named_beside_the_table(suite, capsys):
    for result in make_results(suite):
        folder = suite.runs / f"toy/{result['name']}/seed{result['seed']}"
        folder.mkdir(parents=True)
        write_result(folder, result)
    other = make_result(suite.configs["base"], 7, 0.971, config_hash="0" * 12)
    folder = suite.runs / "toy/base/seed7"
    folder.mkdir()
    write_result(folder, other)
    folders = ["--runs", str(suite.runs), "--results", str(suite.results)]
    main(["tabulate", str(suite.folder), *folders])
    said = capsys.readouterr()
    expected = f"also there: {folder}, Top-1 97.10 %, of another config than base now has\n"
    assert said.err == expected and "97.1" not in said.out and "92.00" in said.out
    assert list(filter(Path.is_file, suite.results.rglob("*"))) == [
        suite.output / "parameters.json"
    ]


def test_a_run_folder_that_was_renamed_is_left_alone(suite):
    folder = suite.runs / "toy/base/seed0.old"
    folder.mkdir(parents=True)
    write_result(folder, make_result(suite.configs["base"], 0, 0.5))
    write_failure(folder, suite.configs["base"].hash, "why")
    assert suite.measured == [] and suite.rows[0].failed == ()


def test_why_a_longer_training_has_no_result_is_told_beside_the_shorter_ones(suite):
    base = suite.configs["base"]
    folder = suite.runs / "toy/base/seed0"
    folder.mkdir(parents=True)
    write_result(folder, {**make_result(base, 0, 0.5), "config_hash": "of fewer epochs"})
    write_failure(folder, base.hash, "why")
    assert suite.rows[0].failed == ((0, "why"),)
    write_result(folder, make_result(base, 0, 0.5))
    assert replace(suite).rows[0].failed == ()


def test_a_name_that_is_longer_than_its_folders_path_is_refused(suite):
    name = "/".join("abcdefghijklmnop" * 3)
    configs = {n: c.model_copy(update={"suite": name}) for n, c in suite.configs.items()}
    with pytest.raises(UserError, match=r"toy: suite: expected a path that ends there, got a/b/c"):
        replace(suite, configs=configs).root  # noqa: B018
