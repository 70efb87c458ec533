"""Tuning: every experiment's pairs on held-out images, the best written where it belongs."""

import csv
import json
from pathlib import Path

import pytest

from trnet import config, tuning
from trnet.errors import Diverged, UserError
from trnet.suite import Suite

BASE = """
dataset: {name: mnist, augment: false, samples: 60}
model: {backbone: small_vgg2}
train: {epochs: 3, batch_size: 20, learning_rate: 0.05, schedule: {type: cosine}}
tune:
  {learning_rate: [0.02, 1.0e+30], weight_decay: [0.001], epochs: 1, holdout: 0.25, seeds: 2}
"""
FILES = {
    "base.yaml": "extends: _base.yaml\nname: base\nmodel: {head: {type: dense, hidden: []}}\n",
    "small.yaml": (
        "# why it is here\nextends: _base.yaml\nname: small\nbaseline: base\nmodel:\n"
        "  head: {type: trl, rank: [4, 2, 2, 10]}  # as it stands\ntrain:\n  batch_size: 10\n"
    ),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "configs/toy"
    folder.mkdir(parents=True)
    for name, content in {"_base.yaml": BASE, **FILES}.items():
        (folder / name).write_text(content)
    return folder


def tune(folder: Path) -> list[tuning.Trial]:
    root = folder.parents[1]
    return tuning.tune(Suite.load(folder, root / "runs", root / "results"), "cpu", 1)


def test_every_experiment_gets_its_best_pair(folder, tmp_path, capsys):
    trials = tune(folder)
    assert [trial.experiment for trial in trials] == ["base"] * 2 + ["small"] * 2
    for name in ("base", "small"):
        of = [trial for trial in trials if trial.experiment == name]
        (chosen,) = [trial for trial in of if trial.chosen]
        assert chosen.top1 == max(trial.top1 for trial in of) > 0
        tuned = config.load(folder / f"{name}.yaml").train
        assert (tuned.learning_rate, tuned.weight_decay) == (0.02, chosen.weight_decay)
        assert (chosen.learning_rate, chosen.weight_decay) == (0.02, tuned.weight_decay)
        assert {(t.top1, t.loss) for t in of if t.learning_rate > 1} == {(0.0, float("inf"))}
    assert capsys.readouterr().out.count("diverged") == 4

    text = (folder / "small.yaml").read_text()
    assert "# why it is here" in text and "# as it stands" in text
    assert config.load(folder / "small.yaml").train.batch_size == 10
    noted = list(csv.DictReader((tmp_path / "results/toy/tuning.csv").open()))
    assert [float(row["top1"]) for row in noted] == [round(t.top1, 4) for t in trials]

    # What is done is not done again; those that diverged are nowhere.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("result.json")}
    assert len(before) == 4
    assert tune(folder) == trials
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("result.json")}


def test_a_schedule_is_cut_to_the_trials_and_said_once(folder, capsys):
    path = folder / "_base.yaml"
    path.write_text(path.read_text().replace("{type: cosine}", "{type: cosine, warmup_epochs: 2}"))
    tune(folder)
    line = "train.schedule.warmup_epochs: 2 is cut to 0.5, half of the 1 epoch"
    assert capsys.readouterr().out.count(line) == 1


def test_trials_never_see_the_validation_images_nor_the_measured_seeds(folder, tmp_path):
    tune(folder)
    paths = list((tmp_path / "runs/toy/tuning").glob("*/seed*/result.json"))
    assert {path.parent.name for path in paths} == {"seed1000", "seed1001"}
    for path in paths:
        result = json.loads(path.read_text())
        data = {"name": "mnist", "train": 45, "validation": 15}
        assert result["dataset"] == data and result["epochs"] == 1


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("small.yaml", "# why it is here", "tune: null", "toy/small: tune: is missing"),
        ("small.yaml", "name: small", "name: other", "toy/other: name: expected .* other.yaml"),
    ],
)
def test_a_suite_that_cannot_be_tuned_is_refused(file, old, new, said, folder, tmp_path):
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$"):
        tune(folder)
    assert not (tmp_path / "runs").exists()


def test_among_equal_accuracies_the_lower_loss_is_chosen(folder):
    (base, _) = config.load_suite(folder)
    for losses in ((0.4, 0.5), (0.5, 0.4)):
        by_run = {
            (tuning._name(base, rate, 0.001), seed): {"top1": 0.9, "loss": loss}
            for rate, loss in zip((0.02, 1e30), losses)
            for seed in (1000, 1001)
        }
        (chosen,) = [trial for trial in tuning._scored(base, by_run) if trial.chosen]
        assert chosen.loss == pytest.approx(0.4)


def test_an_experiment_of_which_every_pair_diverges_keeps_its_file(folder, tmp_path, monkeypatch):
    texts = {path: path.read_text() for path in folder.iterdir()}
    monkeypatch.setattr(tuning, "train_missing", lambda wanted, *_: [Diverged()] * len(wanted))
    with pytest.raises(
        UserError, match=r"^toy/base: every pair diverged; lower tune.learning_rate$"
    ):
        tune(folder)
    assert texts == {path: path.read_text() for path in folder.iterdir()}
    assert (tmp_path / "results/toy/tuning.csv").is_file()


def test_files_with_exchanged_names_are_refused(folder):
    for name, other in (("base", "small"), ("small", "base")):
        path = folder / f"{name}.yaml"
        path.write_text(path.read_text().replace(f"name: {name}", f"name: {other}"))
    (folder / "base.yaml").write_text(FILES["base.yaml"].replace("name: base", "name: small"))
    (folder / "small.yaml").write_text(FILES["base.yaml"])
    with pytest.raises(UserError, match=r"^toy/\w+: name: expected the name of its file[^\n]*$"):
        tune(folder)
