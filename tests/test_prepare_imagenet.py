"""Preparing ImageNet: what is written, killed and resumed, skipped, refused and verified."""

import fcntl
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gluoncv  # noqa: F401  has Pillow take truncated images for whole, which must not matter
import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photographs import CLASSES, encode, make_imagenet, photograph
from PIL import Image

from trnet.data.records import frame, list_images, prepare
from trnet.errors import UserError

SCRIPT = Path(__file__).parent.parent / "scripts" / "prepare_imagenet.py"
MAGIC = (0xCED7230A).to_bytes(4, "little")
FINISHED = ("classes.txt", "idx", "json", "rec")


def script(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def one_line(function, *said: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        function()
    assert [words for words in said if words not in str(error.value)] == []


def read(output: Path) -> dict[int, tuple]:
    """Header and content by key."""
    reader = mx.recordio.MXIndexedRecordIO(f"{output}.idx", f"{output}.rec", "r")
    return {key: mx.recordio.unpack(reader.read_idx(key)) for key in reader.keys}


def files_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.parent.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """27 files in 4 classes, 3 of them broken."""
    return make_imagenet(tmp_path_factory.mktemp("imagenet"), broken=True) / "train"


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    """What an uninterrupted preparation made of them."""
    output = tmp_path_factory.mktemp("whole") / "train"
    prepare(source, output, jobs=2, show=False)
    return output


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole.parent, tmp_path / "copy")
    return tmp_path / "copy" / "train"


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
    assert sorted(files_of(whole)) == [f"train.{s}" for s in (*FINISHED, "skipped.txt")]


@given(st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=12))
def test_frames_are_mxnets(tmp_path_factory, pieces):
    content = b"".join(pieces)
    path = tmp_path_factory.getbasetemp() / "framed.rec"
    writer = mx.recordio.MXRecordIO(str(path), "w")
    writer.write(content)
    writer.close()
    assert path.read_bytes() == frame(content)


def test_what_mxnet_cannot_decode_becomes_jpeg_and_what_it_can_is_kept(tmp_path):
    photo = photograph(np.random.RandomState(0), 1, (80, 60))
    sixteen = Image.fromarray(np.asarray(photo.convert("L")).astype("uint16") * 257)
    contents = {
        "a.gif": encode(photo, "GIF"),
        "b.webp": encode(photo, "WEBP"),
        "c.bmp": encode(photo, "BMP"),
        "d.png": encode(sixteen, "PNG"),
        "e.JPEG": encode(photo.convert("CMYK")),
        "f.tiff": encode(photo, "TIFF"),
    }
    (tmp_path / "source" / "n0").mkdir(parents=True)
    for name, content in contents.items():
        (tmp_path / "source" / "n0" / name).write_bytes(content)
    prepare(tmp_path / "source", tmp_path / "out", show=False)
    records = [content for _, content in read(tmp_path / "out").values()]
    kept = [name for name, content in contents.items() if content in records]
    assert kept == ["c.bmp", "d.png", "e.JPEG", "f.tiff"]
    assert len(records) == 6
    for record in records:
        decoded = mx.image.imdecode(record).asnumpy().astype("float32")
        grey = np.asarray(photo.convert("L"), "float32")
        assert decoded.shape == (60, 80, 3) and abs(decoded.mean(2) - grey).mean() < 8


def test_larger_images_are_resized_and_only_those(source, tmp_path):
    prepare(source, tmp_path / "a", resize=95, show=False)
    prepare(source, tmp_path / "b", resize=95, quality=30, show=False)
    own = {path.read_bytes() for path in source.glob("*/*")}
    lengths = []
    for (_, content), (_, coarse) in zip(
        read(tmp_path / "a").values(), read(tmp_path / "b").values()
    ):
        image = mx.image.imdecode(content)
        lengths.append(min(image.shape[:2]))
        assert (content in own) == (lengths[-1] < 95) == (content == coarse)
        assert content == coarse or len(coarse) < len(content)
    assert max(lengths) == 95 and min(lengths) < 90


