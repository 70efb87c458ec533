"""Data sets in memory: samples and holdout, batches, shards, augmentation."""

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from data.helpers import digits_request, labels

from trnet.data import WHOLE, Shard
from trnet.data.arrays import Part, from_arrays, shift_and_flip, warp
from trnet.errors import UserError


def make_numbered(shard=WHOLE, augment=False):
    """Ten images of 2×2, each filled with its label; 23 of them for validation."""
    images = np.arange(10, dtype="uint8")[:, None, None, None] * np.ones((1, 1, 2, 2), "uint8")
    many = np.arange(23) % 10
    return from_arrays(
        digits_request(augment=augment, shard=shard),
        Part(images, np.arange(10)),
        Part(images[many], many),
        mean=[0.0],
        std=[1 / 255],
        augmentation=shift_and_flip,
    )


@pytest.fixture
def numbered():
    return make_numbered()


def numbers(**changes):
    """The training and the validation images of a request, as their sorted numbers."""
    images = np.arange(60, dtype="uint8")[:, None, None, None] * np.ones((1, 1, 2, 2), "uint8")
    scored = Part(images[:7] + 100, np.zeros(7, int))
    request = replace(digits_request(augment=False), **changes)
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


def test_samples_have_the_classes_evenly_and_follow_from_the_seed():
    first, tested = numbers(samples=9, seed=1)
    assert tested == SCORED and len(set(first)) == 9
    assert np.bincount(np.array(first) % 3).tolist() == [3, 3, 3]
    assert numbers(samples=9, seed=1)[0] == first != numbers(samples=9, seed=2)[0]
    assert sorted(np.bincount(np.array(numbers(samples=10, seed=1)[0]) % 3)) == [3, 3, 4]
    assert set(first) < set(numbers(samples=30, seed=1)[0])
    assert numbers(samples=60)[0] == list(range(60))


def test_the_holdout_is_scored_and_not_trained_on():
    trained, tested = numbers(holdout=0.2, seed=1)
    assert sorted(trained + tested) == list(range(60)) and len(tested) == 12
    assert np.bincount(np.array(tested) % 3).tolist() == [4, 4, 4]
    assert numbers(holdout=0.2, seed=2)[1] != tested


def test_a_repeated_epoch_takes_passes_in_other_orders(numbered):
    repeated = numbered.repeated(3)
    assert (repeated.train_batches(4), repeated.train_batches(64)) == (6, 3)
    assert (repeated.train_size, repeated.validation_size) == (10, 23)
    taken = [label for epoch in (1, 2) for label in labels(repeated.train(4, (0, epoch)))]
    passes = [labels(numbered.train(4, (0, number))) for number in range(3, 9)]
    assert taken == [label for each in passes for label in each]
    assert len(set(map(tuple, passes))) == len(passes)
    twice = numbered.repeated(2).repeated(3)
    assert twice.train_batches(4) == len([*twice.train(4, (0, 1))]) == 12


def test_samples_are_drawn_before_the_holdout():
    trained, tested = numbers(samples=12, holdout=0.25, seed=1)
    assert (len(trained), len(tested)) == (9, 3)
    assert sorted(trained + tested) == numbers(samples=12, seed=1)[0]


@pytest.mark.parametrize(
    "changes, said", [({"samples": 61}, "at most 60, "), ({"samples": 3, "holdout": 0.1}, "0 of 3")]
)
def test_impossible_parts_are_refused(changes, said):
    with pytest.raises(UserError, match=rf"^dataset\.[^\n]*{said}[^\n]*$"):
        numbers(**changes)


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


def test_evaluation_sees_every_image_once_and_training_full_batches(numbered):
    sizes = [len(images) for images, _ in numbered.validation(5)]
    assert sizes == [5, 5, 5, 5, 3]
    assert labels(numbered.validation(5)) == [i % 10 for i in range(23)]
    assert [len(images) for images, _ in numbered.train(4, (0,))] == [4, 4]
    assert sorted(labels(numbered.train(5, (0,)))) == list(range(10))
    assert numbered.train_batches(4) == 2


def test_images_augmented_at_once_are_those_of_their_batches(numbered, monkeypatch):
    """For any number of them, every image comes once, with its label, in the seed's order."""
    whole = list(numbered.train(3, (0, 1)))
    for chunk in (1, 3, 7):
        monkeypatch.setattr("trnet.data.arrays._CHUNK", chunk)
        parts = list(numbered.train(3, (0, 1)))
        assert len(parts) == len(whole)
        for (images, own), (others, names) in zip(parts, whole):
            assert np.array_equal(own.asnumpy(), names.asnumpy())
            assert np.array_equal(images.asnumpy(), others.asnumpy())


def test_a_batch_larger_than_the_data_is_all_of_them(numbered):
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
    """A generator whose uniform draws lie at a fixed share of their range."""

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
