"""The messages on ImageNet's files that are missing, damaged or of other classes."""

import dataclasses
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from data.helpers import SIZE, images_request, labels, prints
from data.photographs import CLASSES, encode
from PIL import Image
from soak.changes import mutated

from trnet.data import Request, Shard
from trnet.data.imagenet import imagenet
from trnet.errors import UserError


@pytest.fixture(scope="module")
def bare(records, tmp_path_factory) -> Path:
    """Records and their index alone, as MXNet's own tools make them."""
    root = tmp_path_factory.mktemp("bare")
    for path in (*records.glob("*.rec"), *records.glob("*.idx")):
        shutil.copy(path, root)
    return root


@pytest.fixture
def root_of(tmp_path):
    return lambda whole: shutil.copytree(whole, tmp_path / "copy")


def assert_named(whole: Path, tmp_path: Path, damage, line: str, said: str) -> None:
    """Damage a copy, and expect a refusal: one line of this form, that says this."""
    root = shutil.copytree(whole, tmp_path / "copy")
    damage(root)
    with pytest.raises(UserError, match=line) as error:
        imagenet(images_request(root))
    assert said in str(error.value)


def edit_index(root: Path, change) -> None:
    index = root / "val.idx"
    index.write_text(change(index.read_text()))


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda root: shutil.rmtree(root), "is not a folder"),
        (lambda root: (root / "val.rec").unlink(), "expected val.rec or val/ in"),
        (lambda root: (root / "val.idx").unlink(), "expected val.idx in the same folder"),
        (
            lambda root: (root / "val.classes.txt").write_text("n0\nn1\nn2\n"),
            "val.classes.txt: is damaged: its checksum is not that of val.json",
        ),
        (lambda root: (root / "val.crc32").unlink(), "val.crc32: cannot be read: No such file"),
        (lambda root: edit_index(root, lambda text: text[:-9]), "val.idx: is damaged"),
        (
            lambda root: (root / "val.rec").write_bytes((root / "val.rec").read_bytes()[:-99]),
            "bytes, as val.json notes, got",
        ),
        (
            lambda root: (root / "val.json").write_text("{}"),
            "val.json: expected version 1, got None; another release of trnet made these records",
        ),
    ],
)
def test_broken_records_are_named(records, tmp_path, damage, said):
    assert_named(records, tmp_path, damage, r"^dataset\.root: [^\n]*$", said)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda root: (root / "val.idx").write_text(""), "got an empty file"),
        (lambda root: edit_index(root, lambda text: "hello\n"), "expected one line per record"),
        (
            lambda root: edit_index(root, lambda text: text.replace("\t", "\tx")),
            "expected one line per record",
        ),
        (
            lambda root: edit_index(root, lambda text: f"# a comment\n{text}"),
            "expected one line per record",
        ),
        (
            lambda root: edit_index(root, lambda text: text.replace("\n", ".0\n")),
            "expected one line per record",
        ),
        (
            lambda root: edit_index(root, lambda text: text + text.splitlines()[3]),
            "expected every key once, got 3 2 times",
        ),
        (
            lambda root: edit_index(root, lambda text: text + "99\t0\n"),
            "expected every offset once, got 0 2 times",
        ),
        (lambda root: edit_index(root, lambda text: text[:-9]), "expected record"),
        (
            lambda root: edit_index(root, lambda text: "".join(text.splitlines(True)[1:])),
            "expected the first record at byte 0, as in val.idx, got",
        ),
        (  # a line in the middle is missing
            lambda root: edit_index(
                root, lambda text: "".join(text.splitlines(True)[:5] + text.splitlines(True)[6:])
            ),
            "expected record",
        ),
        (
            lambda root: edit_index(root, lambda text: text + "99\t999999999999\n"),
            "expected record",
        ),
        (
            lambda root: (root / "val.rec").write_bytes((root / "val.rec").read_bytes()[:-99]),
            "expected record",
        ),
        (lambda root: (root / "val.rec").write_bytes(b""), "expected record"),
        (lambda root: edit_header(root, 0, b"\0\0\0\0"), "expected record"),
        (lambda root: edit_header(root, 4, b"\xff\xff\xff\x1f"), "expected record"),
        (
            lambda root: edit_header(root, 8, b"\2\0\0\0"),
            "expected one label, a whole number, got 2 labels",
        ),
        (lambda root: edit_header(root, 12, np.float32(0.5).tobytes()), "a whole number, got 0.5"),
        (
            lambda root: edit_header(root, 12, np.float32("nan").tobytes()),
            "a whole number, got nan",
        ),
        (
            lambda root: edit_header(root, 12, np.float32("inf").tobytes()),
            "a whole number, got inf",
        ),
        (lambda root: edit_header(root, 12, np.float32(-1).tobytes()), "a whole number, got -1"),
        (
            lambda root: edit_header(root, 12, np.float32(4).tobytes()),
            "expected a label from 0 to 3, got 4",
        ),
        (
            lambda root: [
                (root / f"{p}.classes.txt").write_text("n0\n" * n)
                for p, n in {"train": 4, "val": 3}.items()
            ],
            "4 in train and 3 in val; class 3 is n0 in train and None in val",
        ),
        (
            lambda root: [
                (root / f"{p}.classes.txt").write_text("a\nb\n") for p in ("train", "val")
            ],
            "dataset.classes: expected 2, the number of classes in",
        ),
    ],
)
def test_broken_records_without_checksums_are_named(bare, tmp_path, damage, said):
    assert_named(bare, tmp_path, damage, r"^dataset\.(root|classes): [^\n]*$", said)


