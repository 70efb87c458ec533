"""Reproduction: what is missing is trained and reported, and nothing before all is checked."""

from dataclasses import replace

import pytest
from toy_suite import make_suite

from trnet.config import Config
from trnet.errors import UserError
from trnet.reproduce import reproduce


def test_what_is_missing_is_trained_and_reported(tmp_path, capsys):
    suite = make_suite(tmp_path)
    assert suite.measured == []
    done = reproduce(suite, [0], "cpu")
    first = capsys.readouterr().out
    assert first.count("seed 0") == 3 and "3 runs, of which 0" in first
    assert {path.name for path in suite.output.iterdir()} == {
        "table.md",
        "table.csv",
        "runs.json",
        "parameters.json",
        "rank_vs_accuracy.png",
        "learning_curves.png",
        "spatial_patterns.png",
    }
    assert "--seeds 0" in (suite.output / "table.md").read_text()
    assert [row.top1.seeds for row in done.rows] == [1, 1, 1]
    reproduce(suite, [0], "cpu")
    again = capsys.readouterr().out
    assert "3 runs, of which 3" in again and "seed" not in again


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
