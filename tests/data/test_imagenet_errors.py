"""The messages on ImageNet's files that are missing, damaged or of other classes."""

import shutil
import threading
from pathlib import Path

import pytest
from data.helpers import SIZE, images_request, prints
from data.photographs import CLASSES, encode
from PIL import Image

from trnet.data import Request, Shard
from trnet.data.imagenet import imagenet
from trnet.errors import UserError


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
        (lambda root: (root / "val.idx").write_text(""), "got an empty file"),
        (lambda root: edit_index(root, lambda text: "hello\n"), "expected one line per record"),
        (
            lambda root: edit_index(root, lambda text: text.replace("\t", "\tx")),
            "expected one line per record",
        ),
        (
            lambda root: edit_index(root, lambda text: text[:-9]),
            "expected to end with the last record of val.idx",
        ),
        (
            lambda root: (root / "val.rec").write_bytes((root / "val.rec").read_bytes()[:-99]),
            "expected to end with the last record of val.idx",
        ),
        (
            lambda root: (root / "val.rec").write_bytes(b""),
            "expected to end with the last record of val.idx",
        ),
        (
            lambda root: (root / "val.classes.txt").write_text("n0\nn1\nn2\n"),
            "4 classes in train and 3 in val",
        ),
        (
            lambda root: [
                (root / f"{p}.classes.txt").write_text("a\nb\n") for p in ("train", "val")
            ],
            "dataset.classes: expected 2, the number of classes in",
        ),
    ],
)
def test_broken_records_are_named(records, tmp_path, damage, said):
    assert_named(records, tmp_path, damage, r"^dataset\.(root|classes): [^\n]*$", said)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda root: shutil.rmtree(root / "val"), "expected val.rec or val/ in"),
        (lambda root: shutil.rmtree(root / "val" / CLASSES[1]), "classes in train and 3 in val"),
        (lambda root: (root / "val" / CLASSES[1]).rename(root / "val/n9"), "n01443537 in only one"),
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


def test_labels_of_no_class_are_refused_without_a_list_of_classes(records, tmp_path):
    root = shutil.copytree(records, tmp_path / "copy")
    for part in ("train", "val"):
        (root / f"{part}.classes.txt").unlink()
    assert len(prints(imagenet(images_request(root, classes=4)).validation(5))) == 12
    for part in ("train", "validation"):
        source = imagenet(images_request(root, classes=3))
        batches = source.train(24, (0,)) if part == "train" else source.validation(12)
        name = "train" if part == "train" else "val"
        with pytest.raises(UserError, match=rf"labels from 0 to 2 in .*{name}\.rec, got 3;"):
            list(batches)


@pytest.mark.parametrize("content", [b"", b"<html>", encode(Image.new("RGB", (90, 70)))[:-200]])
def test_a_file_that_is_not_an_image_is_named(folder, tmp_path, content):
    root = shutil.copytree(folder, tmp_path / "copy")
    (root / "val" / CLASSES[2] / "odd.JPEG").write_bytes(content)
    before = threading.active_count()
    with pytest.raises(UserError, match=r"^dataset\.root: [^\n]*odd\.JPEG[^\n]*trnet prepare"):
        list(imagenet(images_request(root)).validation(5))
    assert threading.active_count() == before
