"""Image files: found in a folder of class folders, checked, decoded, encoded again."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.tensor.backend import mx

_AHEAD = 16  # images per thread that are decoded before their turn
_ORIENTATION = 0x0112  # EXIF's tag
# Whatever a file is called. For EPS, Pillow would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Listing:
    """The images of a folder that holds one folder per class.

    Attributes
    ----------
    classes : list of str
        The folders' names, sorted; a class's label is its index in this list.
    files : list of str
        ``class/file``, sorted.
    labels : np.ndarray
        int, (n,).
    ignored : int
        Entries of class folders that are no image files, by their names.
    """

    classes: list[str]
    files: list[str]
    labels: np.ndarray
    ignored: int


def list_images(folder: Path) -> Listing:
    """List the images of a folder of class folders, hidden files and folders excluded.

    Raises
    ------
    UserError
        If the folder does not hold one folder per class, or a class has no images.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder with one folder of images per class, got none"
        )
    with os.scandir(folder) as inside:
        entries = [entry for entry in inside if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    if entries and not classes:
        raise UserError(
            f"{folder}: expected one folder of images per class, got {len(entries)} files and no "
            "folders; ImageNet's validation images come like this: sort them into one folder per "
            "class first"
        )
    if not classes:
        raise UserError(f"{folder}: expected one folder of images per class, got an empty folder")
    files, labels, ignored = [], [], 0
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as inside:
            shown = [entry for entry in inside if not entry.name.startswith(".")]
        own = sorted(
            entry.name
            for entry in shown
            if entry.is_file() and entry.name.lower().endswith(_SUFFIXES)
        )
        ignored += len(shown) - len(own)
        if not own:
            raise UserError(f"{folder / name}: expected images, got none; add some or delete it")
        files += [f"{name}/{file}" for file in own]
        labels += [label] * len(own)
    return Listing(classes, files, np.array(labels), ignored)


class Undecodable(Exception):
    """What is wrong with a file that gives no image."""


@contextmanager
def decoding() -> Iterator[None]:
    """Turn the many kinds of error that Pillow's decoders raise for damaged bytes into one."""
    # GluonCV, once imported, makes Pillow fill up truncated images in the whole process.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except UnidentifiedImageError:
        raise Undecodable("is not an image") from None
    except MemoryError:
        raise
    except Exception as error:
        raise Undecodable(f"cannot be decoded: {' '.join(str(error).split())}") from None


def open_image(content: bytes) -> Image.Image:
    """Open an image file's bytes, of a format that this project knows; decode nothing yet."""
    return Image.open(io.BytesIO(content), formats=_FORMATS)


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF data say, as MXNet's decoder does."""
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, as MXNet's decoder does."""
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would cut off the upper ones
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    return image.convert("RGB")


def decoded(content: bytes) -> Image.Image:
    """Decode an image file's bytes, in the image's own mode and orientation.

    Raises
    ------
    Undecodable
        If they are not a complete image, which can be rotated and converted to RGB.
    """
    if not content:
        raise Undecodable("is empty")
    with decoding():
        image = open_image(content)
        image.load()
        to_rgb(upright(image))
    return image


def faults(
    read: Callable[[int], bytes], numbers: Iterable[int], threads: int
) -> Iterator[str | None]:
    """Read and decode images; yields what is wrong with each, in order.

    Raises
    ------
    OSError
        If one cannot be read: that is no damage of the image.
    """

    def fault(number: int) -> str | None:
        try:
            decoded(read(number))
        except Undecodable as error:
            return str(error)
        return None

    with closing(map_ahead(fault, numbers, threads, _AHEAD * threads)) as found:
        yield from found


def for_mxnet(content: bytes, resize: int | None, quality: int) -> bytes:
    """Give an image file's bytes as MXNet can decode them: its own where possible, else JPEG.

    Parameters
    ----------
    content : bytes
    resize : int, optional
        The shorter side to which a larger image is shrunk.
    quality : int
        Of a JPEG that is made here.

    Raises
    ------
    Undecodable
        If the bytes are not a complete image.
    """
    image = decoded(content)
    if resize and min(image.size) > resize:
        image = upright(image)
        scale = resize / min(image.size)
        size = tuple(round(side * scale) for side in image.size)
        image = to_rgb(image).resize(size, Image.LANCZOS)
    elif image.format == "JPEG" or _decodes_in_mxnet(content):
        return content
    else:
        image = to_rgb(upright(image))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _decodes_in_mxnet(content: bytes) -> bool:
    """Whether MXNet's OpenCV decodes the format; it lacks GIF and WebP, which Pillow has."""
    try:
        mx.image.imdecode(content).wait_to_read()
    except mx.MXNetError:
        return False
    return True
