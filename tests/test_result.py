"""result.json: written and read again, and one line for what is not a result."""

import json
from pathlib import Path

import pytest
from toy_suite import make_result, make_suite

from trnet.errors import UserError
from trnet.result import Result, read_result, read_results, write_result, write_results

ROOT = Path(__file__).parent.parent
NOTED = sorted((ROOT / "results").rglob("runs.json"))


@pytest.fixture
def result(tmp_path) -> Result:
    return make_result(make_suite(tmp_path).configs["small"], 0, 0.5)


def test_a_result_reads_back(result, tmp_path):
    assert read_result(tmp_path) is None and read_results(tmp_path / "runs.json") == []
    write_result(tmp_path, result)
    write_results(tmp_path / "runs.json", [result, result])
    assert read_result(tmp_path) == result
    assert read_results(tmp_path / "runs.json") == [result, result]


@pytest.mark.parametrize("path", NOTED, ids=lambda path: path.parent.name)
def test_what_is_noted_is_of_the_first_version_and_keeps_its_bytes(path, tmp_path):
    runs = read_results(path)
    assert runs and all(run.get("version", 1) == 1 for run in runs)  # 1 if it is absent
    write_results(tmp_path / "runs.json", runs)
    assert (tmp_path / "runs.json").read_bytes() == path.read_bytes()


def test_every_key_is_described():
    described = Result.__doc__
    for key in Result.__annotations__:
        assert f"{key} :" in described or f"{key}, " in described or f", {key} :" in described


@pytest.mark.parametrize("key", sorted({*Result.__annotations__} - {"version", "fit"}))
def test_a_missing_key_is_named(key, result, tmp_path):
    del result[key]
    write_result(tmp_path, result)
    with pytest.raises(UserError, match=rf"^[^\n]*/result\.json: {key}: is missing[^\n]*$"):
        read_result(tmp_path)


def test_another_version_is_named_and_not_called_damaged(result, tmp_path):
    newer = {"version": 2, "accuracy": 0.5}
    (tmp_path / "result.json").write_text(json.dumps(newer))
    said = r"result\.json: expected a result of version 1, got version 2; [^\n]*release of trnet$"
    with pytest.raises(UserError, match=said):
        read_result(tmp_path)
    (tmp_path / "runs.json").write_text(json.dumps([result, newer]))
    with pytest.raises(UserError, match=r"runs\.json: 1: expected a result of version 1[^\n]*$"):
        read_results(tmp_path / "runs.json")


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
        ("version", "1", "expected a result of version 1, got version 1"),
    ],
)
def test_a_value_of_another_type_is_named(key, value, said, result, tmp_path):
    write_result(tmp_path, {**result, key: value})
    with pytest.raises(UserError, match=rf"^[^\n]*/result\.json: {said}[^\n]*$"):
        read_result(tmp_path)
