"""Data sets: their splits, their batches, their augmentation, and what is said of broken files."""

import gzip
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from trnet.data import DATASETS, WHOLE, Request, Shard
from trnet.data.arrays import Part, from_arrays, shift_and_flip, warp
from trnet.data.digits import fashion_mnist
from trnet.errors import UserError


def wish(root=None, augment=True, shard=WHOLE) -> Request:
    return Request(root, augment, classes=10, shape=(1, 28, 28), shard=shard)


@pytest.fixture(scope="module")
def digits():
    return DATASETS["mnist"].load(wish())


def make_numbered(shard=WHOLE, augment=False):
    """Ten images of 2×2, each full of its label; 23 of them for validation."""
    images = np.arange(10, dtype="uint8")[:, None, None, None] * np.ones((1, 1, 2, 2), "uint8")
    many = np.arange(23) % 10
    return from_arrays(
        wish(augment=augment, shard=shard),
        Part(images, np.arange(10)),
        Part(images[many], many),
        mean=[0.0],
        std=[1 / 255],
        augmentation=shift_and_flip,
    )


@pytest.fixture
def numbered():
    return make_numbered()


def labels(batches) -> list:
    return [label for _, part in batches for label in part.asnumpy().astype(int)]


def ask(**changes):
    """The numbered images, some of them."""
    images = np.arange(60, dtype="uint8")[:, None, None, None] * np.ones((1, 1, 2, 2), "uint8")
    scored = Part(images[:7] + 100, np.zeros(7, int))
    request = replace(wish(augment=False), **changes)
    source = from_arrays(
        request, Part(images, np.arange(60) % 3), scored, [0.0], [1 / 255], shift_and_flip
    )
    size = source.train_size
    trained = [
        round(image.mean().asscalar()) for part, _ in source.train(size, (0, 1)) for image in part
    ]
    tested = [round(image.mean().asscalar()) for part, _ in source.validation(50) for image in part]
    return sorted(trained), sorted(tested)


SCORED = list(range(100, 107))


def test_samples_are_as_many_of_every_class_by_the_seed():
    first, tested = ask(samples=9, seed=1)
    assert tested == SCORED and len(set(first)) == 9
    assert np.bincount(np.array(first) % 3).tolist() == [3, 3, 3]
    assert ask(samples=9, seed=1)[0] == first != ask(samples=9, seed=2)[0]
    assert sorted(np.bincount(np.array(ask(samples=10, seed=1)[0]) % 3)) == [3, 3, 4]
    assert set(first) < set(ask(samples=30, seed=1)[0])
    assert ask(samples=60)[0] == list(range(60))


def test_what_is_held_out_is_scored_and_not_trained_on():
    trained, tested = ask(holdout=0.2, seed=1)
    assert sorted(trained + tested) == list(range(60)) and len(tested) == 12
    assert np.bincount(np.array(tested) % 3).tolist() == [4, 4, 4]
    assert ask(holdout=0.2, seed=2)[1] != tested


def test_samples_are_drawn_before_some_are_held_out():
    trained, tested = ask(samples=12, holdout=0.25, seed=1)
    assert (len(trained), len(tested)) == (9, 3)
    assert sorted(trained + tested) == ask(samples=12, seed=1)[0]


@pytest.mark.parametrize(
    "changes, said", [({"samples": 61}, "60 images"), ({"samples": 3, "holdout": 0.1}, "0 of 3")]
)
def test_parts_that_cannot_be_are_refused(changes, said):
    with pytest.raises(UserError, match=rf"^dataset\.[^\n]*{said}[^\n]*$"):
        ask(**changes)


def test_mnist_is_split_in_equal_classes(digits):
    assert (digits.train_size, digits.validation_size) == (4000, 1000)
    assert np.bincount(labels(digits.validation(300))).tolist() == [100] * 10
    assert np.bincount(labels(digits.train(400, (0, 1)))).tolist() == [400] * 10


@pytest.mark.parametrize("count", [2, 3])
def test_workers_share_every_batch_and_every_validation_image(count):
    shards = [make_numbered(Shard(i, count), augment=True) for i in range(count)]
    joint = list(make_numbered(augment=True).train(7, (0, 1)))
    for step, parts in enumerate(zip(*(shard.train(7, (0, 1)) for shard in shards))):
        for of_all, of_one in zip(joint[step], zip(*parts)):
            joined = np.concatenate([array.asnumpy() for array in of_one])
            np.testing.assert_array_equal(joined, of_all.asnumpy())
    scored = [label for shard in shards for label in labels(shard.validation(4))]
    assert sorted(scored) == sorted(np.arange(23) % 10)


def test_mnist_is_normalised():
    plain = DATASETS["mnist"].load(wish(augment=False))
    values = np.concatenate([images.asnumpy() for images, _ in plain.train(500, (0,))])
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01