def test_damaged_files_are_named_and_the_rest_is_made(source, tmp_path):
    done = script(source, tmp_path / "new" / "train", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    reasons = {
        "n01443537/truncated.JPEG": "cannot be decoded: image file is truncated",
        "n01443537/empty.JPEG": "is empty",
        "n01443537/text.JPEG": "is no image",
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


def test_what_is_killed_goes_on_and_ends_the_same(tmp_path):
    source = make_many(tmp_path / "source", 400)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    prepare(source, tmp_path / "whole" / "train", jobs=2, show=False)
    output = tmp_path / "killed" / "train"
    index = Path(f"{output}.idx.partial")
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


def unfinish(output: Path, source: Path, **options) -> None:
    """Make partial files of finished ones, as they are before the last record is written."""
    blocked = output.with_name("train.classes.txt")
    blocked.unlink()
    for suffix in ("rec", "idx"):
        Path(f"{output}.{suffix}").unlink()
    blocked.mkdir()  # which lets everything but the end succeed
    with pytest.raises(OSError):
        prepare(source, output, show=False, **options)
    blocked.rmdir()
    for path in output.parent.glob(".train*"):
        path.unlink()


@pytest.mark.parametrize("of_rec", [0, 3, 8, 2000, 33_333, -1, None])
@pytest.mark.parametrize("of_idx", [0, 1, 47, -1, None])
def test_torn_files_are_cut_off_and_go_on(source, whole, copy, of_rec, of_idx):
    unfinish(copy, source)
    for suffix, length in (("rec.partial", of_rec), ("idx.partial", of_idx)):
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


def test_going_on_makes_nothing_twice(source, copy, images_read):
    unfinish(copy, source)
    index = Path(f"{copy}.idx.partial")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:20]))
    images_read.clear()
    prepare(source, copy, show=False)
    assert len(images_read) == 7  # the last four, and the three that were skipped


def test_a_stop_between_the_last_two_names_is_mended(source, whole, copy, images_read):
    unfinish(copy, source)
    Path(f"{copy}.idx.partial").rename(f"{copy}.idx")
    images_read.clear()
    assert prepare(source, copy, show=False).made
    assert len(images_read) == 3
    assert files_of(copy) == files_of(whole)


def test_finished_files_are_verified_and_left(source, whole, copy):
    stamps = {path: path.stat().st_mtime_ns for path in copy.parent.iterdir()}
    done = prepare(source, copy, show=False)
    assert not done.made and (done.images, len(done.skipped)) == (24, 3)
    assert stamps == {path: path.stat().st_mtime_ns for path in copy.parent.iterdir()}
    assert files_of(copy) == files_of(whole)


