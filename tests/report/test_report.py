"""Tables and plots: the numbers in them, their forms, and that they need neither runs nor MXNet."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from trnet import config
from trnet.errors import UserError
from trnet.report.plot import plot_rank_accuracy
from trnet.report.published import read_published
from trnet.report.summary import summarise
from trnet.report.table import FORMATS, table

ROOT = Path(__file__).parents[2]
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


def test_seeds_that_scored_other_images_are_no_pair(configs, runs):
    drawn_anew = {"name": "mnist", "train": 4000, "validation": 1000, "note": "by another FreeType"}
    runs[3] = {**runs[3], "dataset": drawn_anew}
    *_, small = summarise(configs, WEIGHTS, runs, {})
    assert (small.top1_change.mean, small.top1_change.seeds) == (pytest.approx(1.0), 1)


def test_published_changes_are_against_the_published_baseline(configs, runs, published):
    base, tiny, small = summarise(configs, WEIGHTS, runs, published)
    assert base.published_change is None
    assert small.published_change == pytest.approx(-1.1) and tiny.published_change == -0.6


def test_a_collapsed_seed_is_named_and_counts(configs, runs):
    runs = [*runs, result(configs[1], 4, 0.1)]
    rows = summarise(configs, WEIGHTS, runs, {})
    assert [row.collapsed for row in rows] == [(), (), ((4, pytest.approx(10.0)),)]
    assert rows[2].top1.mean == pytest.approx(68.5)
    assert "small: seed 4 collapsed, to a Top-1 of 10.0;" in table(rows, "md")


def test_runs_of_another_config_do_not_count(configs, runs):
    stale = [{**run, "config_hash": "0"} for run in runs]
    assert all(row.top1 is None for row in summarise(configs, WEIGHTS, stale, {}))


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


@pytest.mark.parametrize(
    "rank, shown",
    [
        ("(8, 4, 4)", "8,4,4"),
        ("(8, 4, 4), (2, 2, 2)", "(8,4,4),(2,2,2)"),
        ("(8, 4, 4), 20", "(8,4,4),20"),
        ("savings 0.9", "savings 0.9"),
        ("20", "20"),
    ],
)
def test_ranks_are_bare_in_a_terminal(rank, shown, configs, runs):
    rows = summarise(configs, WEIGHTS, runs, {})
    text = table([replace(rows[1], rank=rank)])
    assert re.search(rf"(^|\s){re.escape(shown)}(\s|$)", text)


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
    for words in ("baseline: dense", "TRL (3, 2, 2, 4), 70.0 %", "published", "Top-1 (%)"):
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


def test_tabulate_imports_no_mxnet(tabulated):
    """With the counts in results/, and with no run at all."""
    shown = tabulated("mnist")
    assert "vgg_trl_8" in shown and "89.21" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_every_published_number_has_a_source():
    published = read_published(ROOT / "results/published.yaml").of("imagenet")
    assert all("Kossaifi" in p.source for p in published.values())
    assert published["resnet101_trl_150"].top1 == 76.0


def test_published_curves_are_drawn_beside(configs, runs, published, tmp_path):
    rows = summarise(configs, WEIGHTS, runs, {})
    beside = summarise(configs, WEIGHTS, [], published)
    plot_rank_accuracy(rows, "toy", tmp_path / "plot.svg", beside)
    drawn = (tmp_path / "plot.svg").read_text()
    assert "<!-- against base -->" in drawn and "<!-- published: against base -->" in drawn
    assert drawn.count("TRL (3, 2, 2, 4), 70.0 %") == 2


def test_heads_of_every_kind_are_drawn(configs, runs, tmp_path):
    rows = [
        replace(row, kind="a new kind") if row.baseline else row
        for row in summarise(configs, WEIGHTS, runs, {})
    ]
    plot_rank_accuracy(rows, "toy", tmp_path / "plot.svg")
    assert "a new kind (3, 2, 2, 4), 70.0 %" in (tmp_path / "plot.svg").read_text()
