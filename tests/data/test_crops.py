"""Crops and colours of ImageNet's images, from folders and from records alike."""

import numpy as np
import pytest
from data.helpers import MEAN, STD, by_hand, images_request, joined, to_records
from data.photographs import encode, photograph
from PIL import Image

from trnet.data.crops import grey, random_box, recolour
from trnet.data.imagenet import imagenet
from trnet.data.prepare import prepare


def _sixteen_bits(photo: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(photo).astype("uint16") * 257)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    photo = photograph(np.random.RandomState(0), 1, (70, 90)).convert("L")
    if mode == "1":
        photo = photo.point(lambda level: 255 * (level > 127))
    image = photo.convert(mode) if mode != "I;16" else _sixteen_bits(photo)
    form, name = ("JPEG", "a.JPEG") if mode == "CMYK" else ("PNG", "a.png")
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        (tmp_path / part / "n0" / name).write_bytes(encode(image, form))
    (tmp_path / "grey.png").write_bytes(encode(photo, "PNG"))
    expected = by_hand(tmp_path / "grey.png")
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        images, _ = joined(imagenet(images_request(root, classes=1)).validation(1))
        assert abs(images[0] * STD + MEAN - expected).mean() < 4


def test_large_jpegs_are_decoded_at_a_fraction_without_harm(tmp_path):
    photo = photograph(np.random.RandomState(0), 0, (1600, 1200))
    for part, form in (("train", "JPEG"), ("val", "PNG")):
        (tmp_path / part / "n0").mkdir(parents=True)
        content = encode(photo, form, **({"quality": 95} if form == "JPEG" else {}))
        (tmp_path / part / "n0" / "a.JPEG").write_bytes(content)
    source = imagenet(images_request(tmp_path, classes=1))
    (jpeg, _), (png, _) = joined(source.train(1, (0,))), joined(source.validation(1))
    assert abs((jpeg - png) * STD).mean() < 1


def test_fine_stripes_become_grey_and_not_moire(tmp_path):
    """At a seventh of their size, where a filter that does not average picks single stripes."""
    stripes = np.tile(np.array([0, 255], "uint8"), (448, 224))
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        (tmp_path / part / "n0" / "a.png").write_bytes(encode(Image.fromarray(stripes), "PNG"))
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        images, _ = joined(imagenet(images_request(root, classes=1)).validation(1))
        assert abs(images[0] * STD + MEAN - 127.5).max() < 20


def test_images_are_rotated_by_their_exif_data(tmp_path):
    """A camera that was held upright: folder and records agree, with --resize too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((90, 120, 3), "uint8")
    pixels[:45] = 255  # the upper half, which is the right half after turning
    content = encode(Image.fromarray(pixels), exif=exif)
    for part in ("train", "val"):
        for name in ("a", "b"):
            path = tmp_path / "folder" / part / name / "turned.JPEG"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
    found = []
    for resize in (None, 80):
        root = tmp_path / f"records{resize}"
        for part in ("train", "val"):
            prepare(tmp_path / "folder" / part, root / part, resize=resize, show=False)
        found.append(
            next(imagenet(images_request(root, classes=2, size=56)).validation(1))[0].asnumpy()
        )
    found.append(
        next(imagenet(images_request(tmp_path / "folder", classes=2, size=56)).validation(1))[
            0
        ].asnumpy()
    )
    for images in found:
        assert images[0, :, :, 40:].min() > 1.5 and images[0, :, :, :16].max() < -1.5


@pytest.mark.parametrize("width, height", [(500, 375), (90, 400), (7, 5), (3000, 20), (20, 3000)])
def test_random_crops_lie_inside_with_inceptions_area_and_aspect(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(width, height, rng) for _ in range(200)])
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    columns, rows = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (columns > 0).all() and (rows > 0).all()
    if min(width, height) > 50:
        areas, aspects = columns * rows / (width * height), columns / rows
        assert areas.min() > 0.07 and areas.max() <= 1
        assert aspects.min() > 0.72 and aspects.max() < 1.37
        assert len(np.unique(boxes, axis=0)) > 150
    if max(width, height) == 3000:  # too long for any draw: the largest at the centre
        np.testing.assert_allclose(sorted((columns[0], rows[0])), (20, 80 / 3))
        np.testing.assert_allclose(boxes[0, :2] + boxes[0, 2:], (width, height))


class _Fixed:
    """A generator that gives fixed draws."""

    def __init__(self, factors, lighting=(0, 0, 0)) -> None:
        self.factors, self.lighting = factors, lighting

    def uniform(self, low, high, size):
        assert (low, high) == (0.6, 1.4)
        return np.array(self.factors)

    def normal(self, mean, deviation, size):
        assert (mean, deviation) == (0, 0.1)
        return np.array(self.lighting)


def test_colours_change_one_by_one():
    planes = np.random.rand(3, 6, 5).astype("float32") * 255

    def change(*factors, lighting=(0, 0, 0)) -> np.ndarray:
        changed = planes.copy()
        recolour(changed, _Fixed(factors, lighting))
        assert changed.dtype == np.float32
        return changed

    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(change(1, 1, 1), planes, **close)
    np.testing.assert_allclose(change(1.3, 1, 1), 1.3 * planes, **close)
    flat, faded = change(1, 0, 1), change(1, 1, 0)
    np.testing.assert_allclose(flat, np.full_like(planes, grey(planes).mean()), **close)
    np.testing.assert_allclose(faded, np.broadcast_to(grey(planes), (3, 6, 5)), **close)
    np.testing.assert_allclose(grey(change(1, 1, 1.4)), grey(planes), **close)
    shift = change(1, 1, 1, lighting=(0.1, 0, 0)) - planes
    np.testing.assert_allclose(shift[:, 0, 0], 5.546 * np.array([-0.5675, -0.5808, -0.5836]), 1e-3)
    assert np.ptp(shift, axis=(1, 2)).max() < 1e-3


def test_half_the_images_are_mirrored(tmp_path):
    """The images are dark on the left and bright on the right."""
    ramp = np.tile(np.arange(0, 256, 2, dtype="uint8"), (128, 1))
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        for i in range(60):
            (tmp_path / part / "n0" / f"{i}.png").write_bytes(encode(Image.fromarray(ramp), "PNG"))
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        images, _ = joined(
            imagenet(images_request(root, True, classes=1, size=32)).train(60, (0, 1))
        )
        mirrored = images[..., 0].mean((1, 2)) > images[..., -1].mean((1, 2))
        assert 15 < mirrored.sum() < 45
