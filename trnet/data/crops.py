"""ImageNet's images for a network: cropped, resized, changed in colour, normalised.

An image here is a float32 array (3, height, width), with values in [0, 255].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from trnet.data.images import decoding, open_image, to_rgb, upright

Box = tuple[float, float, float, float]  # left, upper, right, lower

# Of ImageNet's training images, as GluonCV rounds them: its pretrained networks want these.
MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)

SHORTER_SIDE = 1 / 0.875  # of a validation image, in sides of the crop: 256 for 224

# A random crop's share of the area, its aspect, and the draws before the centre is taken: those of
# Inception (Szegedy et al., 2015), which GluonCV and torchvision share.
AREA, ASPECT, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
JITTER, LIGHTING = 0.4, 0.1  # as in GluonCV's ImageNet recipes
# Principal components of ImageNet's colours (Krizhevsky et al., 2012), times their deviations.
_COLOURS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * [55.46, 4.794, 1.148]


def read_crop(content: bytes, size: int, choose: Callable[[int, int], Box]) -> np.ndarray:
    """Decode an image file's bytes and resize a box of it: float32, (3, size, size).

    Parameters
    ----------
    content : bytes
    size : int
    choose : callable
        From width and height to the box.

    Raises
    ------
    Undecodable
        If they are not a complete image.
    """
    with decoding():
        image = upright(open_image(content))
    whole = np.array(image.size)
    box = np.reshape(choose(*image.size), (2, 2))  # ((left, upper), (right, lower))
    # A JPEG may be decoded at a fraction that leaves at least twice the pixels wanted.
    image.draft(None, tuple(np.ceil(2 * size * whole / (box[1] - box[0])).astype(int)))
    with decoding():
        image = to_rgb(image)
    box = np.clip(box / whole, 0, 1) * image.size
    pixels = np.asarray(image.resize((size, size), Image.BILINEAR, box.ravel()))
    # (size, size, 3) -> (3, size, size)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype="float32")


def centre_box(width: int, height: int, size: int) -> Box:
    """Give the box, in the image's own pixels, of a central crop of the image once it is resized.

    The resized image has a shorter side of ``SHORTER_SIDE`` times the crop's, and the crop's
    corners are on whole pixels of it.
    """
    shorter = round(size * SHORTER_SIDE)
    whole = np.array([width, height])
    resized = shorter * whole // whole.min()
    corner = (resized - size) // 2
    return (*(corner * whole / resized), *((corner + size) * whole / resized))


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """Draw Inception's crop, of a random area and aspect; else give the largest at the centre."""
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(*np.log(ASPECT)))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            left, upper = rng.integers(width - columns + 1), rng.integers(height - rows + 1)
            return left, upper, left + columns, upper + rows
    columns, rows = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    left, upper = (width - columns) / 2, (height - rows) / 2
    return left, upper, left + columns, upper + rows


def recolour(image: np.ndarray, rng: np.random.Generator) -> None:
    """Change brightness, contrast, saturation and lighting at random, in place."""
    brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3)
    image *= brightness
    _blend(image, grey(image).mean(), contrast)
    _blend(image, grey(image), saturation)  # (height, width) against (3, height, width)
    image += _per_channel(_COLOURS @ rng.normal(0, LIGHTING, 3))


def normalise(image: np.ndarray) -> np.ndarray:
    """Normalise an image in place and return it; a new array costs more than its arithmetic."""
    image -= _per_channel(MEAN)
    image /= _per_channel(STD)
    return image


def grey(image: np.ndarray) -> np.ndarray:
    """Give an image's luma, (height, width), by the weights of ITU-R BT.601."""
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def _blend(image: np.ndarray, other: np.ndarray | float, share: float) -> None:
    image *= share
    image += (1 - share) * other


def _per_channel(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype="float32")[:, None, None]  # (3,) -> (3, 1, 1)
