"""ImageNet's data path: records and folders, their batches, shards, augmentation and errors."""

import shutil
import threading
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from photographs import CLASSES, encode, make_imagenet, photograph
from PIL import Image

from trnet.data import WHOLE, Request, Shard
from trnet.data.imagenet import _grey, _random_box, _recolour, imagenet
from trnet.data.records import frame, prepare
from trnet.data.synthetic import synthetic
from trnet.errors import UserError

SIZE = 56  # 64 before the crop
MEAN = np.array([123.68, 116.779, 103.939], "float32")[:, None, None]
STD = np.array([58.393, 57.12, 57.375], "float32")[:, None, None]


def wish(root, augment=False, shard=WHOLE, threads=2, classes=4, size=SIZE) -> Request:
    return Request(str(root), augment, classes, (3, size, size), threads, shard)


def to_records(folder: Path, root: Path) -> Path:
    for part in ("train", "val"):
        prepare(folder / part, root / part, jobs=2, show=False)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """24 images for training and 12 for validation."""
    return make_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def records(folder, tmp_path_factory) -> Path:
    return to_records(folder, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    """Records of 10 images for training and 4 for validation, in two classes."""
    folder = make_imagenet(tmp_path_factory.mktemp("few"), train=5, validation=2, classes=2)
    return to_records(folder, tmp_path_factory.mktemp("ten"))


@pytest.fixture(params=["folder", "records"])
def root(request) -> Path:
    return request.getfixturevalue(request.param)


def assert_named(whole: Path, tmp_path: Path, damage, line: str, said: str) -> None:
    """Damage a copy: what is refused of it is one line of a form, that says what is wrong."""
    root = shutil.copytree(whole, tmp_path / "copy")
    damage(root)
    with pytest.raises(UserError, match=line) as error:
        imagenet(wish(root))
    assert said in str(error.value)


def arrays(batches) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images.asnumpy(), labels.asnumpy()) for images, labels in batches]


def joined(batches) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate(part) for part in zip(*arrays(batches)))


def prints(batches) -> list[bytes]:
    """A fingerprint an image."""
    return [image.tobytes() for images, _ in arrays(batches) for image in images]


