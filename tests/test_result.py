"""result.json: written and read again, and one line for what is not a result."""

import json
import shutil
from pathlib import Path

import pytest
from toy_suite import make_result, make_suite

from trnet.errors import UserError
from trnet.files import sealed
from trnet.result import Result, read_result, read_results, write_result, write_results

ROOT = Path(__file__).parent.parent
NOTED = sorted((ROOT / "results").rglob("runs.json"))


@pytest.fixture
def result(tmp_path) -> Result:
    return make_result(make_suite(tmp_path).configs["small"], 0, 0.5)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The run folder of that result."""
    path = tmp_path / "runs/toy/small/seed0"
    path.mkdir(parents=True)
    return path


def test_a_result_reads_back(result, folder):
    assert read_result(folder) is None and read_results(folder / "runs.json") == []
    write_result(folder, result)
    write_results(folder / "runs.json", [result, result])
    assert read_result(folder) == result
    assert read_results(folder / "runs.json") == [result, result]


@pytest.mark.parametrize("path", NOTED, ids=lambda path: path.parent.name)
def test_what_is_noted_is_sealed_and_keeps_its_bytes(path, tmp_path):
    runs = read_results(path)
    noted = json.loads(path.read_text())
    assert runs and all("checksum" in run for run in noted["results"]) and noted["checksum"]
    write_results(tmp_path / "runs.json", runs)
    assert (tmp_path / "runs.json").read_bytes() == path.read_bytes()


def test_every_key_is_described():
    described = Result.__doc__
    for key in Result.__annotations__:
        assert f"{key} :" in described or f"{key}, " in described or f", {key} :" in described


@pytest.mark.parametrize("key", sorted({*Result.__annotations__} - {"version", "fit", "skipped"}))
def test_a_missing_key_is_named(key, result, folder):
    del result[key]
    write_result(folder, result)
    with pytest.raises(UserError, match=rf"^[^\n]*/result\.json: {key}: is missing[^\n]*$"):
        read_result(folder)


@pytest.mark.parametrize("version", [3, "2", None])
def test_another_version_is_named_and_not_called_damaged(version, result, folder):
    newer = {"version": version, "accuracy": 0.5}
    (folder / "result.json").write_text(json.dumps(newer))
    said = rf"expected a result of version 2, got version {version}; [^\n]*release of trnet$"
    with pytest.raises(UserError, match=rf"result\.json: {said}"):
        read_result(folder)
    write_results(folder / "runs.json", [result])
    noted = json.loads((folder / "runs.json").read_text())["results"]
    content = sealed({"results": [*noted, newer]})
    (folder / "runs.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"runs\.json: results\.1: {said}"):
        read_results(folder / "runs.json")


def test_results_of_the_first_version_are_read(result, folder):
    """They had no checksum, and the earliest no version."""
    earlier = {key: value for key, value in result.items() if key != "version"}
    (folder / "result.json").write_text(json.dumps(earlier))
    (folder / "runs.json").write_text(json.dumps([earlier, {**earlier, "version": 1}]))
    assert read_result(folder) == result and read_results(folder / "runs.json") == [result, result]


def test_a_result_that_is_lost_from_its_suite_is_noticed(result, folder):
    path = folder / "runs.json"
    write_results(path, [result, {**result, "seed": 1}])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "results": content["results"][:1]}))
    with pytest.raises(UserError, match=r"runs\.json: is damaged: its checksum"):
        read_results(path)


def test_a_loss_that_is_a_rounding_below_zero_is_read(result, folder):
    """As MXNet's is, of images that are classified for certain."""
    curve = {**result["curve"], "train_loss": [2.0, -1.4e-6]}
    certain = {**result, "loss": -1.4e-6, "curve": curve}
    write_result(folder, certain)
    assert read_result(folder)["loss"] == -1.4e-6
    write_result(folder, {**result, "loss": -0.1})
    with pytest.raises(UserError, match=r"result\.json: loss: "):
        read_result(folder)


def test_a_run_folder_may_be_a_link(result, folder, tmp_path):
    elsewhere = tmp_path / "large disk"
    write_result(folder, result)
    shutil.move(folder, elsewhere)
    folder.symlink_to(elsewhere)
    assert read_result(folder) == result


def test_the_result_of_another_run_is_refused(result, folder):
    for changed in ({"seed": 1}, {"name": "tiny"}, {"suite": "other"}):
        write_result(folder, {**result, **changed})
        with pytest.raises(
            UserError, match=r"result\.json: expected the result of this run folder"
        ):
            read_result(folder)


def test_no_changed_bit_is_used(result, folder):
    """Each bit of a result, of which spaces alone may change."""
    write_result(folder, result)
    path = folder / "result.json"
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            same = json.loads(flipped) == json.loads(whole)
        except ValueError:
            same = False
        if not same:
            with pytest.raises(UserError, match=r"^[^\n]*/result\.json: [^\n]*$"):
                read_result(folder)


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        (b"\xff", "cannot be read"),
        ("3", "got 3"),
        ("[]", r"got \[\]"),
    ],
)
def test_a_damaged_file_is_named(content, said, tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"^[^\n]*/result\.json: [^\n]*{said}[^\n]*$"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("seed", "first", "seed: .*'first'"),
        ("seed", True, "seed: .*True"),
        ("top1", "0.9", "top1: .*'0.9'"),
        ("dataset", {"name": "mnist", "train": 3}, "dataset.validation: is missing"),
        ("curve", {"train_loss": [], "top1": [None]}, "curve.top1.0: .*None"),
        ("top1", 7.0, "top1: .*less than or equal to 1, got 7.0"),
        ("top5", float("nan"), "top5: .*got nan"),
        ("loss", float("inf"), "loss: .*got inf"),
        ("space_savings", 1209.0, "space_savings: .*1209"),
        ("baseline_head_weights", -3, "baseline_head_weights: .*-3"),
    ],
)
def test_a_value_of_another_type_or_range_is_named(key, value, said, result, folder):
    write_result(folder, {**result, key: value})
    with pytest.raises(UserError, match=rf"^[^\n]*/result\.json: {said}[^\n]*$"):
        read_result(folder)
