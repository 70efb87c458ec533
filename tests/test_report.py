"""Tables and plots: the numbers in them, their forms, and that they need neither runs nor MXNet."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from trnet import config, experiment, suite
from trnet.errors import UserError
from trnet.report.plot import plot_rank_accuracy
from trnet.report.published import read_published
from trnet.report.summary import read_runs, summarise
from trnet.report.table import FORMATS, table

ROOT = Path(__file__).parent.parent
WEIGHTS = {"base": 1000, "small": 300, "tiny": 100}
HEADS = {
    "base": "{type: dense}",
    "small": "{type: trl, rank: [3, 2, 2, 4]}",
    "tiny": "{type: tcl, rank: [1, 1, 1]}",
}


@pytest.fixture
def configs(tmp_path):
    """A suite of three experiments."""
    folder = tmp_path / "configs" / "toy"
    folder.mkdir(parents=True)
    for name, head in HEADS.items():
        baseline = "" if name == "base" else "baseline: base\n"
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\n{baseline}dataset: {{name: mnist}}\n"
            f"model: {{backbone: small_vgg2, head: {head}}}\n"
            "train: {epochs: 1, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}\n"
        )
    return config.load_suite(folder)


def result(of, seed: int, top1: float, top5: float = 0.99, **changes) -> dict:
    return {
        "name": of.name,
        "suite": of.suite,
        "dataset": {"name": "mnist", "train": 4000, "validation": 1000},
        "versions": {"python": "3.11"},
        "processor": "a CPU",
        "seed": seed,
        "config_hash": of.hash,
        "top1": top1,
        "top5": top5,
        **changes,
    }


@pytest.fixture
def runs(configs):
    base, small, _ = configs
    return [
        result(base, 0, 0.90),
        result(base, 1, 0.94),
        result(small, 0, 0.91),
        result(small, 1, 0.93),
        result(small, 2, 0.80),
    ]


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text(
        "sources: {talk: A talk by the authors}\n"
        "toy:\n  base: {source: talk, top1: 77.1, top5: 93.4, space_savings: 0.0}\n"
        "  small: {source: talk, top1: 76.0, space_savings: 70.1}\n"
        "  tiny: {source: talk, top1_change: -0.6, note: a guess of ours}\n"
    )
    return read_published(path).of("toy")


def test_summary_by_hand(configs, runs):
    base, tiny, small = summarise(configs, WEIGHTS, runs, {})
    assert [row.name for row in (base, tiny, small)] == ["base", "tiny", "small"]
    assert (base.top1.mean, base.top1.seeds) == (pytest.approx(92.0), 2)
    assert base.top1.deviation == pytest.approx(8**0.5)
    assert base.top1.interval == pytest.approx(12.706204736 * 8**0.5 / 2**0.5)
    assert (small.top1.mean, small.top1.seeds) == (pytest.approx(88.0), 3)
    assert (small.top1_change.mean, small.top1_change.seeds) == (pytest.approx(0.0), 2)
    assert small.top1_change.deviation == pytest.approx(2**0.5)
    assert (base.top1_change, tiny.top1, tiny.top1_change) == (None, None, None)
    assert (base.space_savings, small.space_savings, tiny.space_savings) == (0, 70, 90)
    assert (small.kind, small.rank, tiny.kind) == ("TRL", "(3, 2, 2, 4)", "TCL")


def test_runs_of_another_config_do_not_count(configs, runs):
    stale = [{**run, "config_hash": "0"} for run in runs]
    assert all(row.top1 is None for row in summarise(configs, WEIGHTS, stale, {}))


def test_runs_are_read_from_their_folders_and_from_the_results(configs, runs, tmp_path):
    base = configs[0]
    folder = tmp_path / "runs/toy/base/seed1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result(base, 1, 0.5)))
    (tmp_path / "results/toy").mkdir(parents=True)
    (tmp_path / "results/toy/runs.json").write_text(json.dumps(runs))
    found = read_runs(tmp_path / "runs", tmp_path / "results", "toy")
    assert len(found) == 5
    assert next(r for r in found if (r["name"], r["seed"]) == ("base", 1))["top1"] == 0.5


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("with_published", [False, True])
def test_table(form, with_published, configs, runs, published):
    rows = summarise(configs, WEIGHTS, runs, published if with_published else {})
    laid_out = table(rows, form)
    for word in ("base", "small", "tiny", "70.0", "90.0"):
        assert word in laid_out
    if form != "csv":
        assert "not measured" in laid_out and "92.00 ± 25.41" in laid_out
        assert ("a guess of ours" in laid_out) is with_published
        assert ("(-0.6)" in laid_out) is with_published
    if form == "terminal":
        assert max(map(len, laid_out.splitlines())) <= 80
    if form == "md":
        pipes = {line.count("|") for line in laid_out.splitlines() if line.startswith("|")}
        assert len(pipes) == 1
    if form == "latex":
        assert re.search(r"(?<!\\)[_%&#]", laid_out.partition("bottomrule")[2]) is None
        assert "\\toprule" in laid_out and "\\bottomrule" in laid_out


def test_csv_reads_back(configs, runs, published):
    rows = list(
        csv.DictReader(io.StringIO(table(summarise(configs, WEIGHTS, runs, published), "csv")))
    )
    assert [row["experiment"] for row in rows] == ["base", "tiny", "small"]
    assert (rows[2]["top1_mean"], rows[2]["top1_seeds"], rows[2]["head_weights"]) == (
        "88.0",
        "3",
        "300",
    )
    assert (rows[1]["top1_mean"], rows[1]["published_top1_change"]) == ("", "-0.6")


def test_plot_shows_measured_and_published(configs, runs, published, tmp_path):
    path = tmp_path / "plot.svg"
    plot_rank_accuracy(summarise(configs, WEIGHTS, runs, published), "toy", path)
    drawn = path.read_text()
    for words in ("(3, 2, 2, 4)", "70.0 %", "base, measured", "TRL, published", "Top-1 (%)"):
        assert words in drawn
    assert "(1, 1, 1)" not in drawn  # neither measured nor published


def test_nothing_to_plot_is_said(configs, tmp_path):
    with pytest.raises(UserError, match="nothing to plot"):
        plot_rank_accuracy(summarise(configs, WEIGHTS, [], {}), "toy", tmp_path / "plot.png")
    assert not list(tmp_path.glob("plot*"))


@pytest.mark.parametrize("name", ["plot", "plot.txt", "plot.xls"])
def test_a_plot_of_no_known_form_is_refused(name, configs, runs, published, tmp_path):
    rows = summarise(configs, WEIGHTS, runs, published)
    with pytest.raises(UserError, match=r"^[^\n]*\.png[^\n]*$"):
        plot_rank_accuracy(rows, "toy", tmp_path / name)
    assert not list(tmp_path.glob("plot*"))


def test_weights_are_counted_once_and_again_when_the_model_changes(configs, tmp_path):
    counted = suite.head_weights(configs, tmp_path)
    assert counted["small"] == 3 * 2 * 2 * 4 + 32 * 3 + 7 * 2 + 7 * 2 + 10 * 4
    noted = tmp_path / "toy/parameters.json"
    entry = json.loads(noted.read_text())
    entry["small"]["weights"] = 1
    noted.write_text(json.dumps(entry))
    assert suite.head_weights(configs, tmp_path)["small"] == 1
    entry["small"]["model_hash"] = "0"
    noted.write_text(json.dumps(entry))
    assert suite.head_weights(configs, tmp_path) == counted


def test_tabulate_imports_no_mxnet(tabulated):
    """With the counts in results/, and with no run at all."""
    shown = tabulated("mnist")
    assert "vgg_trl_8" in shown and "89.21" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_every_published_number_has_a_source():
    published = read_published(ROOT / "results/published.yaml").of("imagenet")
    assert all("Kossaifi" in p.source for p in published.values())
    assert published["resnet101_trl_150"].top1 == 76.0


def test_reproduce_trains_what_is_missing_and_reports(configs, tmp_path, capsys):
    where = (tmp_path / "runs", tmp_path / "results", "cpu")
    suite.reproduce(configs, [0], *where)
    first = capsys.readouterr().out
    assert first.count("seed 0") == 3 and "3 runs, of which 0" in first
    written = {path.name for path in (tmp_path / "results/toy").iterdir()}
    assert written == {
        "table.md",
        "table.csv",
        "runs.json",
        "parameters.json",
        "rank_vs_accuracy.png",
        "learning_curves.png",
        "spatial_patterns.png",
    }
    assert "--seeds 0" in (tmp_path / "results/toy/table.md").read_text()
    suite.reproduce(configs, [0], *where)
    again = capsys.readouterr().out
    assert "3 runs, of which 3" in again and "seed" not in again


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
def test_damaged_files_are_named(file, content, configs, tmp_path):
    suite.head_weights(configs, tmp_path / "results")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^[^\n]*{path.name}[^\n]*$"):
        suite.rows(configs, tmp_path / "runs", tmp_path / "results")
    assert path.read_text() == content


def test_a_report_is_written_again_from_results_alone(configs, runs, published, tmp_path):
    """No run folder, one experiment not measured, and no picture of what was learnt."""
    folder = tmp_path / "results/toy"
    folder.mkdir(parents=True)
    curve = {"train_loss": [2.0, 1.0], "top1": [0.5, 0.9]}
    (folder / "runs.json").write_text(json.dumps([{**run, "curve": curve} for run in runs]))
    suite.write_report(configs, tmp_path / "runs", tmp_path / "results")
    written = {path.name for path in folder.iterdir()}
    assert {"table.md", "table.csv", "rank_vs_accuracy.png", "learning_curves.png"} < written
    assert "spatial_patterns.png" not in written
    assert "4000 images to train on" in (folder / "table.md").read_text()


def test_a_suite_without_a_run_has_a_table_and_no_plot(configs, tmp_path):
    suite.write_report(configs, tmp_path / "runs", tmp_path / "results")
    written = {path.name for path in (tmp_path / "results/toy").iterdir()}
    assert written == {"table.md", "table.csv", "parameters.json"}


def test_patterns_are_of_the_configs_own_runs(configs, tmp_path, monkeypatch):
    """A run folder of another config by that name, or without its checkpoint, is passed over."""
    config = configs[1].with_seed(0)
    folder = tmp_path / "runs/toy" / config.name / "seed0"
    assert experiment.patterns(config, tmp_path / "runs", 3) is None
    (folder / "checkpoints").mkdir(parents=True)
    for made in (config, configs[0]):
        (folder / "result.json").write_text(json.dumps(result(made, 0, 0.5)))
        assert experiment.patterns(config, tmp_path / "runs", 3) is None


def test_published_curves_are_drawn_beside(configs, runs, published, tmp_path):
    rows = summarise(configs, WEIGHTS, runs, {})
    beside = summarise(configs, WEIGHTS, [], published)
    plot_rank_accuracy(rows, "toy", tmp_path / "plot.svg", beside)
    drawn = (tmp_path / "plot.svg").read_text()
    assert "published: against base" in drawn and "TRL, published" in drawn
    assert "TRL, measured" in drawn


def test_beside_is_the_suite_that_is_named(configs, tmp_path):
    (tmp_path / "results").mkdir()
    path = tmp_path / "results/published.yaml"
    where = (tmp_path / "configs/toy", tmp_path / "runs", tmp_path / "results")
    assert suite.beside(*where) == []
    path.write_text("beside: {toy: toy}")
    assert [row.name for row in suite.beside(*where)] == ["base", "tiny", "small"]


def test_heads_of_every_kind_are_drawn(configs, runs, tmp_path):
    rows = [
        replace(row, kind="a new kind") if row.baseline else row
        for row in summarise(configs, WEIGHTS, runs, {})
    ]
    plot_rank_accuracy(rows, "toy", tmp_path / "plot.svg")
    assert "a new kind, measured" in (tmp_path / "plot.svg").read_text()


def test_data_are_looked_for_before_anything_is_trained(configs, tmp_path):
    values = configs[1].model_dump()
    values["dataset"]["samples"] = 5000
    few = [configs[0], config.Config.model_validate(values)]
    with pytest.raises(UserError, match=r"^toy/small: dataset.samples: expected [^\n]*got 5000$"):
        suite.reproduce(few, [0], tmp_path / "runs", tmp_path / "results", "cpu")
    assert not (tmp_path / "runs").exists()
