"""Run folders: results, runs that are finished, and what is refused before anything is trained."""

import json
import shutil
from pathlib import Path

import pytest
from training.helpers import CONFIG, CPU, ROOT

from trnet import config, experiment, inference
from trnet.errors import UserError
from trnet.files import sealed
from trnet.run_folder import held, run_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch: its runs folder, its config and its result."""
    runs = tmp_path_factory.mktemp("runs")
    chosen = config.load(CONFIG, ["train.epochs=1", "train.schedule.warmup_epochs=0"])
    result = experiment.train(
        chosen, config.load_baseline(CONFIG, chosen), runs, CPU.devices, show=False
    )
    return runs, chosen, result


def test_a_result_says_what_it_is_of(finished):
    runs, chosen, result = finished
    folder = run_folder(runs, chosen)
    assert folder == runs / "mnist/vgg_trl_8/seed0"
    assert json.loads((folder / "result.json").read_text()) == sealed(result)
    assert config.load(folder / "config.yaml") == chosen
    assert (result["name"], result["suite"], result["seed"]) == ("vgg_trl_8", "mnist", 0)
    assert result["config_hash"] == chosen.hash
    assert result["dataset"] == {"name": "mnist", "train": 4000, "validation": 1000}
    assert result["head_parameters"]["weights"] == 8 * 4 * 4 * 10 + 32 * 8 + 2 * 7 * 4 + 10 * 10
    assert result["baseline_head_weights"] == 15680
    assert result["space_savings"] == 1 - 1692 / 15680
    assert result["versions"]["mxnet"] == "1.9.1"
    assert result["images_per_second"] > 0 and "cores" in result["processor"]


def test_a_finished_run_is_not_trained_again(finished):
    runs, chosen, result = finished
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    assert experiment.train(chosen, None, runs, CPU.devices) == result
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before


def test_another_config_does_not_touch_a_run(finished):
    runs, _, _ = finished
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    other = config.load(CONFIG, ["train.epochs=2", "train.schedule.warmup_epochs=0"])
    said = r"epochs: 1 there, 2 here; a cosine schedule.s .*\); delete it or use another --runs$"
    with pytest.raises(UserError, match=said):
        experiment.train(other, None, runs, CPU.devices)
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before


def test_one_process_trains_a_run_at_a_time(tmp_path):
    chosen = config.load(CONFIG, ["train.epochs=2"])
    folder = run_folder(tmp_path, chosen)
    folder.mkdir(parents=True)
    with held(folder):  # noqa: SIM117
        with pytest.raises(UserError, match="another process is training it"):
            experiment.train(chosen, None, tmp_path, CPU.devices, show=False)


def test_a_checkpoint_scores_as_its_epoch_did(finished):
    runs, chosen, result = finished
    folder = run_folder(runs, chosen)
    for which in ("latest", "best"):
        scored, epoch, scores = inference.score(folder, which, CPU.devices)
        assert (scored, epoch) == (chosen, 1)
        assert scores.top1 == result["top1"] and scores.loss == pytest.approx(result["loss"])


STEP = [
    "train.schedule={type: step, milestones: [1, 5], warmup_epochs: 0.5}",
    "dataset.samples=400",
]


def test_a_finished_run_gets_more_epochs(tmp_path):
    """As if it had been trained for as long from the start, where the schedule allows it."""

    def trained(runs: str, epochs: int):
        chosen = config.load(CONFIG, [*STEP, f"train.epochs={epochs}"])
        result = experiment.train(chosen, None, tmp_path / runs, CPU.devices, show=False)
        last = run_folder(tmp_path / runs, chosen) / f"checkpoints/epoch-{epochs:04d}"
        return result, (last / "network.params").read_bytes()

    straight, expected = trained("straight", 3)
    first, _ = trained("continued", 2)
    assert first["epochs"] == 2
    result, parameters = trained("continued", 3)
    assert parameters == expected and result["epochs"] == 3
    assert result["curve"] == straight["curve"] and result["config_hash"] == straight["config_hash"]
    with pytest.raises(UserError, match=r"train\.epochs: 3 there, 2 here"):
        trained("continued", 2)


def test_a_run_whose_warm_up_was_cut_gets_no_more_epochs(tmp_path):
    """Its first epochs had other rates than those of a longer run."""
    schedule = "train.schedule={type: step, milestones: [5], warmup_epochs: 2}"
    settings = [schedule, "dataset.samples=100"]
    short, long = (config.load(CONFIG, [*settings, f"train.epochs={n}"]) for n in (1, 3))
    experiment.train(short, None, tmp_path, CPU.devices, show=False)
    said = r"train\.epochs: 1 there, 3 here; the warm-up was cut to 0\.5 epochs\); [^\n]*$"
    with pytest.raises(UserError, match=said):
        experiment.train(long, None, tmp_path, CPU.devices, show=False)


def test_a_schedule_is_cut_to_the_epochs(tmp_path, capsys):
    """Of any config, one epoch can be trained; a line says what of its schedule is left out."""
    settings = ["train.epochs=1", "dataset.samples=400"]
    for schedule, said in (
        ("{type: cosine, warmup_epochs: 5}", "warmup_epochs: 5 is cut to 0.5, half of the 1 epoch"),
        ("{type: step, milestones: [3, 6]}", "milestones: [3, 6] are not reached in 1 epoch"),
    ):
        chosen = config.load(CONFIG, [*settings, f"train.schedule={schedule}"])
        result = experiment.train(chosen, None, tmp_path / schedule[7:9], CPU.devices)
        assert result["epochs"] == 1
        assert f"train.schedule.{said}" in capsys.readouterr().err


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    chosen = config.load(CONFIG, ["train.dtype=float16"])
    with pytest.raises(
        UserError, match=r"^mnist/\S+: train\.dtype: expected float32 on a CPU[^\n]*$"
    ):
        experiment.train(chosen, None, tmp_path, CPU.devices)
    assert not list(tmp_path.iterdir())


def test_savings_are_against_the_baseline_on_the_same_data(tmp_path):
    overrides = ["dataset.name=synthetic", "dataset.size=64", "dataset.classes=3"]
    path = ROOT / "configs/imagenet/resnet101_trl_50.yaml"
    chosen = config.load(
        path, [*overrides, "model.backbone=resnet18_v1", "model.head.rank=[50, 1, 1, 3]"]
    )
    baseline = config.load_baseline(path, chosen)
    assert experiment.count(baseline).weights == 512 * 3
    assert baseline.name == "resnet101"


def test_savings_without_a_baseline_are_against_the_backbones_own_head(tmp_path):
    """(32, 7, 7) to 512, 512 and 10 for a TRL, and none at all for a dense head of fewer."""
    keys = ["baseline=null", "train.epochs=1", "dataset.samples=100"]
    own = 32 * 7 * 7 * 512 + 512 * 512 + 512 * 10
    chosen = config.load(CONFIG, keys)
    result = experiment.train(chosen, None, tmp_path, CPU.devices, show=False)
    assert result["baseline_head_weights"] == own
    assert result["space_savings"] == 1 - result["head_parameters"]["weights"] / own
    dense = config.load(CONFIG.with_name("vgg.yaml"), keys)
    assert experiment.train(dense, None, tmp_path, CPU.devices, show=False)["space_savings"] == 0


def test_evaluation_finds_data_that_moved(finished):
    runs, chosen, _ = finished
    with pytest.raises(UserError, match=r"dataset\.root: expected null, .* got 'elsewhere'"):
        inference.score(run_folder(runs, chosen), "latest", CPU.devices, root="elsewhere")


@pytest.mark.parametrize(
    "head",
    [
        "{type: dense, hidden: [2000000000]}",
        "{type: trl, factorization: cp, rank: 100000000}",
    ],
)
def test_arrays_that_mxnet_cannot_hold_are_refused(head, tmp_path):
    chosen = config.load(CONFIG.with_name("vgg.yaml"), [f"model.head={head}"])
    with pytest.raises(
        UserError, match=r"^mnist/vgg: model.head: [^\n]*at most 2147483646 elements"
    ):
        experiment.train(chosen, None, tmp_path, CPU.devices, show=False)
    assert not any(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_no_start(finished, tmp_path):
    runs, chosen, _ = finished
    saved = run_folder(runs, chosen) / "checkpoints/epoch-0001"
    copy = Path(shutil.copytree(saved, tmp_path / "epoch-0001")) / "network.params"
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    started = config.load(CONFIG, [f"model.pretrained={copy}", "train.epochs=1"])
    with pytest.raises(UserError, match=r"^[^\n]*network.params: is damaged: its checksum is not"):
        experiment.train(started, None, tmp_path / "runs", CPU.devices, show=False)
