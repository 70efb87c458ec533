"""CIFAR's binary files, read back from small ones in the same format."""

from pathlib import Path

import numpy as np
import pytest

from trnet.data import DATASETS, Request
from trnet.errors import UserError

NAMES = {
    "cifar10": ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]),
    "cifar100": (["train.bin"], ["test.bin"]),
}


def write(folder: Path, name: str, records_per_file: int = 4) -> dict:
    """Write files of random images whose labels count up; returns the images by file."""
    rng = np.random.default_rng(0)
    written, label = {}, 0
    train, test = NAMES[name]
    for file in [*train, *test]:
        images = rng.integers(0, 256, (records_per_file, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(label, label + records_per_file) % DATASETS[name].classes
        label += records_per_file
        columns = (
            [labels[:, None]] if name == "cifar10" else [labels[:, None] % 20, labels[:, None]]
        )
        columns = [column.astype(np.uint8) for column in columns]
        np.concatenate([*columns, images.reshape(len(images), -1)], 1).tofile(folder / file)
        written[file] = images
    return written


def load(name: str, root, augment: bool = False):
    dataset = DATASETS[name]
    return dataset.load(
        Request(None if root is None else str(root), augment, dataset.classes, dataset.shape)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_record_is_read(tmp_path, name):
    written = write(tmp_path, name)
    source = load(name, tmp_path)
    assert source.train_size == 4 * len(NAMES[name][0]) and source.validation_size == 4
    (images, labels), *rest = source.validation(10)
    assert not rest
    first = source.train_size % DATASETS[name].classes
    assert labels.asnumpy().tolist() == [(first + i) % DATASETS[name].classes for i in range(4)]
    pixels = written[NAMES[name][1][0]] / 255
    np.testing.assert_allclose(
        images.asnumpy().std((2, 3)) / pixels.std((2, 3)),
        np.tile(images.asnumpy().std((2, 3))[0] / pixels.std((2, 3))[0], (4, 1)),
        rtol=1e-4,
    )
    red = (pixels[0, 0] - {"cifar10": 0.4914, "cifar100": 0.5071}[name]) / {
        "cifar10": 0.2470,
        "cifar100": 0.2673,
    }[name]
    np.testing.assert_allclose(images[0, 0].asnumpy(), red, rtol=1e-4, atol=1e-5)
    trained = [int(label) for _, part in source.train(4, (0, 1)) for label in part.asnumpy()]
    expected = [i % DATASETS[name].classes for i in range(source.train_size)]
    assert sorted(trained) == sorted(expected)


def test_training_images_are_shifted_and_mirrored(tmp_path):
    write(tmp_path, "cifar10")
    plain, augmented = (
        next(load("cifar10", tmp_path, augment).train(20, (0, 1)))[0].asnumpy()
        for augment in (False, True)
    )
    assert plain.shape == augmented.shape and (plain != augmented).any((1, 2, 3)).sum() > 15


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named_with_where_to_get_them(tmp_path, name):
    archive = name.replace("cifar", "cifar-") + "-binary.tar.gz"
    with pytest.raises(UserError, match=rf"dataset\.root: expected .*{archive}, got none"):
        load(name, None)
    with pytest.raises(UserError, match=rf"expected .*{archive}, got no .*{NAMES[name][0][0]}"):
        load(name, tmp_path)


def test_a_torn_file_and_wrong_labels_are_named(tmp_path):
    write(tmp_path, "cifar10")
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        UserError, match=r"records of 3073 bytes in .*data_batch_3.bin, got 12291 bytes"
    ):
        load("cifar10", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"data_batch_3.bin, got 0 bytes"):
        load("cifar10", tmp_path)
    path.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(UserError, match=r"expected labels below 10 in .*, got 10$"):
        load("cifar10", tmp_path)
