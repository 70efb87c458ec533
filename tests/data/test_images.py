"""Image files: found by class, kept where MXNet decodes them, and encoded again elsewhere."""

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from data.helpers import one_line, read
from data.photographs import encode, photograph
from PIL import Image

from trnet.data.prepare import prepare


def test_only_what_mxnet_cannot_decode_becomes_jpeg(tmp_path):
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


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda root: None, "expected a folder with one folder"),
        (lambda root: root.mkdir(), "got an empty folder"),
        (lambda root: make_flat(root), "got 3 files and no folders"),
        (lambda root: (root / "n0").mkdir(parents=True), "n0: expected images, got none"),
    ],
)
def test_folders_without_class_folders_are_refused(tmp_path, make, said):
    make(tmp_path / "source")
    one_line(lambda: prepare(tmp_path / "source", tmp_path / "out", show=False), said)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["source"])


def make_flat(root: Path) -> None:
    root.mkdir()
    for i in range(3):
        (root / f"ILSVRC2012_val_0000000{i}.JPEG").write_bytes(b"")
