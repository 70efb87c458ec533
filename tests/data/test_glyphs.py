"""The data set glyphs: its rule and manifest, and drawing and reading with a font at hand."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from trnet import cli
from trnet.data import DATASETS, Request
from trnet.data.glyphs import Face, characters, draw, glyphs, manifest
from trnet.errors import UserError

module = importlib.import_module("trnet.data.glyphs")  # the package has its function by this name

LETTERS = "abcdefghijkl"
FACES = [("train", "DejaVuSans"), ("train", "DejaVuSans-Bold"), ("test", "DejaVuSerif")]
SHAPE = (1, 28, 28)


@pytest.fixture
def small(monkeypatch):
    """Twelve letters of matplotlib's own fonts, in place of a thousand characters of Debian's."""
    faces = [Face(split, "dejavu", f"fonts-{n}", f"{n}.ttf", 0, n) for split, n in FACES]
    monkeypatch.setattr(module, "FONTS", Path(matplotlib.get_data_path(), "fonts/ttf"))
    monkeypatch.setattr(module, "CLASSES", len(LETTERS))
    monkeypatch.setattr(module, "manifest", lambda: faces)
    monkeypatch.setattr(module, "characters", lambda: LETTERS)
    return faces


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Call what has to end with one line that says all of ``said``: that line."""

    def call(function: Callable, folder: Path, *said: str) -> str:
        with pytest.raises(UserError) as caught:
            function(folder)
        message = str(caught.value)
        assert "\n" not in message and [words for words in said if words not in message] == []
        return message

    return call


def load(folder: Path, **arguments):
    return glyphs(Request(str(folder), False, len(LETTERS), SHAPE, **arguments))


def test_a_thousand_characters_of_four_standards():
    chosen = characters()
    assert len(set(chosen)) == len(chosen) == 1000
    assert list(chosen) == sorted(chosen)
    for codec in ("shift_jis", "gb2312", "big5", "euc_kr"):
        chosen.encode(codec)
    # The set is what results are of: another rule would be another data set.
    assert hashlib.sha256(chosen.encode()).hexdigest()[:16] == "5cbe301d747f1e51"


def test_families_are_on_one_side_and_no_face_is_twice():
    faces = manifest()
    assert [sum(f.split == split for f in faces) for split in module.SPLITS] == [60, 15]
    train, test = ({f.family for f in faces if f.split == split} for split in module.SPLITS)
    assert not train & test
    assert len({(f.file, f.face) for f in faces}) == len({f.name for f in faces}) == len(faces)
    assert all(f.package.startswith("fonts-") and not f.file.startswith("/") for f in faces)


def test_letters_are_drawn_and_read(small, tmp_path):
    said = draw(tmp_path)
    assert said.startswith(f"{tmp_path}: 12 characters of 2 faces to train on and 1 to test")
    source = load(tmp_path)
    assert (source.train_size, source.validation_size) == (24, 12)
    images, labels = next(source.validation(12))
    assert images.shape == (12, *SHAPE) and labels.asnumpy().tolist() == list(range(12))
    drawn = np.load(tmp_path / "train.npy")
    assert drawn.shape == (2, 12, 28, 28) and drawn.dtype == np.uint8
    # Centred: as many black columns on both sides, up to rounding and the side bearing.
    columns = np.flatnonzero(drawn[0, 0].any(axis=0))
    assert abs(columns[0] - (27 - columns[-1])) <= 2
    notes = json.loads((tmp_path / "glyphs.json").read_text())
    assert source.note == {
        "freetype": notes["freetype"],
        "train": notes["sha256"]["train"][:16],
        "test": notes["sha256"]["test"][:16],
    }
    assert len(np.unique(drawn.reshape(24, -1), axis=0)) == 24


def test_the_second_time_nothing_is_drawn(small, tmp_path, monkeypatch):
    first = draw(tmp_path)
    monkeypatch.setattr(module, "_draw_face", None)
    assert draw(tmp_path) == first


def test_training_images_are_shifted_and_not_mirrored(small, tmp_path):
    draw(tmp_path)
    request = Request(str(tmp_path), True, len(LETTERS), SHAPE)
    drawn = np.load(tmp_path / "train.npy").reshape(24, 28, 28) / 255
    pixels = drawn.reshape(-1, 1, 28, 28)[:: len(LETTERS) + 1]
    images, labels = next(glyphs(request).train(24, (0, 0)))
    images = images.asnumpy()[:, 0] * pixels.std() + pixels.mean()
    for image, label in zip(images, labels.asnumpy().astype(int)):
        padded = (np.pad(each, 2) for each in drawn[label :: len(LETTERS)])
        windows = (
            each[row : row + 28, column : column + 28]
            for each in padded
            for row in range(5)
            for column in range(5)
        )
        assert any(np.allclose(window, image, atol=1e-5) for window in windows)


def test_missing_fonts_are_named_in_one_line(small, tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(module, "FONTS", tmp_path)
    said = refusal(draw, tmp_path / "glyphs", "3 Debian packages", "none of 3")
    assert said.endswith("apt-get install fonts-DejaVuSans fonts-DejaVuSans-Bold fonts-DejaVuSerif")
    assert not (tmp_path / "glyphs").exists()


@pytest.mark.parametrize("absent", [" ", "一"], ids=["blank", "a box"])
def test_a_face_that_lacks_a_character_is_named(small, tmp_path, monkeypatch, refusal, absent):
    monkeypatch.setattr(module, "characters", lambda: f"ab{absent}defghijkl")
    said = ("DejaVuSans.ttf", "expected 12 characters in DejaVuSans", f"none for {absent}")
    refusal(draw, tmp_path, *said)


def test_a_damaged_font_is_named(small, tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(module, "FONTS", tmp_path)
    for face in small:
        (tmp_path / face.file).write_bytes(b"no font")
    refusal(draw, tmp_path / "glyphs", "DejaVuSans.ttf", "cannot be drawn")


def test_glyphs_that_were_not_drawn(tmp_path, refusal):
    refusal(load, tmp_path / "none", "dataset.root", "trnet prepare glyphs")


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damaged_images_are_never_used(small, tmp_path, refusal, damage):
    draw(tmp_path)
    path = tmp_path / "test.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if damage == "bit" else bytes(content[:-1]))
    for use in (load, draw):
        refusal(use, tmp_path, str(path), "cannot be read" if damage == "gone" else "checksum")


def test_the_command(small, tmp_path, capsys):
    cli.main(["prepare", "glyphs", str(tmp_path / "glyphs")])
    assert "12 characters of 2 faces to train on" in capsys.readouterr().out
    assert (tmp_path / "glyphs/train.npy").is_file()


def test_the_registry():
    dataset = DATASETS["glyphs"]
    assert (dataset.classes, dataset.shape) == (1000, SHAPE)
