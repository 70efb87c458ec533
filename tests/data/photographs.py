"""A small ImageNet of real photographs from scikit-image; nothing to download."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850", "n02123045")
_PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "camera", "coins", "rocket")
_SIZES = ((120, 90), (90, 120), (100, 100), (141, 83), (64, 97), (200, 150))


def photograph(rng: np.random.RandomState, number: int, size: tuple[int, int]) -> Image.Image:
    """A crop of one of the photographs, at a random place and scale."""
    whole = _photograph(_PHOTOGRAPHS[number % len(_PHOTOGRAPHS)])
    side = rng.uniform(0.4, 0.9) * min(whole.size)
    left, upper = (rng.uniform(0, length - side) for length in whole.size)
    return whole.resize(size, Image.BICUBIC, box=(left, upper, left + side, upper + side))


def encode(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def make_imagenet(
    root: Path, train: int = 6, validation: int = 3, classes: int = 4, broken: bool = False
) -> Path:
    """Make ``root/train`` and ``root/val``, with one folder per class.

    The first class has a CMYK JPEG, a grey JPEG and a PNG named .JPEG, in training and in
    validation.

    Parameters
    ----------
    root : Path
    train, validation : int
        Images per class, without broken ones.
    classes : int
    broken : bool
        Whether to add to the second class, in training, a truncated file, an empty one and one of
        text.
    """
    rng = np.random.RandomState(0)
    number = 0
    for part, images in (("train", train), ("val", validation)):
        for name in CLASSES[:classes]:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(images):
                image = photograph(rng, number, _SIZES[number % len(_SIZES)])
                number += 1
                odd = name == CLASSES[0] and i < 3
                content = encode(image.convert(("CMYK", "L", "RGB")[i] if odd else "RGB"))
                if odd and i == 2:
                    content = encode(image, "PNG")
                (folder / f"{name}_{i}.JPEG").write_bytes(content)
    if broken:
        folder = root / "train" / CLASSES[1]
        whole = (folder / f"{CLASSES[1]}_0.JPEG").read_bytes()
        (folder / "truncated.JPEG").write_bytes(whole[: len(whole) // 2])
        (folder / "empty.JPEG").write_bytes(b"")
        (folder / "text.JPEG").write_bytes(b"<html>Not found</html>\n" * 20)
    return root


@cache
def _photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
