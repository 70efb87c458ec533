"""ImageNet's batches, from records and from folders: their images, order, shards, memory."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from data.helpers import (
    MEAN,
    SIZE,
    STD,
    arrays,
    by_hand,
    images_request,
    joined,
    prints,
    to_records,
)
from data.photographs import CLASSES, encode, photograph

from trnet.data import Shard
from trnet.data.imagenet import imagenet


@pytest.fixture(scope="module")
def validation_by_hand(folder) -> tuple[np.ndarray, np.ndarray]:
    files = sorted((folder / "val").glob("*/*"))
    labels = [CLASSES.index(path.parent.name) for path in files]
    return np.stack([by_hand(path) for path in files]), np.array(labels)


def test_validation_from_a_folder_is_the_centre_crop(folder, validation_by_hand):
    images, labels = joined(imagenet(images_request(folder)).validation(5))
    assert images.dtype == labels.dtype == np.float32
    errors = abs(images * STD + MEAN - validation_by_hand[0])
    assert errors.max() < 1.01 and errors.mean() < 0.01  # of 255, from rounding
    np.testing.assert_array_equal(labels, validation_by_hand[1])


def test_validation_from_records_differs_only_by_the_filter(records, validation_by_hand):
    """OpenCV averages areas, Pillow weighs by a triangle; and they convert CMYK differently."""
    images, labels = joined(imagenet(images_request(records)).validation(5))
    images = images * STD + MEAN
    for expected, label in zip(*validation_by_hand):
        errors = abs(images - expected).mean((1, 2, 3))
        assert errors.min() < 4 and labels[errors.argmin()] == label
        assert np.sort(errors)[1] > 2 * errors.min()  # no other image is similar
    assert images.dtype == labels.dtype == np.float32


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_validation_has_every_image_once(root, workers, batch_size):
    expected = prints(imagenet(images_request(root)).validation(4))
    assert len(set(expected)) == 12
    found = []
    for index in range(workers):
        source = imagenet(images_request(root, shard=Shard(index, workers)))
        assert (source.train_size, source.validation_size) == (24, 12)
        batches = list(source.validation(batch_size))
        assert all(len(images) == len(labels) <= batch_size for images, labels in batches)
        found += prints(batches)
    assert sorted(found) == sorted(expected)


def test_validation_of_fewer_images_than_workers(ten):
    shares = [
        prints(imagenet(images_request(ten, classes=2, shard=Shard(index, 3))).validation(2))
        for index in range(3)
    ]
    assert list(map(len, shares)) == [2, 2, 0]
    assert len(set().union(*shares)) == 4


def test_training_batches_are_full_normalised_and_cover_an_epoch(root):
    source = imagenet(images_request(root))
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
    for images, labels in arrays(imagenet(images_request(root)).train(6, (3, 1))):
        for image, label in zip(images * STD + MEAN, labels):
            nearest = abs(expected - image).mean((1, 2, 3)).argmin()
            assert train[nearest].parent.name == CLASSES[int(label)]


def test_an_epoch_follows_from_its_seed_on_any_number_of_threads(root):
    def epoch(seed, threads=2):
        return joined(imagenet(images_request(root, augment=True, threads=threads)).train(8, seed))

    first = epoch((0, 1))
    for again in (epoch((0, 1)), epoch((0, 1), threads=1)):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    for other in (epoch((0, 2)), epoch((1, 1))):
        assert (first[1] != other[1]).any()


def test_augmentation_differs_by_epoch_and_by_image(tmp_path):
    """Nine copies of one photograph give nine different images."""
    content = encode(photograph(np.random.RandomState(0), 0, (120, 90)))
    for part in ("train", "val"):
        (tmp_path / part / "n0").mkdir(parents=True)
        for i in range(9):
            (tmp_path / part / "n0" / f"{i}.JPEG").write_bytes(content)
    for root in (tmp_path, to_records(tmp_path, tmp_path / "records")):
        augmented, plain = (
            imagenet(images_request(root, augment, classes=1)) for augment in (True, False)
        )
        epochs = [prints(augmented.train(9, (0, epoch))) for epoch in (1, 2)]
        assert len(set().union(*epochs)) == 18
        assert len(set(prints(plain.train(9, (0, 1))))) == 1


def test_batches_stay_the_same_when_more_are_read(root):
    source = imagenet(images_request(root, augment=True))
    kept = arrays(list(source.train(2, (0, 1))))
    for held, fresh in zip(kept, arrays(source.train(2, (0, 1)))):
        np.testing.assert_array_equal(held[0], fresh[0])


@pytest.mark.parametrize("batch_size", [7, 64])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_batches_of_a_folder(folder, workers, batch_size):
    joint = arrays(imagenet(images_request(folder, augment=True)).train(batch_size, (0, 1)))
    shards = [Shard(index, workers) for index in range(workers)]
    sources = [imagenet(images_request(folder, augment=True, shard=shard)) for shard in shards]
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
        source = imagenet(images_request(records, shard=shard))
        batches = list(source.train(batch_size, (0, 1)))
        own = shard.slice(rows)
        lengths = [len(images) for images, _ in batches]
        assert lengths == [own.stop - own.start] * source.train_batches(batch_size)
        seen += prints(batches)
    assert len(seen) == rows * source.train_batches(batch_size)
    assert len(set(seen)) >= len(seen) - workers


def test_a_worker_whose_part_is_short_reads_it_again(ten):
    """Ten records are cut into 4, 4 and 2; each of two batches of five takes 1, 2 and 2."""
    parts = [
        prints(imagenet(images_request(ten, classes=2, shard=Shard(index, 3))).train(5, (0, 1)))
        for index in range(3)
    ]
    assert [(len(part), len(set(part))) for part in parts] == [(2, 2), (4, 4), (4, 2)]
    assert len(set().union(*parts)) == 8


def test_records_too_few_to_share_are_read_by_every_worker(ten):
    """Ten records are cut into 3, 3, 3 and 1; the last worker needs three per batch of ten."""
    whole = prints(imagenet(images_request(ten, classes=2)).train(64, (0, 1)))
    parts = [
        prints(imagenet(images_request(ten, classes=2, shard=Shard(index, 4))).train(64, (0, 1)))
        for index in range(4)
    ]
    assert list(map(len, parts)) == [2, 3, 2, 3]
    assert [image for part in parts for image in part] == whole and len(set(whole)) == 10


def test_the_iterator_prints_nothing(records, capfd):
    source = imagenet(images_request(records, augment=True))
    assert prints(source.train(8, (0, 1))) and prints(source.validation(5))
    assert capfd.readouterr() == ("", "")


def test_epochs_of_records_free_their_memory(records):
    """A batch is 4 MB, and an epoch that is not read to its end keeps at least one."""
    source = imagenet(images_request(records, augment=True, size=224))

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
    batches = imagenet(images_request(folder, threads=3)).train(2, (0, 1))
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_records_are_preferred_to_folders_of_the_same_root(folder, records, tmp_path):
    root = shutil.copytree(folder, tmp_path / "both")
    for path in records.glob("val.*"):
        shutil.copy(path, root)
    found = prints(imagenet(images_request(root)).validation(5))
    assert found == prints(imagenet(images_request(records)).validation(5))
    assert found != prints(imagenet(images_request(folder)).validation(5))
