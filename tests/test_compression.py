"""A trained network, compressed: from a run folder to run folders like any other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from trnet import cli, compression, config, experiment, inference
from trnet.errors import ConfigError, UserError
from trnet.models import build_network, load_pretrained

CONFIG = """
name: digits
dataset: {name: mnist, augment: false}
model:
  backbone: small_vgg2
  head: {type: dense, hidden: []}
train:
  epochs: 2
  batch_size: 50
  learning_rate: 0.1
  schedule: {type: cosine}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a trained run, in runs/shapes/digits/seed0."""
    folder = tmp_path_factory.mktemp("compression")
    (folder / "shapes").mkdir()
    (folder / "shapes/digits.yaml").write_text(CONFIG)
    chosen = config.load(folder / "shapes/digits.yaml")
    experiment.train(chosen, None, folder / "runs", [mx.cpu()], show=False)
    return folder


@pytest.fixture
def compress(folder, monkeypatch, capsys):
    """Run `trnet compress` in the folder: what it prints, or its exit code and error."""
    monkeypatch.chdir(folder)

    def run(*arguments: str, source: str = "runs/shapes/digits/seed0") -> str:
        cli.main(["compress", source, "--images", "500", *arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(compress, capsys):
    """The one line that a mistake ends in."""

    def run(*arguments: str, **source: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            compress(*arguments, **source)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stopped.value.code == 2 and error.startswith("error: ")
        return error

    return run


def result(name: str) -> dict:
    return json.loads(Path(f"runs/compressed/shapes/digits/{name}/seed0/result.json").read_text())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("trl_32_7_7_10", ["--rank", "[32, 7, 7, 10]"]),
        ("trl_tt_32_70_10", ["--factorization", "tensor_train", "--rank", "[32, 70, 10]"]),
        ("tcl_32_7_7", ["--head", "tcl", "--rank", "[32, 7, 7]"]),
    ],
)
def test_at_full_rank_nothing_changes(compress, name, arguments):
    compress(*arguments)
    dense, full = result("dense"), result(name)
    assert full["loss"] == pytest.approx(dense["loss"], rel=1e-4)
    assert full["top1"] == dense["top1"] and full["epochs"] == 0
    assert full["fit"]["output_error"] < 1e-4


def test_a_compressed_head_is_close_and_stays_what_it_was_scored_as(compress, capsys):
    out = compress("--rank", "[8, 4, 4, 10]")
    assert "trl_8_4_4_10 (chosen)" in out
    dense, small = result("dense"), result("trl_8_4_4_10")
    run = "runs/compressed/shapes/digits/trl_8_4_4_10/seed0"
    assert small["space_savings"] > 0.85 and small["top1"] > dense["top1"] - 0.05
    assert 0 < small["fit"]["output_error"] < 0.3 and small["curve"]["top1"] == []
    trained = json.loads(Path("runs/shapes/digits/seed0/result.json").read_text())
    assert (dense["top1"], dense["loss"]) == (trained["top1"], pytest.approx(trained["loss"]))
    cli.main(["evaluate", run])
    assert f"{100 * small['top1']:.2f} %" in capsys.readouterr().out
    cli.main(["export", run])
    cli.main(["evaluate", f"{run}/trl_8_4_4_10.onnx"])
    assert f"{100 * small['top1']:.2f} %" in capsys.readouterr().out
    cli.main(["tabulate", "configs/compressed/shapes/digits"])
    assert "trl_8_4_4_10" in capsys.readouterr().out
    # The same command again finds its results; so does a training of the config that it wrote.
    times = Path(f"{run}/result.json").stat().st_mtime_ns
    assert compress("--rank", "[8, 4, 4, 10]") == out
    cli.main(["train", "configs/compressed/shapes/digits/trl_8_4_4_10.yaml"])
    assert Path(f"{run}/result.json").stat().st_mtime_ns == times


@pytest.mark.parametrize("freeze", [False, True])
def test_a_compressed_head_is_trained_on(compress, freeze):
    out = compress(
        "--factorization",
        "cp",
        "--rank",
        "5",
        "--finetune",
        "1",
        "--configs",
        f"configs/tuned{freeze:d}",
        *["--freeze"] * freeze,
    )
    assert "trl_cp_5_tuned (chosen)" in out
    runs = Path(f"runs/tuned{freeze:d}")
    before, after = (
        mx.nd.load(str(runs / name / f"seed0/checkpoints/epoch-000{epoch}/network.params"))
        for name, epoch in (("trl_cp_5", 0), ("trl_cp_5_tuned", 1))
    )
    moved = {key.split(".")[0] for key in before if np.any((before[key] != after[key]).asnumpy())}
    assert moved == ({"output"} if freeze else {"features", "output"})
    tuned = json.loads((runs / "trl_cp_5_tuned/seed0/result.json").read_text())
    first = json.loads((runs / "trl_cp_5/seed0/result.json").read_text())
    assert tuned["loss"] < first["loss"] and "fit" not in tuned
    trained, tuned_by = (
        config.load(folder / "seed0/config.yaml").train.learning_rate
        for folder in (Path("runs/shapes/digits"), runs / "trl_cp_5_tuned")
    )
    assert tuned_by == pytest.approx(trained / 10)


@pytest.mark.parametrize(
    ("savings", "head"),
    [(0.8, ("trl",)), (0.8, ("tcl",)), (0.95, ("trl", "--factorization", "cp"))],
)
def test_a_budget_is_kept(compress, savings, head):
    folder = "_".join(head)
    compress("--head", *head, "--budget", str(savings), "--configs", f"configs/{folder}")
    (name,) = (path.stem for path in Path(f"configs/{folder}").glob("t*.yaml"))
    found = json.loads(Path(f"runs/{folder}/{name}/seed0/result.json").read_text())
    assert savings <= found["space_savings"] < savings + 0.07
    assert found["fit"]["output_error"] < 0.3


def test_a_tolerance_chooses_the_head_that_saves_most(compress):
    """Of those that this command tries: not of earlier ones, of another kind."""
    compress("--head", "tcl", "--rank", "[1, 1, 1]", "--configs", "configs/tolerant")
    for tolerance in (0.01, 0.9):
        out = compress("--tolerance", str(tolerance), "--configs", "configs/tolerant")
        paths = Path("runs/tolerant").glob("*/*/result.json")
        runs = {run["name"]: run for run in (json.loads(path.read_text()) for path in paths)}
        lowest = runs["dense"]["top1"] - tolerance
        tried = [run for name, run in runs.items() if name.startswith("trl")]
        good = [run for run in tried if run["top1"] >= lowest]
        best = max(good, key=lambda run: run["space_savings"])
        assert len(tried) == 6 and f"{best['name']} (chosen)" in out
    assert Path("results/tolerant/compression.png").is_file()
    assert "(chosen)" in Path("results/tolerant/compression.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rank", "[40, 7, 7, 10]"], "from 1 to 32, got 40"),
        (["--rank", "[8, 4, 4"], "--rank"),
        (["--rank", ""], "--rank: expected an integer ≥ 1, or a list of them"),
        (["--rank", "{savings: 0.9}"], "--rank: expected an integer ≥ 1, or a list of them"),
        (["--rank", "a/b"], "--rank: expected an integer ≥ 1, or a list of them"),
        (["--rank", "7"], "model.head.rank: expected a list [R1"),
        (["--budget", "0.5", "--freeze"], "--freeze: expected --finetune"),
        (["--budget", "0.5", "--head", "tcl", "--weigh-classes"], "--weigh-classes: expected"),
        (["--factorization", "cpp", "--rank", "3"], "--factorization: expected one of tucker"),
        (["--budget", "0.5", "--head", "tcl", "--factorization", "cp"], "expected --head trl"),
        (["--budget", "0.999"], "savings of 0.999: expected at least 57 parameters"),
        (["--budget", "1"], "--budget: expected a share"),
        (["--rank", "[8, 4, 4, 10]", "--finetune", "0"], "--finetune: expected an integer ≥ 1"),
    ],
)
def test_what_is_impossible_is_said_in_a_line(refused, arguments, said):
    before = set(Path("configs").rglob("*.yaml"))
    assert said in refused(*arguments)
    assert {p.name for p in set(Path("configs").rglob("*.yaml")) - before} <= {"dense.yaml"}


@pytest.mark.parametrize(
    "rank", ["[8, 4, 4, 10]", "12", "[10, 10, 8]"], ids=["tucker", "cp", "tensor_train"]
)
def test_a_trained_trl_is_compressed_as_a_dense_head_is(compress, refused, rank, request):
    form = request.node.callspec.id
    compress("--factorization", form, "--rank", rank)
    (run,) = Path("runs/compressed/shapes/digits").glob(
        {"tucker": "trl_8_4_4_10", "cp": "trl_cp_12", "tensor_train": "trl_tt_10_10_8"}[form]
    )
    source, to = str(run / "seed0"), ["--configs", f"configs/again/{form}"]
    compress("--factorization", form, "--rank", rank, *to, source=source)
    before, same = (
        json.loads(path.read_text())
        for path in (
            Path(source, "result.json"),
            *Path("runs/again", form).glob("trl*/seed0/result.json"),
        )
    )
    assert before["top1"] == same["top1"]
    out = compress("--factorization", form, "--budget", "0.4", *to, source=source)
    assert "trained" in out
    results = [
        json.loads(path.read_text())
        for path in Path("runs/again", form).glob("*/seed0/result.json")
    ]
    smallest = min(results, key=lambda result: result["head_parameters"]["weights"])
    share = smallest["head_parameters"]["weights"] / before["head_parameters"]["weights"]
    assert 0.4 < share <= 0.6
    assert "expected a dense head, for a TCL" in refused(
        "--head", "tcl", "--budget", "0.4", *to, source=source
    )


def test_what_is_no_trained_network_is_refused(refused, compress):
    assert "config.yaml: no such file" in refused("--budget", "0.5", source="runs/shapes/digits")
    without = refused("--budget", "0.5", source="shapes/digits.yaml")
    assert "model.pretrained: expected trained weights" in without
    compress("--head", "tcl", "--rank", "[8, 4, 4]")
    run = "runs/compressed/shapes/digits/tcl_8_4_4/seed0"
    assert "expected a trained dense head or TRL, got 'tcl'" in refused(
        "--budget", "0.5", source=run
    )


def test_a_trl_after_a_tcl_is_refused(refused):
    path = Path("shapes/both.yaml")
    head = "{type: trl, rank: [4, 3, 3, 5], tcl: [8, 4, 4]}"
    path.write_text(CONFIG.replace("digits\n", "both\n", 1))
    for settings in (["--budget", "0.5"], ["--tolerance", "0.1"]):
        overrides = ["--set", f"model.head={head}", "--set", "model.pretrained=some.params"]
        said = refused(*settings, *overrides, source=str(path))
        assert "expected a trained TRL without norm, weight_norm and tcl" in said


def test_a_config_of_the_users_is_kept(compress, refused):
    path = Path("configs/mine/trl_8_4_4_10.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("name: [mine\n")
    assert "not valid YAML" in refused("--rank", "[8, 4, 4, 10]", "--configs", "configs/mine")
    path.write_text("name: mine\n")
    said = refused("--rank", "[8, 4, 4, 10]", "--configs", "configs/mine")
    assert "is another config already" in said and path.read_text() == "name: mine\n"


def test_a_network_that_pools_with_its_weights_in_a_file(compress, refused, tmp_path):
    """As an engineer has it: a config of a backbone, and a file."""
    donor = build_network("small_resnet8", {"type": "dense", "hidden": []}, (1, 28, 28), 10)
    donor.initialize(mx.init.MSRAPrelu())
    donor(mx.nd.zeros((1, 1, 28, 28)))
    donor.save_parameters(str(tmp_path / "donor.params"))
    Path("zoo").mkdir()
    Path("zoo/net.yaml").write_text(CONFIG.replace("small_vgg2", "small_resnet8"))
    to = ["--set", f"model.pretrained={tmp_path / 'donor.params'}", "--configs", "configs/zoo"]
    compress("--budget", "0.3", *to, source="zoo/net.yaml")
    names = [path.stem for path in Path("configs/zoo").glob("trl*.yaml")]
    assert len(names) == 1 and names[0].count("_1_1_") == 1
    for form in ("cp", "tensor_train"):
        said = refused("--budget", "0.3", "--factorization", form, *to, source="zoo/net.yaml")
        assert "expected a head that does not pool, for" in said
    said = refused("--budget", "0.3", "--head", "tcl", *to, source="zoo/net.yaml")
    assert "expected a head that does not pool, for a TCL" in said
    said = refused("--rank", "3", "--factorization", "cp", *to, source="zoo/net.yaml")
    assert "model.fit: expected a head that can be fitted" in said
    assert not Path("configs/zoo/trl_cp_3.yaml").exists()
    # Savings of 0.9 and more cannot be had.
    compress("--tolerance", "0.9", *to, source="zoo/net.yaml")
    assert 2 <= len(list(Path("configs/zoo").glob("trl*.yaml"))) <= 4


def test_a_start_is_fitted_only_to_what_it_can_express(folder, refused):
    path = folder / "shapes/two.yaml"
    weights = next((folder / "runs/shapes/digits/seed0/checkpoints").glob("*/network.params"))
    path.write_text(CONFIG.replace("digits\n", "two\n", 1).replace("hidden: []", "hidden: [9]"))
    said = refused(
        "--rank",
        "[8, 4, 4, 10]",
        "--set",
        f"model.pretrained={weights}",
        "--configs",
        "configs/two",
        source=str(path),
    )
    assert "dense: model.fit: expected a head that can be fitted" in said
    assert "0 of the head's 2 dense layers are trained" in said


def test_savings_in_a_config_choose_the_rank_by_the_trained_weights(folder):
    path, weights = folder / "shapes/saving.yaml", folder / "teacher.params"
    saved = next((folder / "runs/shapes/digits/seed0/checkpoints").glob("*/network.params"))
    shutil.copy(saved, weights)
    path.write_text(CONFIG.replace("digits\n", "saving\n", 1))
    head = "model.head={type: trl, rank: {savings: 0.95}}"
    untrained = config.load(path, [head])
    chosen = config.load(path, [head, f"model.pretrained={weights}", "train.epochs=0"])
    dataset = experiment.find_dataset(chosen)
    trained, balanced = (experiment.build(c, dataset).output.rank for c in (chosen, untrained))
    assert trained != balanced
    sizes = [experiment.count(c).weights for c in (chosen, untrained)]
    assert all(0.75 < size / (0.05 * 32 * 7 * 7 * 10) <= 1 for size in sizes)
    errors, dense = {}, mx.nd.load(str(weights))["output.1.weight"]
    for rank in (trained, balanced):
        overrides = [f"model.head={{type: trl, rank: {list(rank)}}}", f"model.pretrained={weights}"]
        network = experiment.activations(config.load(path, overrides), 50, [mx.cpu()])[0]
        errors[rank] = (network.output.to_dense_weight() - dense).norm().asscalar()
    assert errors[trained] < errors[balanced]
    # The run is one like any other.
    result = experiment.train(chosen, None, folder / "runs", [mx.cpu()], show=False)
    assert result["head_parameters"]["weights"] == sizes[0]
    assert experiment.earlier_result(chosen, folder / "runs") == result
    # Once it is trained, what chose its rank may go.
    weights.unlink()
    done = folder / "runs/shapes/saving/seed0"
    own = done / "checkpoints/epoch-0000"
    assert experiment.build(chosen, dataset, own).output.rank == trained
    assert inference.score(done, "latest", [mx.cpu()])[2].top1 == result["top1"]
    saved = own / "network.params"
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-9])
    with pytest.raises(ConfigError, match=r"model\.head\.rank: .*there is no such file$"):
        experiment.build(chosen, dataset, own)
    saved.write_bytes(whole)
    donor = compression.open_donor(done, [])
    assert tuple(donor.model.head.rank) == trained
    assert experiment.build(donor, dataset).output.rank == trained


def test_each_seed_may_start_from_its_own_network(folder):
    path = folder / "shapes/digits.yaml"
    pattern = str(folder / "runs/shapes/digits/seed{seed}/checkpoints/epoch-0002/network.params")
    again = ["name=again", "train.epochs=0", f"model.pretrained={pattern}"]
    zero, one = (config.load(path, [*again, f"seed={seed}"]) for seed in (0, 1))
    assert zero.hash == one.hash
    assert one.pretrained == pattern.replace("{seed}", "1")
    source = json.loads((folder / "runs/shapes/digits/seed0/result.json").read_text())
    result = experiment.train(zero, None, folder / "runs", [mx.cpu()], show=False)
    assert result["top1"] == source["top1"]
    with pytest.raises(
        UserError, match=r"model\.pretrained: expected an existing file, got '.*seed1"
    ):
        experiment.train(one, None, folder / "runs", [mx.cpu()], show=False)


def test_no_epochs_need_trained_weights(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(CONFIG)
    for override, said in (
        ("train.epochs=0", "train.epochs: expected at least 1 without model.pretrained, got 0"),
        ("model.fit={images: 3}", "model.fit: expected none without model.pretrained"),
    ):
        with pytest.raises(UserError, match=f"^--set {re.escape(override)}: {said}$"):
            config.load(path, [override])
    assert config.load(path, ["train.epochs=0", "model.pretrained=x"]).train.cuts == []


def test_images_make_the_outputs_closer(folder):
    """Of the backbone's features, in one call: by the weight, and by the images."""
    file = next((folder / "runs/shapes/digits/seed0/checkpoints").glob("*/network.params"))
    head, shape = {"type": "trl", "rank": [4, 2, 2, 6]}, (1, 28, 28)
    source = experiment.load(
        config.load(folder / "shapes/digits.yaml"),
        experiment.find_dataset(config.load(folder / "shapes/digits.yaml")),
    )
    images = [batch for batch, _ in source.train(100, (0, 0))][:10]
    losses = {}
    for given in (None, images):
        network = build_network("small_vgg2", head, shape, 10)
        network.initialize()
        network(mx.nd.zeros((1, *shape)))
        start = load_pretrained(
            network, "small_vgg2", str(file), shape, 10, given and (lambda: images)
        )
        scores = mx.nd.concat(*(network(batch) for batch in images), dim=0).asnumpy()
        losses[given is None] = scores
        assert start.is_whole and ("outputs" in str(start)) is (given is not None)
    donor = build_network("small_vgg2", {"type": "dense", "hidden": []}, shape, 10)
    donor.load_parameters(str(file))
    expected = mx.nd.concat(*(donor(batch) for batch in images), dim=0).asnumpy()
    errors = {key: np.linalg.norm(scores - expected) for key, scores in losses.items()}
    assert errors[False] < 0.7 * errors[True]
