"""Preparing ImageNet: records written, skipped, interrupted, resumed, refused, verified."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gluoncv  # noqa: F401  makes Pillow accept truncated images, which must not matter
import numpy as np
import pytest
from data.helpers import files_of, one_line, read, unfinish
from data.photographs import CLASSES, encode, photograph

from trnet.data import prepare as preparation
from trnet.data.images import list_images
from trnet.data.prepare import prepare
from trnet.data.records import open_records

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_imagenet.py"
FINISHED = ("classes.txt", "crc32", "idx", "json", "rec", "skipped.txt")


def script(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_records_hold_the_files_own_bytes(source, whole):
    listing = list_images(source)
    assert listing.classes == list(CLASSES)
    assert Path(f"{whole}.classes.txt").read_text().splitlines() == list(CLASSES)
    by_content = {(source / file).read_bytes(): file for file in listing.files}
    records = read(whole)
    assert len(records) == 24
    for key, (header, content) in records.items():
        label = CLASSES.index(by_content[content].split("/")[0])
        assert (header.flag, header.label, header.id, header.id2) == (0, label, key, 0)
    labels = [int(header.label) for header, _ in records.values()]
    assert labels != sorted(labels)


def test_files_are_the_same_for_any_number_of_jobs(source, whole, tmp_path):
    done = prepare(source, tmp_path / "train", jobs=5, show=False)
    assert (done.images, done.classes, len(done.skipped), done.made) == (24, 4, 3, True)
    assert files_of(tmp_path / "train") == files_of(whole)
    assert sorted(files_of(whole)) == [f"train.{s}" for s in FINISHED]


def test_damaged_files_are_named_and_the_rest_is_made(source, tmp_path):
    done = script(source, tmp_path / "new" / "train", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    reasons = {
        "n01443537/truncated.JPEG": "cannot be decoded: image file is truncated",
        "n01443537/empty.JPEG": "is empty",
        "n01443537/text.JPEG": "is not an image",
    }
    lines = done.stdout.splitlines()
    assert lines[-1] == "24 images, 4 classes, 3 skipped"
    listed = (tmp_path / "new" / "train.skipped.txt").read_text().splitlines()
    assert len(lines) == 4 and len(listed) == 3
    for file, reason in reasons.items():
        assert [line for line in lines if line.startswith(f"skipped {file}: {reason}")]
        assert [line for line in listed if line.startswith(f"{file}\t{reason}")]


def make_many(root: Path, images: int) -> Path:
    photo = photograph(np.random.RandomState(0), 0, (200, 150))
    for i in range(images):
        folder = root / f"n{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        content = encode(photo.rotate(i), quality=80) if i % 50 else b"broken"
        (folder / f"{i}.JPEG").write_bytes(content)
    return root


def test_a_killed_preparation_resumes_and_ends_the_same(tmp_path):
    source = make_many(tmp_path / "source", 400)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    prepare(source, tmp_path / "whole" / "train", jobs=2, show=False)
    output = tmp_path / "killed" / "train"
    index = Path(f"{output}.lines.partial")
    for least in (30, 200):
        command = [sys.executable, SCRIPT, source, output, "--jobs", "1"]
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not index.exists() or index.read_bytes().count(b"\n") < least:
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not Path(f"{output}.rec").exists() and not Path(f"{output}.idx").exists()
    before = Path(f"{output}.rec.partial").stat().st_mtime_ns, index.read_bytes()
    done = prepare(source, output, jobs=2, show=False)
    assert before[1].count(b"\n") >= 200 and done.made and len(done.skipped) == 8
    assert files_of(output) == files_of(tmp_path / "whole" / "train")


@pytest.mark.parametrize("of_rec", [0, 3, 8, 2000, 33_333, -1, None])
@pytest.mark.parametrize("of_idx", [0, 1, 47, -1, None])
def test_torn_files_are_cut_off_and_resumed(source, whole, copy, of_rec, of_idx):
    unfinish(copy, source)
    for suffix, length in (("rec.partial", of_rec), ("lines.partial", of_idx)):
        path = Path(f"{copy}.{suffix}")
        path.write_bytes(path.read_bytes()[:length])
    done = prepare(source, copy, show=False)
    assert done.made and len(done.skipped) == 3
    assert files_of(copy) == files_of(whole)


@pytest.fixture
def images_read(monkeypatch) -> list[Path]:
    read = []
    own = Path.read_bytes

    def noted(path: Path) -> bytes:
        read.extend([path] if path.suffix == ".JPEG" else [])
        return own(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    return read


def test_a_resume_makes_nothing_twice(source, copy, images_read):
    unfinish(copy, source)
    index = Path(f"{copy}.lines.partial")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:20]))
    images_read.clear()
    prepare(source, copy, show=False)
    assert len(images_read) == 7  # the last four, and the three that were skipped


def test_an_interrupt_before_the_last_rename_is_repaired(source, whole, copy, images_read):
    """All files but the records have their final names."""
    finished = files_of(copy)
    unfinish(copy, source)
    for name, content in finished.items():
        if name != "train.rec":
            copy.with_name(name).write_bytes(content)
    images_read.clear()
    assert prepare(source, copy, show=False).made
    assert len(images_read) == 3
    assert files_of(copy) == files_of(whole)


def test_finished_files_are_verified_and_unchanged(source, whole, copy):
    stamps = {path: path.stat().st_mtime_ns for path in copy.parent.iterdir()}
    done = prepare(source, copy, show=False)
    assert not done.made and (done.images, len(done.skipped)) == (24, 3)
    assert stamps == {path: path.stat().st_mtime_ns for path in copy.parent.iterdir()}
    assert files_of(copy) == files_of(whole)


@pytest.mark.parametrize(
    "change, options, said",
    [
        (
            lambda source: (source / CLASSES[0] / "new.JPEG").write_bytes(b"x"),
            {},
            "got records of other files",
        ),
        (
            lambda source: next(source.glob("*/*_1.JPEG")).write_bytes(b"x"),
            {},
            "got records of other files",
        ),
        (lambda source: None, {"resize": 64}, "got records with resize None and quality 95"),
        (lambda source: None, {"quality": 90}, "got records with resize None and quality 95"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_files_made_of_something_else_are_refused(
    source, copy, tmp_path, change, options, said, finished
):
    if not finished:
        unfinish(copy, source)
    before = files_of(copy)
    changed = shutil.copytree(source, tmp_path / "source")
    change(changed)
    was = "train.rec: expected" if finished else "train.rec.partial: expected"
    one_line(lambda: prepare(changed, copy, show=False, **options), was, said)
    assert files_of(copy) == before


def test_two_at_a_time_are_refused(source, copy):
    unfinish(copy, source)
    with Path(f"{copy}.rec.partial").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        one_line(lambda: prepare(source, copy, show=False), "another process is writing it")
    assert prepare(source, copy, show=False).made


@pytest.mark.parametrize("suffix", ["rec", "idx"])
def test_half_of_a_pair_is_not_overwritten(source, copy, suffix):
    Path(f"{copy}.{suffix}").unlink()
    before = files_of(copy)
    one_line(lambda: prepare(source, copy, show=False), ": expected train.")
    assert files_of(copy) == before


def test_a_full_disk_is_one_line_and_is_resumed_afterwards(source, whole, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    output = tmp_path / "out" / "train"
    done = script(source, output, preexec_fn=limit)
    assert done.returncode == 2 and done.stdout == ""
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"error: {output}.rec.partial: File too large; run the same command")
    assert 0 < Path(f"{output}.rec.partial").stat().st_size <= 50_000
    prepare(source, output, show=False)
    assert files_of(output) == files_of(whole)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--quality", 0), "--quality: expected an integer from 1 to 100, got 0"),
        (("--resize", 0), "--resize: expected an integer from 1 to 65500, got 0"),
        (("--jobs", -1), "--jobs: expected an integer from 1 to 1024, got -1"),
    ],
)
def test_options_out_of_range_are_one_line(tmp_path, arguments, said):
    done = script(tmp_path, tmp_path / "out", *arguments)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_a_folder_as_output_is_refused(source, tmp_path):
    done = script(source, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{tmp_path}: expected the records' path without suffix, got a folder" in done.stderr
    assert f"use {tmp_path / 'train'} for train.rec" in done.stderr


def test_what_is_no_image_is_ignored_with_a_count(source, tmp_path):
    """By its name; and PostScript is not opened, whatever it is called: Ghostscript would start."""
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / CLASSES[0] / "Thumbs.db").write_bytes(b"thumbs")
    (folder / CLASSES[0] / "folder.jpg").mkdir()
    os.mkfifo(folder / CLASSES[1] / "pipe.jpg")
    (folder / CLASSES[1] / "drawn.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    listing = list_images(folder)
    assert listing.ignored == 3 and len(listing.files) == len(list_images(source).files) + 1
    done = script(folder, tmp_path / "train")
    lines = done.stdout.splitlines()
    assert f"skipped {CLASSES[1]}/drawn.jpg: is not an image" in lines
    assert lines[-2] == "ignored 3 entries of class folders that are no images"


def test_options_may_stand_between_source_and_output(source, tmp_path):
    done = script(source, "--jobs", 2, tmp_path / "train")
    assert done.returncode == 0 and (tmp_path / "train.rec").exists()
    assert "arguments are required: source, output" in script().stderr


@pytest.mark.parametrize("content", [b"\0" * 40, b"1\t99999999999999999999\t3\t4\n", b"1\t2\n"])
def test_damaged_lines_of_what_was_begun_are_made_again(source, whole, copy, content):
    """Also in the middle, as a power cut leaves them."""
    unfinish(copy, source)
    path = Path(f"{copy}.lines.partial")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:7], content, *lines[8:]]))
    prepare(source, copy, show=False)
    assert files_of(copy) == files_of(whole)


def test_a_folder_that_changes_meanwhile_is_noticed(source, tmp_path, monkeypatch):
    changing = shutil.copytree(source, tmp_path / "source")
    file = next(changing.glob("*/*_1.JPEG"))
    own = preparation.for_mxnet

    def changed(content, *options):
        with file.open("ab") as appended:
            appended.write(b"\0")
        return own(content, *options)

    monkeypatch.setattr(preparation, "for_mxnet", changed)
    prepare(changing, tmp_path / "train", show=False)
    one_line(
        lambda: prepare(changing, tmp_path / "train", show=False), "got records of other files"
    )


def test_records_of_an_earlier_release_are_named(source, copy):
    note = Path(f"{copy}.json")
    earlier = {"files": "0" * 64, "resize": None, "quality": 95}
    note.write_text(json.dumps(earlier))
    said = "expected version 1, got None; another release of trnet made these records: prepare them"
    one_line(lambda: prepare(source, copy, show=False), said)


@pytest.mark.parametrize("name", ["a\tb", "a\nb"])
def test_names_that_would_break_a_line_are_refused(name, source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / CLASSES[0]).rename(folder / name)
    said = "expected a name without line breaks and tabs"
    one_line(lambda: prepare(folder, tmp_path / "train", show=False), said)


def test_names_with_other_separators_keep_their_places(source, tmp_path):
    """Python's splitlines would split them."""
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / CLASSES[0]).rename(folder / "a\x85b\u2028c")
    shutil.copy(folder / CLASSES[1] / "text.JPEG", folder / CLASSES[1] / "t\x0bext.JPEG")
    for _ in range(2):
        done = prepare(folder, tmp_path / "train", show=False)
    _, classes = open_records(tmp_path / "train.rec")
    assert not done.made and len(classes) == 4 and "a\x85b\u2028c" in classes