@pytest.mark.parametrize(
    "change, options, said",
    [
        (lambda source: (source / CLASSES[0] / "new.JPEG").write_bytes(b"x"), {}, "of other files"),
        (lambda source: next(source.glob("*/*_1.JPEG")).write_bytes(b"x"), {}, "of other files"),
        (lambda source: None, {"resize": 64}, "with resize None and quality 95"),
        (lambda source: None, {"quality": 90}, "with resize None and quality 95"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_files_of_something_else_are_refused(
    source, copy, tmp_path, change, options, said, finished
):
    if not finished:
        unfinish(copy, source)
    before = files_of(copy)
    changed = shutil.copytree(source, tmp_path / "source")
    change(changed)
    was = "rec: was made" if finished else "rec.partial: was begun"
    one_line(lambda: prepare(changed, copy, show=False, **options), was, said)
    assert files_of(copy) == before


def test_two_at_a_time_are_refused(source, copy):
    unfinish(copy, source)
    with Path(f"{copy}.rec.partial").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        one_line(lambda: prepare(source, copy, show=False), "another process is writing it")
    assert prepare(source, copy, show=False).made


@pytest.mark.parametrize("suffix", ["rec", "idx"])
def test_half_of_a_pair_is_not_written_over(source, copy, suffix):
    Path(f"{copy}.{suffix}").unlink()
    before = files_of(copy)
    one_line(lambda: prepare(source, copy, show=False), "is there without train.")
    assert files_of(copy) == before


def edit(path: Path, begin: int, content: bytes) -> None:
    held = bytearray(path.read_bytes())
    held[begin : begin + len(content)] = content
    path.write_bytes(held)


def label_of_third(output: Path) -> int:
    """The offset of the third record's label: behind its frame's two words and its flag."""
    return int(Path(f"{output}.idx").read_text().splitlines()[2].split("\t")[1]) + 12


def swap(path: Path) -> None:
    """The offsets of the first two records."""
    (a, at), (b, bt), *rest = (line.split("\t") for line in path.read_text().splitlines())
    path.write_text("".join(f"{k}\t{v}\n" for k, v in [(a, bt), (b, at), *rest]))


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda rec, idx, at: edit(rec, at, np.float32(9).tobytes()), "label 9.0, not id"),
        (lambda rec, idx, at: edit(rec, at + 4, b"\x77"), "has id 119 and"),
        (lambda rec, idx, at: edit(rec, at - 12, b"\0\0\0\0"), "cannot be read"),
        (lambda rec, idx, at: edit(rec, at - 8, b"\xff\xff\xff\x1f"), "cannot be read"),
        (lambda rec, idx, at: edit(rec, at + 20, b"\0" * 20), "cannot be read"),
        (lambda rec, idx, at: rec.write_bytes(rec.read_bytes()[:-40]), "does not end where"),
        (lambda rec, idx, at: rec.write_bytes(rec.read_bytes() + b"more"), "does not end where"),
        (lambda rec, idx, at: swap(idx), "has id"),
        (lambda rec, idx, at: idx.write_text(idx.read_text()[4:]), "is no index|lists"),
        (
            lambda rec, idx, at: idx.write_text(idx.read_text().partition("\n")[2]),
            "lists 23 records, not the 24",
        ),
    ],
)
def test_verification_finds_damage(source, copy, damage, said):
    rec, idx = Path(f"{copy}.rec"), Path(f"{copy}.idx")
    damage(rec, idx, label_of_third(copy))
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        prepare(source, copy, jobs=2, show=False)
    assert any(words in str(error.value) for words in said.split("|")), error.value


def test_what_does_not_verify_gets_no_final_name(source, copy):
    unfinish(copy, source)
    edit(Path(f"{copy}.rec.partial"), 12, np.float32(9).tobytes())
    one_line(lambda: prepare(source, copy, show=False), "record 0 (", "remove train.rec.partial")
    assert not Path(f"{copy}.rec").exists() and not Path(f"{copy}.idx").exists()


def test_a_full_disk_is_one_line_and_goes_on_afterwards(source, whole, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    output = tmp_path / "out" / "train"
    done = script(source, output, preexec_fn=limit)
    assert done.returncode == 2 and done.stdout == ""
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"error: {output}.rec.partial: File too large; the same command")
    assert 0 < Path(f"{output}.rec.partial").stat().st_size <= 50_000
    prepare(source, output, show=False)
    assert files_of(output) == files_of(whole)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda root: None, "is no folder"),
        (lambda root: root.mkdir(), "is empty"),
        (lambda root: make_flat(root), "holds 3 files and no class folders"),
        (lambda root: (root / "n0").mkdir(parents=True), "n0: holds no images"),
    ],
)
def test_folders_of_another_kind_are_refused(tmp_path, make, said):
    make(tmp_path / "source")
    one_line(lambda: prepare(tmp_path / "source", tmp_path / "out", show=False), said)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["source"])


def make_flat(root: Path) -> None:
    root.mkdir()
    for i in range(3):
        (root / f"ILSVRC2012_val_0000000{i}.JPEG").write_bytes(b"")


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