def edit_header(root: Path, at: int, content: bytes) -> None:
    """Change what is ``at`` bytes from the beginning of the third record."""
    begin = at + int((root / "val.idx").read_text().splitlines()[2].split("\t")[1])
    with (root / "val.rec").open("r+b") as file:
        file.seek(begin)
        file.write(content)


@pytest.mark.parametrize("seed", range(60))
def test_no_mutation_of_records_is_used(records, root_of, seed):
    """Of any of their files: it is named before the training, or in it, or nothing has changed."""
    root, rng = root_of(records), random.Random(seed)
    path = root / f"val.{rng.choice(['rec', 'rec', 'idx', 'crc32', 'json', 'classes.txt'])}"
    path.write_bytes(mutated(path.read_bytes(), rng, is_text=False))
    try:
        found = prints(imagenet(images_request(root)).validation(5))
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("dataset.root: ")
    else:
        assert found == prints(imagenet(images_request(records)).validation(5))


@pytest.mark.parametrize("seed", range(60))
def test_no_mutation_of_records_without_checksums_is_a_traceback(bare, root_of, seed):
    """The pixels of a JPEG may change unnoticed; the number of images and their labels may not."""
    root, rng = root_of(bare), random.Random(seed)
    path = root / f"val.{rng.choice(['rec', 'idx'])}"
    path.write_bytes(mutated(path.read_bytes(), rng, is_text=False))
    try:
        found = labels(imagenet(images_request(root)).validation(5))
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("dataset.root: ")
    else:
        expected = labels(imagenet(images_request(bare)).validation(5))
        # Labels have no checksum here; one bit can make a class of another.
        assert len(found) == 12 and sum(a != b for a, b in zip(found, expected)) <= 1


@pytest.mark.parametrize("form", ["folder", "records"])
def test_damaged_images_are_skipped_with_a_count_if_asked(form, folder, bare, root_of):
    root = root_of(folder if form == "folder" else bare)
    if form == "folder":
        files = sorted(root.glob("train/*/*"))
        files[3].write_bytes(files[3].read_bytes()[:500])
        files[9].write_bytes(b"")
    else:
        edit_image(root / "train.rec", 3)
        edit_image(root / "train.rec", 9)
    request = images_request(root, augment=True)
    with pytest.raises(UserError, match=r"set dataset\.damaged: skip"):
        list(imagenet(request).train(24, (0, 1)))
    source = imagenet(dataclasses.replace(request, skip_damaged=("train", "val")))
    assert (source.train_size, source.validation_size) == (22, 12)
    assert source.note == {"skipped in train": "2 damaged images"}
    assert len(prints(source.train(22, (0, 1)))) == 22 and len(prints(source.validation(5))) == 12


def edit_image(rec: Path, number: int) -> None:
    """Write zeros over a record's image, whose header stays."""
    begin = int(rec.with_suffix(".idx").read_text().splitlines()[number].split("\t")[1]) + 32
    with rec.open("r+b") as file:
        file.seek(begin)
        file.write(bytes(400))


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda root: shutil.rmtree(root / "val"), "expected val.rec or val/ in"),
        (
            lambda root: shutil.rmtree(root / "val" / CLASSES[1]),
            "got 4 in train and 3 in val; class 1 is",
        ),
        (
            lambda root: (root / "val" / CLASSES[1]).rename(root / "val/n9"),
            "class 1 is n01443537 in train and n01484850 in val",
        ),
        (
            lambda root: [path.unlink() for path in root.glob("train/n02*/*")],
            "expected images, got none",
        ),
        (lambda root: [shutil.rmtree(path) for path in root.glob("val/*")], "got an empty folder"),
        (
            lambda root: (
                [path.rename(root / "val" / path.name) for path in root.glob("val/*/*")]
                and [path.rmdir() for path in root.glob("val/n*") if path.is_dir()]
            ),
            "sort them into one folder per class",
        ),
    ],
)
def test_broken_folders_are_named(folder, tmp_path, damage, said):
    assert_named(folder, tmp_path, damage, r"^dataset\.root: [^\n]*$", said)


def test_other_numbers_of_classes_and_of_workers_are_refused(root):
    for classes in (3, 1000):
        with pytest.raises(UserError, match=rf"^dataset\.classes: expected 4, .* got {classes}$"):
            imagenet(images_request(root, classes=classes))
    with pytest.raises(
        UserError, match=r"^dataset\.root: expected at least 25 images .* got 24 in "
    ):
        imagenet(images_request(root, shard=Shard(0, 25)))
    with pytest.raises(UserError, match=r"^dataset\.root: expected .* train\.rec.* got none$"):
        imagenet(Request(None, False, 4, (3, SIZE, SIZE)))


def test_labels_of_no_class_are_refused_without_a_list_of_classes(bare):
    assert len(prints(imagenet(images_request(bare, classes=4)).validation(5))) == 12
    with pytest.raises(
        UserError, match=r"train\.rec: record \d+: expected a label from 0 to 2, got 3"
    ):
        imagenet(images_request(bare, classes=3))


@pytest.mark.parametrize("content", [b"", b"<html>", encode(Image.new("RGB", (90, 70)))[:-200]])
def test_a_file_that_is_not_an_image_is_named(folder, tmp_path, content):
    root = shutil.copytree(folder, tmp_path / "copy")
    (root / "val" / CLASSES[2] / "odd.JPEG").write_bytes(content)
    before = threading.active_count()
    with pytest.raises(UserError, match=r"^dataset\.root: [^\n]*odd\.JPEG[^\n]*trnet prepare"):
        list(imagenet(images_request(root)).validation(5))
    assert threading.active_count() == before