def by_hand(path: Path) -> np.ndarray:
    """The centre crop in [0, 255], (3, SIZE, SIZE), of an image resized as a whole."""
    image = Image.open(path).convert("RGB")
    shorter = min(image.size)
    resized = image.resize([64 * side // shorter for side in image.size], Image.BILINEAR)
    left, upper = ((side - SIZE) // 2 for side in resized.size)
    crop = resized.crop((left, upper, left + SIZE, upper + SIZE))
    return np.asarray(crop, "float32").transpose(2, 0, 1)


@pytest.fixture(scope="module")
def validation_by_hand(folder) -> tuple[np.ndarray, np.ndarray]:
    files = sorted((folder / "val").glob("*/*"))
    labels = [CLASSES.index(path.parent.name) for path in files]
    return np.stack([by_hand(path) for path in files]), np.array(labels)


def test_validation_from_a_folder_is_the_centre_crop(folder, validation_by_hand):
    images, labels = joined(imagenet(wish(folder)).validation(5))
    assert images.dtype == labels.dtype == np.float32
    errors = abs(images * STD + MEAN - validation_by_hand[0])
    assert errors.max() < 1.01 and errors.mean() < 0.01  # of 255, where roundings differ
    np.testing.assert_array_equal(labels, validation_by_hand[1])


def test_validation_from_records_is_the_same_but_for_the_filter(records, validation_by_hand):
    """OpenCV averages areas where Pillow weighs by a triangle, and its CMYK is not Pillow's."""
    images, labels = joined(imagenet(wish(records)).validation(5))
    images = images * STD + MEAN
    for by_hand, label in zip(*validation_by_hand):
        errors = abs(images - by_hand).mean((1, 2, 3))
        assert errors.min() < 4 and labels[errors.argmin()] == label
        assert np.sort(errors)[1] > 2 * errors.min()  # and no other is like it
    assert images.dtype == labels.dtype == np.float32


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_validation_has_every_image_once(root, workers, batch_size):
    expected = prints(imagenet(wish(root)).validation(4))
    assert len(set(expected)) == 12
    found = []
    for index in range(workers):
        source = imagenet(wish(root, shard=Shard(index, workers)))
        assert (source.train_size, source.validation_size) == (24, 12)
        batches = list(source.validation(batch_size))
        assert all(len(images) == len(labels) <= batch_size for images, labels in batches)
        found += prints(batches)
    assert sorted(found) == sorted(expected)


def test_validation_of_fewer_images_than_workers(ten):
    shares = [
        prints(imagenet(wish(ten, classes=2, shard=Shard(index, 3))).validation(2))
        for index in range(3)
    ]
    assert list(map(len, shares)) == [2, 2, 0]
    assert len(set().union(*shares)) == 4


def test_training_batches_are_full_normalised_and_cover_an_epoch(root):
    source = imagenet(wish(root))
    batches = arrays(source.train(5, (0, 1)))
    assert len(batches) == source.train_batches(5) == 4
    assert {images.shape for images, _ in batches} == {(5, 3, SIZE, SIZE)}
    assert {labels.shape for _, labels in batches} == {(5,)}
    images, labels = joined(source.train(6, (0, 1)))
    assert images.dtype == labels.dtype == np.float32
    assert np.bincount(labels.astype(int)).tolist() == [6, 6, 6, 6]
    assert len({image.tobytes() for image in images}) == 24
    levels = images * STD + MEAN
    assert levels.min() > -1 and levels.max() < 256 and levels.max() > 200


def test_training_images_stay_with_their_labels(root, folder):
    train = sorted((folder / "train").glob("*/*"))
    expected = np.stack([by_hand(path) for path in train])
    for images, labels in arrays(imagenet(wish(root)).train(6, (3, 1))):
        for image, label in zip(images * STD + MEAN, labels):
            nearest = abs(expected - image).mean((1, 2, 3)).argmin()
            assert train[nearest].parent.name == CLASSES[int(label)]


def test_an_epoch_follows_from_its_seed_on_any_number_of_threads(root):
    def epoch(seed, threads=2):
        return joined(imagenet(wish(root, augment=True, threads=threads)).train(8, seed))

    first = epoch((0, 1))
    for again in (epoch((0, 1)), epoch((0, 1), threads=1)):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    for other in (epoch((0, 2)), epoch((1, 1))):
        assert (first[1] != other[1]).any()


def test_augmentation_differs_by_epoch_and_by_image(tmp_path):
    """Nine copies of one photograph are nine images."""
    content = encode(photograph(np.random.RandomState(0), 0, (120, 90)))
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        for i in range(9):
            (tmp_path / part / "n0" / f"{i}.JPEG").write_bytes(content)
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        augmented, plain = (imagenet(wish(root, augment, classes=1)) for augment in (True, False))
        epochs = [prints(augmented.train(9, (0, epoch))) for epoch in (1, 2)]
        assert len(set().union(*epochs)) == 18
        assert len(set(prints(plain.train(9, (0, 1))))) == 1


def test_batches_stay_what_they_are_when_more_are_read(root):
    source = imagenet(wish(root, augment=True))
    kept = arrays(list(source.train(2, (0, 1))))
    for held, fresh in zip(kept, arrays(source.train(2, (0, 1)))):
        np.testing.assert_array_equal(held[0], fresh[0])


@pytest.mark.parametrize("batch_size", [7, 64])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_batches_of_a_folder(folder, workers, batch_size):
    joint = arrays(imagenet(wish(folder, augment=True)).train(batch_size, (0, 1)))
    shards = [Shard(index, workers) for index in range(workers)]
    sources = [imagenet(wish(folder, augment=True, shard=shard)) for shard in shards]
    parts = [arrays(source.train(batch_size, (0, 1))) for source in sources]
    assert {len(part) for part in parts} == {len(joint)}
    for step, whole in enumerate(joint):
        for i in (0, 1):
            together = np.concatenate([part[step][i] for part in parts])
            np.testing.assert_array_equal(together, whole[i])


@pytest.mark.parametrize("workers, batch_size", [(2, 8), (3, 12), (2, 7), (3, 64), (5, 9)])
def test_workers_share_the_batches_of_records(records, workers, batch_size):
    rows = min(batch_size, 24)
    seen = []
    for index in range(workers):
        shard = Shard(index, workers)
        source = imagenet(wish(records, shard=shard))
        batches = list(source.train(batch_size, (0, 1)))
        own = shard.slice(rows)
        lengths = [len(images) for images, _ in batches]
        assert lengths == [own.stop - own.start] * source.train_batches(batch_size)
        seen += prints(batches)
    assert len(seen) == rows * source.train_batches(batch_size)
    assert len(set(seen)) >= len(seen) - workers


def test_a_worker_whose_part_is_short_reads_it_again(ten):
    """Ten records are cut in 4, 4 and 2; two batches of five take 1, 2 and 2 of them at a time."""
    parts = [
        prints(imagenet(wish(ten, classes=2, shard=Shard(index, 3))).train(5, (0, 1)))
        for index in range(3)
    ]
    assert [(len(part), len(set(part))) for part in parts] == [(2, 2), (4, 4), (4, 2)]
    assert len(set().union(*parts)) == 8


def test_records_too_few_to_share_are_read_by_every_worker(ten):
    """Ten records are cut in 3, 3, 3 and 1, and the last worker needs three of a batch of ten."""
    whole = prints(imagenet(wish(ten, classes=2)).train(64, (0, 1)))
    parts = [
        prints(imagenet(wish(ten, classes=2, shard=Shard(index, 4))).train(64, (0, 1)))
        for index in range(4)
    ]
    assert list(map(len, parts)) == [2, 3, 2, 3]
    assert [image for part in parts for image in part] == whole and len(set(whole)) == 10


def test_nothing_is_said_by_the_iterator(records, capfd):
    source = imagenet(wish(records, augment=True))
    assert prints(source.train(8, (0, 1))) and prints(source.validation(5))
    assert capfd.readouterr() == ("", "")


def test_epochs_of_records_free_their_memory(records):
    """A batch is 4 MB, and one at least would be kept by every epoch not read to its end."""
    source = imagenet(wish(records, augment=True, size=224))

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    def epochs(number: int) -> None:
        for epoch in range(number):
            for images, _ in source.train(7, (0, epoch)):
                images.wait_to_read()

    epochs(10)
    before = resident()
    epochs(30)
    assert resident() - before < 60


def test_an_abandoned_epoch_leaves_no_thread(folder):
    before = threading.active_count()
    batches = imagenet(wish(folder, threads=3)).train(2, (0, 1))
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


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
        images, _ = joined(imagenet(wish(root, classes=1)).validation(1))
        assert abs(images[0] * STD + MEAN - expected).mean() < 4


def _sixteen_bits(photo: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(photo).astype("uint16") * 257)


def test_large_jpegs_are_decoded_at_a_fraction_without_harm(tmp_path):
    photo = photograph(np.random.RandomState(0), 0, (1600, 1200))
    for part, form in (("train", "JPEG"), ("val", "PNG")):
        (tmp_path / part / "n0").mkdir(parents=True)
        content = encode(photo, form, **({"quality": 95} if form == "JPEG" else {}))
        (tmp_path / part / "n0" / "a.JPEG").write_bytes(content)
    source = imagenet(wish(tmp_path, classes=1))
    (jpeg, _), (png, _) = joined(source.train(1, (0,))), joined(source.validation(1))
    assert abs((jpeg - png) * STD).mean() < 1


def test_fine_stripes_become_grey_and_not_moire(tmp_path):
    """At a seventh of their size, where every filter without a blur would pick single ones."""
    stripes = np.tile(np.array([0, 255], "uint8"), (448, 224))
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        (tmp_path / part / "n0" / "a.png").write_bytes(encode(Image.fromarray(stripes), "PNG"))
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        images, _ = joined(imagenet(wish(root, classes=1)).validation(1))
        assert abs(images[0] * STD + MEAN - 127.5).max() < 20


@pytest.mark.parametrize("width, height", [(500, 375), (90, 400), (7, 5), (3000, 20), (20, 3000)])
def test_random_crops_lie_inside_with_inceptions_area_and_aspect(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([_random_box(width, height, rng) for _ in range(200)])
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    columns, rows = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (columns > 0).all() and (rows > 0).all()
    if min(width, height) > 50:
        areas, aspects = columns * rows / (width * height), columns / rows
        assert areas.min() > 0.07 and areas.max() <= 1
        assert aspects.min() > 0.72 and aspects.max() < 1.37
        assert len(np.unique(boxes, axis=0)) > 150
    if max(width, height) == 3000:  # too long for any: the largest at the centre
        np.testing.assert_allclose(sorted((columns[0], rows[0])), (20, 80 / 3))
        np.testing.assert_allclose(boxes[0, :2] + boxes[0, 2:], (width, height))


class _Fixed:
    """A generator that draws what it is told."""

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
        _recolour(changed, _Fixed(factors, lighting))
        assert changed.dtype == np.float32
        return changed

    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(change(1, 1, 1), planes, **close)
    np.testing.assert_allclose(change(1.3, 1, 1), 1.3 * planes, **close)
    flat, grey = change(1, 0, 1), change(1, 1, 0)
    np.testing.assert_allclose(flat, np.full_like(planes, _grey(planes).mean()), **close)
    np.testing.assert_allclose(grey, np.broadcast_to(_grey(planes), (3, 6, 5)), **close)
    np.testing.assert_allclose(_grey(change(1, 1, 1.4)), _grey(planes), **close)
    shift = change(1, 1, 1, lighting=(0.1, 0, 0)) - planes
    np.testing.assert_allclose(shift[:, 0, 0], 5.546 * np.array([-0.5675, -0.5808, -0.5836]), 1e-3)
    assert np.ptp(shift, axis=(1, 2)).max() < 1e-3


def test_half_the_images_are_mirrored(tmp_path):
    """Of images that are dark on the left and bright on the right."""
    ramp = np.tile(np.arange(0, 256, 2, dtype="uint8"), (128, 1))
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        for i in range(60):
            (tmp_path / part / "n0" / f"{i}.png").write_bytes(encode(Image.fromarray(ramp), "PNG"))
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        images, _ = joined(imagenet(wish(root, True, classes=1, size=32)).train(60, (0, 1)))
        mirrored = images[..., 0].mean((1, 2)) > images[..., -1].mean((1, 2))
        assert 15 < mirrored.sum() < 45


def edit_index(root: Path, change) -> None:
    index = root / "val.idx"
    index.write_text(change(index.read_text()))


def append_record(root: Path, label: float, content: bytes) -> None:
    record = frame(mx.recordio.pack(mx.recordio.IRHeader(0, label, 99, 0), content))
    with (root / "val.rec").open("ab") as rec, (root / "val.idx").open("a") as idx:
        idx.write(f"99\t{rec.tell()}\n")
        rec.write(record)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda root: shutil.rmtree(root), "is no folder"),
        (lambda root: (root / "val.rec").unlink(), "neither val.rec nor val/"),
        (lambda root: (root / "val.idx").unlink(), "is without val.idx"),
        (lambda root: (root / "val.idx").write_text(""), "is no index"),
        (lambda root: edit_index(root, lambda text: "hello\n"), "is no index"),
        (lambda root: edit_index(root, lambda text: text.replace("\t", "\tx")), "is no index"),
        (lambda root: edit_index(root, lambda text: text[:-9]), "does not end where val.idx says"),
        (
            lambda root: (root / "val.rec").write_bytes((root / "val.rec").read_bytes()[:-99]),
            "does not end where val.idx says",
        ),
        (lambda root: (root / "val.rec").write_bytes(b""), "does not end where val.idx says"),
        (
            lambda root: (root / "val.classes.txt").write_text("n0\nn1\nn2\n"),
            "4 classes in train and 3 in val",
        ),
        (
            lambda root: [
                (root / f"{p}.classes.txt").write_text("a\nb\n") for p in ("train", "val")
            ],
            "so dataset.classes: 2 would fit",
        ),
    ],
)
def test_broken_records_are_named(records, tmp_path, damage, said):
    assert_named(records, tmp_path, damage, r"^dataset\.(root|classes): [^\n]*$", said)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda root: shutil.rmtree(root / "val"), "neither val.rec nor val/"),
        (lambda root: shutil.rmtree(root / "val" / CLASSES[1]), "classes in train and 3 in val"),
        (lambda root: (root / "val" / CLASSES[1]).rename(root / "val/n9"), "n01443537 in one only"),
        (lambda root: [path.unlink() for path in root.glob("train/n02*/*")], "holds no images"),
        (lambda root: [shutil.rmtree(path) for path in root.glob("val/*")], "is empty"),
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
        with pytest.raises(
            UserError, match=r"^dataset\.classes: got .*dataset\.classes: 4 would fit$"
        ):
            imagenet(wish(root, classes=classes))
    with pytest.raises(UserError, match=r"^dataset\.root: .* 24 images .* at least 25"):
        imagenet(wish(root, shard=Shard(0, 25)))
    with pytest.raises(UserError, match=r"^dataset\.root: is missing; .* train\.rec"):
        imagenet(Request(None, False, 4, (3, SIZE, SIZE)))


