"""The metrics of a training, in two copies: which rows a checkpoint has, and that none is lost."""

import json
import shutil
from pathlib import Path

import pytest
from training.helpers import parameters, recipe, rewrite_state, run, small_network

from trnet.config import CosineSchedule
from trnet.errors import UserError
from trnet.files import described
from trnet.training import checkpoint
from trnet.training.metrics import Metrics

CONSTANT = {"learning_rate": 0.01, "schedule": CosineSchedule(type="cosine", final=0.01)}
ROWS = [{"epoch": epoch, "top1": top1} for epoch, top1 in enumerate((0.3, 0.7, 0.5, 0.7), start=1)]


def saved(folder: Path, rows: list[dict] = ROWS) -> tuple[Metrics, Path]:
    """Metrics, saved after every row, and the folder of their log."""
    metrics, checkpoints = Metrics(), folder / "checkpoints"
    checkpoints.mkdir()
    for row in rows:
        metrics.append(row)
        metrics.save(checkpoints)
    metrics.write(folder)
    return metrics, checkpoints


def test_a_log_is_described_by_its_size_and_checksum(tmp_path):
    metrics, checkpoints = saved(tmp_path)
    assert metrics.described() == described(checkpoints / "metrics.jsonl")
    assert metrics.described() == described(tmp_path / "metrics.jsonl")
    assert metrics.best == ROWS[1]


def test_rows_of_any_epoch_are_loaded(tmp_path):
    """A checkpoint describes the rows until its own; the log may have more."""
    _, checkpoints = saved(tmp_path)
    for n in range(1, 5):
        loaded = Metrics.load(checkpoints, Metrics(ROWS[:n]).described())
        assert loaded.rows == ROWS[:n] and loaded.described() == Metrics(ROWS[:n]).described()


def test_rows_that_are_trained_again_replace_the_first_ones(tmp_path):
    _, checkpoints = saved(tmp_path)
    metrics = Metrics.load(checkpoints, Metrics(ROWS[:2]).described())
    again = {"epoch": 3, "top1": 0.25}
    metrics.append(again)
    metrics.save(checkpoints)
    lines = (checkpoints / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*ROWS[:2], again]


@pytest.mark.parametrize("place", [".", "checkpoints"])
@pytest.mark.parametrize("damage", ["missing", "a bit", "cut"])
def test_each_copy_restores_the_other(place, damage, blobs, tmp_path):
    """The training ends as one that nothing disturbed, with two copies that are whole."""
    whole, again = small_network(), small_network()
    run(whole, blobs, tmp_path / "whole", recipe(epochs=4, **CONSTANT))
    disturbed = tmp_path / "disturbed"
    run(small_network(), blobs, disturbed, recipe(epochs=2, **CONSTANT))
    path = disturbed / place / "metrics.jsonl"
    content = path.read_bytes()
    path.unlink()
    if damage == "a bit":
        path.write_bytes(content[:30] + bytes([content[30] ^ 1]) + content[31:])
    elif damage == "cut":
        path.write_bytes(content[:-7])
    rows = run(again, blobs, disturbed, recipe(epochs=4, **CONSTANT))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[:2] == [json.loads(line) for line in content.splitlines()]
    for one, other in zip(parameters(whole), parameters(again)):
        assert (one == other).all()
    copies = [disturbed / "metrics.jsonl", disturbed / "checkpoints/metrics.jsonl"]
    for copy in copies:
        assert [json.loads(line) for line in copy.read_text().splitlines()] == rows


