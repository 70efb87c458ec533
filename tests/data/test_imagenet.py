"""ImageNet's batches, from records and from folders: their images, order, shards, memory."""

import shutil
import threading
from pathlib import Path

import mxnet as mx
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


def test_validation_is_the_centre_crop(folder, validation_by_hand):
    images, labels = joined(imagenet(images_request(folder)).validation(5))
    assert images.dtype == labels.dtype == np.float32
    errors = abs(images * STD + MEAN - validation_by_hand[0])
    assert errors.max() < 1.01 and errors.mean() < 0.01  # of 255, from rounding
    np.testing.assert_array_equal(labels, validation_by_hand[1])


@pytest.mark.parametrize("augment", [False, True])
def test_records_give_the_images_of_the_folder_in_their_own_order(folder, records, augment):
    files, packed = (imagenet(images_request(root, augment)) for root in (folder, records))
    assert sorted(prints(files.validation(5))) == sorted(prints(packed.validation(7)))
    assert prints(files.validation(5)) != prints(packed.validation(5))
    assert len(set(prints(packed.train(6, (0, 1))))) == 24


def test_records_of_mxnets_own_tools_are_read(folder, tmp_path):
    """Without checksums, a note and names of classes, and with keys of their own."""
    for part in ("train", "val"):
        writer = mx.recordio.MXIndexedRecordIO(
            str(tmp_path / f"{part}.idx"), str(tmp_path / f"{part}.rec"), "w"
        )
        for i, path in enumerate(sorted((folder / part).glob("*/*"))):
            header = mx.recordio.IRHeader(0, CLASSES.index(path.parent.name), i, 0)
            writer.write_idx(3 * i, mx.recordio.pack(header, path.read_bytes()))
        writer.close()
    own, files = (imagenet(images_request(root, augment=True)) for root in (tmp_path, folder))
    assert prints(own.validation(5)) == prints(files.validation(5))
    assert prints(own.train(5, (0, 1))) == prints(files.train(5, (0, 1)))


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
        prints(imagenet(images_request(ten, classes=2, shard=Shard(index, 5))).validation(2))
        for index in range(5)
    ]
    assert sorted(map(len, shares)) == [0, 1, 1, 1, 1]
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
def test_workers_share_the_batches(root, workers, batch_size):
    joint = arrays(imagenet(images_request(root, augment=True)).train(batch_size, (0, 1)))
    shards = [Shard(index, workers) for index in range(workers)]
    sources = [imagenet(images_request(root, augment=True, shard=shard)) for shard in shards]
    parts = [arrays(source.train(batch_size, (0, 1))) for source in sources]
    assert {len(part) for part in parts} == {len(joint)}
    for step, whole in enumerate(joint):
        for i in (0, 1):
            together = np.concatenate([part[step][i] for part in parts])
            np.testing.assert_array_equal(together, whole[i])


def test_nothing_is_printed(root, capfd):
    source = imagenet(images_request(root, augment=True))
    assert prints(source.train(8, (0, 1))) and prints(source.validation(5))
    assert capfd.readouterr() == ("", "")


def test_epochs_free_their_memory(root):
    """A batch is 4 MB, and an epoch that is not read to its end keeps at least one."""
    source = imagenet(images_request(root, augment=True, size=224))

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


def test_an_abandoned_epoch_leaves_no_thread(root):
    before = threading.active_count()
    batches = imagenet(images_request(root, threads=3)).train(2, (0, 1))
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