def test_labels_that_no_class_has_are_refused_where_no_list_of_classes_is(records, tmp_path):
    root = shutil.copytree(records, tmp_path / "copy")
    for part in ("train", "val"):
        (root / f"{part}.classes.txt").unlink()
    assert len(prints(imagenet(wish(root, classes=4)).validation(5))) == 12
    for part in ("train", "validation"):
        source = imagenet(wish(root, classes=3))
        batches = source.train(24, (0,)) if part == "train" else source.validation(12)
        name = "train" if part == "train" else "val"
        with pytest.raises(UserError, match=rf"{name}\.rec has the label 3; labels from 0 to 2"):
            list(batches)


def test_records_are_preferred_to_folders_of_the_same_root(folder, records, tmp_path):
    root = shutil.copytree(folder, tmp_path / "both")
    for path in records.glob("val.*"):
        shutil.copy(path, root)
    found = prints(imagenet(wish(root)).validation(5))
    assert found == prints(imagenet(wish(records)).validation(5))
    assert found != prints(imagenet(wish(folder)).validation(5))


@pytest.mark.parametrize("content", [b"", b"<html>", encode(Image.new("RGB", (90, 70)))[:-200]])
def test_a_file_that_is_no_image_is_named(folder, tmp_path, content):
    root = shutil.copytree(folder, tmp_path / "copy")
    (root / "val" / CLASSES[2] / "odd.JPEG").write_bytes(content)
    before = threading.active_count()
    with pytest.raises(UserError, match=r"^dataset\.root: [^\n]*odd\.JPEG[^\n]*prepare_imagenet"):
        list(imagenet(wish(root)).validation(5))
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 3])
def test_synthetic_images_are_as_many_as_real_ones_would_be(workers):
    rows, scored = 0, 0
    for index in range(workers):
        request = Request(None, True, 5, (3, 8, 8), shard=Shard(index, workers))
        source = synthetic(request)
        assert (source.train_size, source.validation_size) == (1280, 256)
        batches = list(source.train(64, (0, 1)))
        assert len(batches) == source.train_batches(64) == 20
        assert len({id(images) for images, _ in batches}) == 2  # made once
        rows += sum(len(images) for images, _ in batches)
        scored += sum(len(images) for images, _ in source.validation(50))
        images, labels = joined(batches)
        assert images.shape[1:] == (3, 8, 8) and images.dtype == labels.dtype == np.float32
        assert abs(images.mean()) < 0.05 and abs(images.std() - 1) < 0.05
        assert set(labels) == set(range(5))
    assert (rows, scored) == (1280, 256)


def test_synthetic_takes_no_root():
    with pytest.raises(
        UserError, match=r"^dataset\.root: got 'here'; synthetic has no files, dataset.root=null"
    ):
        synthetic(wish("here"))


def test_images_are_turned_as_their_exif_says(tmp_path):
    """A camera that was held upright: folder and records agree, and with --resize too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((90, 120, 3), "uint8")
    pixels[:45] = 255  # the upper half, which is the right one once it is turned
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
        found.append(next(imagenet(wish(root, classes=2, size=56)).validation(1))[0].asnumpy())
    found.append(
        next(imagenet(wish(tmp_path / "folder", classes=2, size=56)).validation(1))[0].asnumpy()
    )
    for images in found:
        assert images[0, :, :, 40:].min() > 1.5 and images[0, :, :, :16].max() < -1.5
