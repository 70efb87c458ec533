"""Reproduction: what is missing is trained and reported, and nothing before all is checked."""

from dataclasses import replace

import pytest
from toy_suite import make_results, make_suite

from trnet import config
from trnet import reproduce as reproduction
from trnet.config import Config
from trnet.errors import UserError
from trnet.reproduce import reproduce
from trnet.result import write_result


def test_what_is_missing_is_trained_and_reported(tmp_path, capsys):
    suite = make_suite(tmp_path)
    assert suite.measured == []
    done, failures = reproduce(suite, [0], "cpu")
    assert failures == []
    first = capsys.readouterr().out
    assert first.count("seed 0") == 3 and "3 runs, of which 0" in first
    assert {path.name for path in suite.output.iterdir()} == {
        "table.md",
        "table.csv",
        "runs.json",
        "parameters.json",
        "rank_vs_accuracy.png",
        "spatial_patterns.png",
    }  # and no learning curve, of one epoch
    assert "--seeds 0" in (suite.output / "table.md").read_text()
    assert [row.top1.seeds for row in done.rows] == [1, 1, 1]
    reproduce(suite, [0], "cpu")
    again = capsys.readouterr().out
    assert "3 runs, of which 3" in again and "seed" not in again


def test_it_is_said_where_the_runs_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduction, "_SECONDS_PER_LINE", 0.05)
    suite = changed(make_suite(tmp_path), "small", epochs=4)
    reproduce(suite, [0], "cpu", jobs=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "under way: " in line]
    seen = dict.fromkeys(line.partition("under way: ")[2] for line in lines)
    assert {f"small seed 0, epoch {n}" for n in (1, 2, 3, 4)} <= set(seen)
    assert next(filter(None, seen)).startswith("base seed 0, epoch 1")
    assert not any(";" in line for line in seen)  # one at a time


def test_data_are_checked_before_anything_is_trained(tmp_path):
    suite = make_suite(tmp_path)
    values = suite.configs["small"].model_dump()
    values["dataset"]["samples"] = 5000
    few = {"base": suite.configs["base"], "small": Config.model_validate(values)}
    with pytest.raises(UserError, match=r"^toy/small: dataset.samples: expected [^\n]*got 5000$"):
        reproduce(replace(suite, configs=few), [0], "cpu")
    assert not suite.runs.exists()


def test_files_of_weights_are_checked_before_anything_is_trained(tmp_path):
    suite = make_suite(tmp_path)
    values = suite.configs["small"].model_dump()
    values["model"]["pretrained"] = "nowhere.params"
    lost = {"base": suite.configs["base"], "small": Config.model_validate(values)}
    said = r"^toy/small: model\.pretrained: expected an existing file, got 'nowhere\.params'$"
    with pytest.raises(UserError, match=said):
        reproduce(replace(suite, configs=lost), [0], "cpu")
    assert not suite.runs.exists()


def test_what_no_device_can_train_stops_all_before_they_start(tmp_path):
    suite = changed(make_suite(tmp_path), "small", dtype="float16")
    with pytest.raises(UserError, match=r"^toy/small: train\.dtype: expected float32 on a CPU"):
        reproduce(suite, [0], "cpu")
    assert not suite.runs.exists()


def test_a_finished_suite_builds_no_network(tmp_path, monkeypatch):
    """What its configs start from, such as a trained network, may be gone."""
    suite = make_suite(tmp_path)
    suite.output.mkdir(parents=True)
    for result in make_results(suite):
        folder = suite.runs / "toy" / result["name"] / f"seed{result['seed']}"
        folder.mkdir(parents=True)
        chosen = suite.configs[result["name"]].model_copy(update={"seed": result["seed"]})
        (folder / "config.yaml").write_text(config.dump(chosen))
        write_result(folder, result)
    assert len(suite.weights) == 3

    def refuse(*_):
        raise AssertionError("built a network")

    monkeypatch.setattr("trnet.experiment.build", refuse)
    only = {name: suite.configs[name] for name in ("base", "small")}
    done, failures = reproduce(replace(suite, configs=only), [0, 1], "cpu")
    assert failures == [] and len(done.measured) > 3


def changed(suite, name: str, **recipe):
    """The suite with another recipe for one experiment."""
    values = suite.configs[name].model_dump()
    values["train"].update(recipe)
    return replace(suite, configs={**suite.configs, name: Config.model_validate(values)})


def test_a_run_that_diverges_stops_no_other_one(tmp_path, capsys):
    """It is named in the end and under the table, until it has a result."""
    suite = make_suite(tmp_path)
    done, failures = reproduce(changed(suite, "small", learning_rate=1e30), [0, 1], "cpu")
    assert [row.top1 and row.top1.seeds for row in done.rows] == [2, 2, None]
    assert len(failures) == 2 and all("toy/small/seed" in line for line in failures)
    assert all("the loss is no longer finite in step" in line for line in failures)
    assert "small: seed 0 has no result" in (suite.output / "table.md").read_text()
    assert capsys.readouterr().out.count("diverged") == 2
    again, failures = reproduce(done, [0, 1], "cpu")
    assert len(failures) == 2 and len(again.measured) == 4
    assert not replace(suite).rows[2].failed  # of the config as it is now, nothing failed


def test_a_run_that_is_killed_stops_no_other_one(tmp_path, monkeypatch):
    """A plugin's data set kills its process, as the system does when memory is short."""
    (tmp_path / "killing.py").write_text(
        "import os, signal\n"
        "from dataclasses import replace\n"
        "from trnet.data import DATASETS\n"
        "def load(request):\n"
        "    if __import__('multiprocessing').parent_process() is not None:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return DATASETS['mnist'].load(request)\n"
        "DATASETS['killing'] = replace(DATASETS['mnist'], load=load)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    suite = make_suite(tmp_path)
    values = suite.configs["small"].model_dump()
    values["dataset"]["name"], values["plugins"] = "killing", ["killing"]
    suite = replace(suite, configs={**suite.configs, "small": Config.model_validate(values)})
    done, failures = reproduce(suite, [0], "cpu", jobs=2)
    assert [row.top1 is not None for row in done.rows] == [True, True, False]
    assert failures == [
        "toy/small, seed 0: was killed, possibly out of memory; --jobs 1 needs the least memory"
    ]


def test_a_run_folder_of_another_config_stops_no_other_run(tmp_path):
    suite = make_suite(tmp_path)
    reproduce(changed(suite, "small", learning_rate=0.01), [0], "cpu")
    (suite.runs / "toy/base/seed0/result.json").unlink()
    done, failures = reproduce(suite, [0], "cpu")
    assert [row.top1 is not None for row in done.rows] == [True, True, False]
    assert len(failures) == 1 and "small/seed0: belongs to another config" in failures[0]
    minutes = changed(suite, "small", learning_rate=0.02, checkpoint_minutes=5.0)
    _, (failure,) = reproduce(minutes, [0], "cpu")
    assert "(train.learning_rate: 0.01 there, 0.02 here)" in failure  # which decides
