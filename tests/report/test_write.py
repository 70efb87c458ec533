"""What is written of a suite, from its results alone and without any."""

from dataclasses import replace

import numpy as np
from toy_suite import make_results, make_suite

from trnet.config import Config
from trnet.report.write import write_claims, write_rank_accuracy, write_report
from trnet.result import write_results
from trnet.suite import Suite


def test_a_report_is_written_again_from_results_alone(tmp_path):
    """No run folder, one experiment not measured, and no picture of what was learnt."""
    suite = make_suite(tmp_path)
    suite.output.mkdir(parents=True)
    write_results(suite.output / "runs.json", make_results(suite))
    noted = (suite.output / "runs.json").read_bytes()
    write_report(suite)
    written = {path.name for path in suite.output.iterdir()}
    assert {"table.md", "table.csv", "rank_vs_accuracy.png", "learning_curves.png"} < written
    assert "spatial_patterns.png" not in written
    assert "4000 images to train on" in (suite.output / "table.md").read_text()
    assert (suite.output / "runs.json").read_bytes() == noted


def test_a_suite_without_a_run_has_a_table_and_no_plot(tmp_path):
    suite = make_suite(tmp_path)
    write_report(suite)
    written = {path.name for path in suite.output.iterdir()}
    assert written == {"table.md", "table.csv", "parameters.json"}


def test_a_plots_title_says_over_how_many_seeds(tmp_path):
    suite = make_suite(tmp_path)
    suite.output.mkdir(parents=True)
    write_results(suite.output / "runs.json", make_results(suite))
    write_rank_accuracy(suite, tmp_path / "plots/plot.svg")
    drawn = (tmp_path / "plots/plot.svg").read_text()
    assert "toy: Top-1 by the head's rank, mean over 2 to 3 seeds, with the 95 % interval" in drawn


def test_patterns_are_drawn_unless_all_heads_pool(tmp_path, monkeypatch):
    suite = make_suite(tmp_path)
    flat = np.ones((1, 7, 7)) + 0.05 * np.eye(7), np.ones(1)
    for patterns, is_drawn in (({"base": flat}, False), ({"base": flat, "small": varied()}, True)):
        monkeypatch.setattr(Suite, "spatial_patterns", lambda self, n, found=patterns: found)
        write_report(suite)
        assert (suite.output / "spatial_patterns.png").exists() == is_drawn


def varied() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(98.0).reshape(2, 7, 7), np.array([0.7, 0.3])


def test_results_of_a_config_that_changed_are_kept_and_their_plots_are_not(tmp_path):
    suite = make_suite(tmp_path)
    suite.output.mkdir(parents=True)
    write_results(suite.output / "runs.json", make_results(suite))
    write_report(suite)
    drawn = {"rank_vs_accuracy.png", "learning_curves.png"}
    assert drawn < {path.name for path in suite.output.iterdir()}
    (suite.output / "spatial_patterns.png").touch()
    configs = {name: changed(config) for name, config in suite.configs.items()}
    write_report(replace(suite, configs=configs))
    assert not {path.name for path in suite.output.glob("*.png")}
    assert "not measured" in (suite.output / "table.md").read_text()
    again = replace(suite)
    write_report(again)
    assert len(again.measured) == 5 and again.rows[0].top1.seeds == 2


def changed(config: Config) -> Config:
    train = config.train.model_copy(update={"learning_rate": 0.01})
    return config.model_copy(update={"train": train})


def test_a_table_names_every_machine_and_version(tmp_path):
    suite = make_suite(tmp_path)
    suite.output.mkdir(parents=True)
    first, second, *_ = make_results(suite)
    other = {"processor": "another CPU", "versions": {"python": "3.9"}}
    write_results(suite.output / "runs.json", [first, {**second, **other}])
    write_report(suite)
    table = (suite.output / "table.md").read_text()
    assert "a CPU or another CPU; python 3.11 or python 3.9." in table


def test_claims_are_written_where_no_results_are_yet(tmp_path):
    write_claims(tmp_path / "configs", tmp_path / "runs", tmp_path / "results")
    assert (tmp_path / "results/claims.md").read_text().startswith("# Published claims")