def test_no_copy_that_is_whole_is_an_error(tmp_path):
    metrics, checkpoints = saved(tmp_path)
    for path in (tmp_path, checkpoints):
        (path / "metrics.jsonl").write_text('{"epoch": 1, "top1": 0.9}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: is damaged or missing, and so is [^\n]*"):
        Metrics.load(checkpoints, metrics.described())


def test_without_a_whole_copy_undamaged_checkpoints_stay(blobs, tmp_path):
    """Once somebody restores the metrics, the training resumes."""
    run(small_network(), blobs, tmp_path, recipe(epochs=2, **CONSTANT))
    copies = [tmp_path / "metrics.jsonl", tmp_path / "checkpoints/metrics.jsonl"]
    content = copies[0].read_bytes()
    for copy in copies:
        copy.write_bytes(content.replace(b"\n", b"\r\n"))
    with pytest.raises(UserError, match=r"metrics\.jsonl: is damaged or missing"):
        run(small_network(), blobs, tmp_path, recipe(epochs=4, **CONSTANT))
    copies[0].write_bytes(content)
    rows = run(small_network(), blobs, tmp_path, recipe(epochs=4, **CONSTANT))
    assert rows[:2] == [json.loads(line) for line in content.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_log_that_was_cut_meanwhile_is_written_again(is_gone, tmp_path):
    """While a training runs, somebody deletes it, or empties it."""
    metrics, checkpoints = saved(tmp_path, ROWS[:3])
    log = checkpoints / "metrics.jsonl"
    if is_gone:
        log.unlink()
    else:
        log.write_bytes(b"")
    metrics.append(ROWS[3])
    metrics.save(checkpoints)
    assert described(log) == Metrics(ROWS).described()


def test_no_rows_need_no_file(tmp_path):
    """As in the first epoch."""
    assert Metrics.load(tmp_path / "checkpoints", Metrics().described()).rows == []


def test_a_damaged_log_is_repaired_by_a_training_that_has_ended(blobs, tmp_path):
    settings = recipe(epochs=2, **CONSTANT)
    run(small_network(), blobs, tmp_path, settings)
    log = tmp_path / "checkpoints/metrics.jsonl"
    content = log.read_bytes()
    log.unlink()
    run(small_network(), blobs, tmp_path, settings)
    assert log.read_bytes() == content


def test_what_did_not_fit_is_written_by_the_next_save(tmp_path):
    """Half of a row may be on a disk that was full."""
    metrics, checkpoints = saved(tmp_path, ROWS[:2])
    metrics.append(ROWS[2])
    with (checkpoints / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "to')
    metrics.append(ROWS[3])
    metrics.save(checkpoints)
    assert described(checkpoints / "metrics.jsonl") == Metrics(ROWS).described()


def test_checkpoints_that_hold_all_rows_resume(blobs, tmp_path):
    """So does the first version: no log is beside them, and what they lead to is the same."""
    expected = run(small_network(), blobs, tmp_path / "whole", recipe(epochs=4, **CONSTANT))
    folder = tmp_path / "first"
    rows = run(small_network(), blobs, folder, recipe(epochs=2, **CONSTANT))
    for path in (folder / "checkpoints").glob("epoch-*"):
        rewrite_state(path, lambda s: s.update(version=1, metrics=rows[: s["epoch"]]))
    (folder / "checkpoints/metrics.jsonl").unlink()
    (folder / "metrics.jsonl").unlink()
    resumed = run(small_network(), blobs, folder, recipe(epochs=4, **CONSTANT))
    assert [row["loss"] for row in resumed] == [row["loss"] for row in expected]
    log = folder / "checkpoints/metrics.jsonl"
    assert [json.loads(line) for line in log.read_text().splitlines()] == resumed


def test_a_state_does_not_grow_with_its_epochs(blobs, tmp_path):
    sizes = []
    for epochs in (1, 9):
        run(small_network(), blobs, tmp_path / str(epochs), recipe(epochs=epochs))
        newest = checkpoint.newest(tmp_path / str(epochs) / "checkpoints")
        sizes.append((newest / "state.json").stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 20  # digits of counts; a row has some 200


def test_metrics_begin_again_where_checkpoints_are_gone(blobs, tmp_path):
    """The log stays when somebody deletes the checkpoints alone."""
    run(small_network(), blobs, tmp_path)
    for path in (tmp_path / "checkpoints").glob("epoch-*"):
        shutil.rmtree(path)
    rows = run(small_network(), blobs, tmp_path)
    lines = (tmp_path / "checkpoints/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