def test_mnist_has_no_image_in_both_parts():
    plain = DATASETS["mnist"].load(wish(augment=False))
    parts = [plain.train(100, (0,)), plain.validation(100)]
    seen = [{row.tobytes() for x, _ in part for row in x.asnumpy()} for part in parts]
    assert not seen[0] & seen[1]


def test_an_epoch_follows_from_its_seed(digits):
    first, again, other = (next(digits.train(50, seed)) for seed in ((0, 1), (0, 1), (0, 2)))
    assert (first[0].asnumpy() == again[0].asnumpy()).all()
    assert (first[1].asnumpy() == again[1].asnumpy()).all()
    assert (first[1].asnumpy() != other[1].asnumpy()).any()


def test_evaluation_sees_every_image_once_and_training_full_batches(numbered):
    sizes = [len(images) for images, _ in numbered.validation(5)]
    assert sizes == [5, 5, 5, 5, 3]
    assert labels(numbered.validation(5)) == [i % 10 for i in range(23)]
    assert [len(images) for images, _ in numbered.train(4, (0,))] == [4, 4]
    assert sorted(labels(numbered.train(5, (0,)))) == list(range(10))
    assert numbered.train_batches(4) == 2


def test_images_augmented_at_once_are_those_of_their_batches(numbered, monkeypatch):
    """However many are: every image comes once, with its label, in the order of the seed."""
    whole = list(numbered.train(3, (0, 1)))
    for chunk in (1, 3, 7):
        monkeypatch.setattr("trnet.data.arrays._CHUNK", chunk)
        parts = list(numbered.train(3, (0, 1)))
        assert len(parts) == len(whole)
        for (images, labels), (others, names) in zip(parts, whole):
            assert np.array_equal(labels.asnumpy(), names.asnumpy())
            assert np.array_equal(images.asnumpy(), others.asnumpy())


def test_a_batch_above_the_data_is_the_data(numbered):
    assert numbered.train_batches(64) == 1
    assert sorted(labels(numbered.train(64, (3,)))) == list(range(10))


def test_images_stay_with_their_labels(numbered):
    for images, part in numbered.train(3, (7,)):
        np.testing.assert_allclose(images.asnumpy()[:, 0, 0, 0], part.asnumpy(), rtol=1e-6)


def test_warp_is_the_identity_without_range_and_small_with():
    images = mx.nd.random.uniform(shape=(4, 1, 12, 12))
    rng = np.random.default_rng(0)
    still = warp(images, rng, rotation=0, scale=0, shift=0, shear=0)
    np.testing.assert_allclose(still.asnumpy(), images.asnumpy(), atol=1e-5)
    quarter = warp(images, _Always(1.0), rotation=90, scale=0, shift=0, shear=0).asnumpy()
    turned = np.rot90(images.asnumpy(), axes=(2, 3))
    assert min(abs(quarter - turned).max(), abs(quarter - turned[:, :, ::-1, ::-1]).max()) < 1e-4


class _Always:
    """A generator whose uniform draws lie at a share of their range."""

    def __init__(self, share: float) -> None:
        self._share = share

    def uniform(self, low, high, size):
        return np.full(size, low + self._share * (high - low))


def test_shift_and_flip_moves_whole_pixels():
    images = np.random.rand(64, 1, 9, 9).astype("float32")
    moved = shift_and_flip(mx.nd.array(images), np.random.default_rng(0), pixels=1).asnumpy()
    inside = images[:, :, 2:7, 2:7]
    for before, after in zip(inside, moved):
        views = [after[:, r : r + 5, c : c + 5] for r in (1, 2, 3) for c in (1, 2, 3)]
        mirrored = [view[:, :, ::-1] for view in views]
        assert any(np.array_equal(before, view) for view in [*views, *mirrored])


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
    source = fashion_mnist(wish(str(idx), augment=False))
    assert (source.train_size, source.validation_size) == (6, 4)
    assert labels(source.validation(3)) == [0, 1, 2, 3]


def test_fashion_mnist_is_whole():
    """The real set, where Debian's dataset-fashion-mnist puts it; .ci/run installs it."""
    source = DATASETS["fashion_mnist"].load(wish())
    assert (source.train_size, source.validation_size) == (60000, 10000)
    assert np.bincount(labels(source.validation(1000))).tolist() == [1000] * 10


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot be read"),
        (lambda path: path.write_bytes(b"hello"), "cannot be read"),
        (lambda path: write_idx(path, np.zeros((6, 28), "uint8")), "not a whole IDX file"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0")), "not a whole IDX file"),
        (lambda path: write_idx(path, np.zeros((5, 28, 28), "uint8")), "5 train images and 6"),
        (lambda path: path.unlink(), "dataset-fashion-mnist"),
    ],
)
def test_damaged_idx_files_are_named(idx, damage, said):
    path = idx / "train-images-idx3-ubyte.gz"
    damage(path)
    with pytest.raises(UserError, match=r"^dataset\.root: [^\n]*$") as error:
        fashion_mnist(wish(str(idx)))
    assert said in str(error.value)
