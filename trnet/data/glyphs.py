"""Glyphs: 1 000 Han characters, drawn from the fonts of Debian packages.

A thousand real classes that anybody can make, with test images that are as far from the training
images as handwriting and brushes are from print. ``glyphs.csv`` names package, file, face, family
and split; families that derive from one another are on one side, with one face of each design.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from tqdm import tqdm
from typing_extensions import TypedDict

from trnet.data.arrays import Part, from_arrays, shift
from trnet.data.source import DataSource, Request
from trnet.errors import UserError
from trnet.files import aside, described, read_json, write_aside

CLASSES = 1000
ROOT = "data/glyphs"
FONTS = Path("/usr/share/fonts")  # where Debian's packages put them
SPLITS = ("train", "test")

_SIDE, _SIZE = 28, 24  # of an image, and of a face's median character, in pixels
_MANIFEST = Path(__file__).with_suffix(".csv")
_NOTES = "glyphs.json"

# Level 1 of a standard: a codec, and the first bytes of its characters. In KS X 1001, all of them.
_LEVELS = {
    "euc_jp": range(0xB0, 0xD0),  # JIS X 0208
    "gb2312": range(0xB0, 0xD8),
    "big5": range(0xA4, 0xC7),
    "euc_kr": range(0xCA, 0xFE),  # KS X 1001
}
_NO_CHARACTER = "\U0010ffff"
_ABSENT = "徽牙盈穆"  # which one face or another of the manifest lacks


@dataclass(frozen=True)
class Face:
    """A face of a font: a row of the manifest.

    Attributes
    ----------
    split : {"train", "test"}
    family : str
        Fonts that derive from one another.
    package : str
        Debian's.
    file : str
        Below :data:`FONTS`.
    face : int
        Its place in the file.
    name : str
    """

    split: str
    family: str
    package: str
    file: str
    face: int
    name: str


class Notes(TypedDict):
    """What was drawn, and by what; ``sha256`` by split."""

    characters: str
    freetype: str
    pillow: str
    sha256: dict[str, str]


def manifest() -> list[Face]:
    """Faces in the order in which they are drawn."""
    with _MANIFEST.open(encoding="utf-8", newline="") as file:
        return [Face(**{**row, "face": int(row["face"])}) for row in csv.DictReader(file)]


def characters() -> str:
    """The 1 000 classes: every 1.5th of those in level 1 of four standards and in all faces."""
    shared = [c for c in map(chr, range(0x4E00, 0xA000)) if _is_common(c) and c not in _ABSENT]
    return "".join(shared[place * len(shared) // CLASSES] for place in range(CLASSES))


def _is_common(character: str) -> bool:
    for codec, level in _LEVELS.items():
        try:
            if character.encode(codec)[0] not in level:
                return False
        except UnicodeEncodeError:
            return False
    return True


def draw(folder: Path) -> str:
    """Draw all characters of all faces into a folder; returns a line on what is there.

    Parameters
    ----------
    folder : Path
        Gets ``train.npy`` and ``test.npy``, uint8 (faces, 1000, 28, 28), and ``glyphs.json``. If
        they are there and whole, nothing is drawn.

    Raises
    ------
    UserError
        If fonts are missing, with the line that installs them, or cannot draw.
    """
    faces = manifest()
    if not (folder / _NOTES).is_file():
        _require(faces)
        folder.mkdir(parents=True, exist_ok=True)
        drawn = characters()
        images: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for face in tqdm(faces, desc="drawing", unit="face", disable=None):
            images[face.split].append(_draw_face(face, drawn))
        sums = {split: _write(folder / f"{split}.npy", np.stack(images[split])) for split in SPLITS}
        notes: Notes = {
            "characters": drawn,
            "freetype": features.version("freetype2"),
            "pillow": features.version("pil"),
            "sha256": sums,
        }
        write_aside(folder / _NOTES, json.dumps(notes, ensure_ascii=False, indent=2) + "\n")
    notes = _notes(folder)
    counts = [len(_read(folder, split, notes)) for split in SPLITS]
    return (
        f"{folder}: {CLASSES} characters of {counts[0]} faces to train on and {counts[1]} to test, "
        f"by FreeType {notes['freetype']}"
    )


def _require(faces: list[Face]) -> None:
    missing = sorted({face.package for face in faces if not (FONTS / face.file).is_file()})
    if missing:
        raise UserError(
            f"expected the fonts of {len({face.package for face in faces})} Debian packages in "
            f"{FONTS}, got none of {len(missing)}: apt-get install {' '.join(missing)}"
        )


def _draw_face(face: Face, drawn: str) -> np.ndarray:
    """All characters of a face, white on black, centred: (1000, 28, 28)."""
    path = FONTS / face.file
    try:
        font = _font(path, face.face, drawn)
        *images, absent = (
            _draw_character(character, font) for character in (*drawn, _NO_CHARACTER)
        )
    except OSError as error:
        raise UserError(f"{path}: {face.name} cannot be drawn: {error}") from None
    for character, image in zip(drawn, images):
        if not image.any() or (image == absent).all():
            raise UserError(
                f"{path}: expected {len(drawn)} characters in {face.name} of {face.package}, got "
                f"none for {character}"
            )
    return np.stack(images)


def _font(path: Path, face: int, drawn: str) -> ImageFont.FreeTypeFont:
    """A face, in the size at which the median of its characters has a longer side of 24 pixels."""
    content = path.read_bytes()

    def of_size(size: int) -> ImageFont.FreeTypeFont:
        # As bytes: for a file that it cannot use, Pillow looks for another one of that name.
        layout = ImageFont.Layout.BASIC
        return ImageFont.truetype(io.BytesIO(content), size, face, layout_engine=layout)

    reference = of_size(_SIZE)
    longer = [max(_ink(character, reference).shape) for character in drawn[:: CLASSES // 10]]
    return of_size(round(_SIZE * _SIZE / max(1.0, float(np.median(longer)))))


def _draw_character(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """A character in the middle of an image; what is larger is cut."""
    ink = _ink(character, font)
    spare = [max(0, _SIDE - size) for size in ink.shape]
    padded = np.pad(ink, [(n // 2, n - n // 2) for n in spare])
    top, left = ((size - _SIDE) // 2 for size in padded.shape)
    return padded[top : top + _SIDE, left : left + _SIDE]


def _ink(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """The smallest image that holds all of a character."""
    canvas = Image.new("L", (4 * _SIDE, 4 * _SIDE))
    ImageDraw.Draw(canvas).text((_SIDE, _SIDE), character, fill=255, font=font)
    box = canvas.getbbox()
    return np.asarray(canvas.crop(box)) if box else np.zeros((1, 1), np.uint8)


def glyphs(request: Request) -> DataSource:
    """Characters in print to train on, and in handwriting, brush and display faces to test on.

    A result notes the checksum of what was drawn, and FreeType's version.
    """
    folder = Path(request.root or ROOT)
    notes = _notes(folder)
    train, test = (_part(_read(folder, split, notes)) for split in SPLITS)
    pixels = train.images[:: CLASSES + 1] / 255  # a thousandth: one of every face
    source = from_arrays(request, train, test, [pixels.mean()], [pixels.std()], shift)
    note = {"freetype": notes["freetype"]}
    note |= {split: notes["sha256"][split][:16] for split in SPLITS}
    return replace(source, note=note)


def _part(images: np.ndarray) -> Part:
    """(faces, 1000, 28, 28) -> (faces·1000, 1, 28, 28)."""
    labels = np.tile(np.arange(CLASSES), len(images))
    return Part(images.reshape(-1, 1, _SIDE, _SIDE), labels)


def _notes(folder: Path) -> Notes:
    path = folder / _NOTES
    if not path.is_file():
        raise UserError(
            f"dataset.root: expected the drawn glyphs in {folder}, got no {_NOTES}; draw them by "
            f"trnet prepare glyphs {folder}"
        )
    return read_json(path, Notes)


def _read(folder: Path, split: str, notes: Notes) -> np.ndarray:
    """The images of a split, whose checksum is that of the notes."""
    path = folder / f"{split}.npy"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    found, expected = hashlib.sha256(content).hexdigest(), notes["sha256"].get(split)
    if found != expected:
        raise UserError(
            f"{path}: expected the checksum {expected}, which {_NOTES} notes, got {found}; delete "
            f"{folder / _NOTES}, and draw the glyphs again by trnet prepare glyphs {folder}"
        )
    return np.load(io.BytesIO(content))


def _write(path: Path, images: np.ndarray) -> str:
    """Write an array; returns the file's checksum."""
    with aside(path) as beside, beside.open("wb") as file:  # a name would become NAME.npy
        np.save(file, images)
    return described(path)["sha256"]
