"""The registry of data sets: one registered from outside, and what a config may set of each."""

from dataclasses import replace
from unittest import mock

import mxnet as mx
import numpy as np
import pytest

from trnet import config, experiment
from trnet.data import DATASETS, DataSet
from trnet.data.arrays import Part, from_arrays, shift_and_flip
from trnet.errors import ConfigError, UserError

MINE = """
name: mine
dataset: {name: mine}
model: {backbone: small_vgg2, head: {type: dense}}
train: {epochs: 1, batch_size: 20, learning_rate: 0.05, schedule: {type: cosine}}
"""


def stripes(request):
    """60 striped images for training and 20 for validation, labelled in turns."""
    if request.root == "nowhere":
        raise UserError("dataset.root: expected a folder, got 'nowhere'")
    images = np.tile(np.array([0, 255], "uint8"), (80, 3, 16, 8))
    train, validation = slice(60), slice(60, 80)
    parts = (Part(images[part], np.arange(80)[part] % 3) for part in (train, validation))
    return from_arrays(request, *parts, [0.5] * 3, [0.25] * 3, shift_and_flip)


def loaded(chosen):
    """The images of a config."""
    return experiment.load(chosen, experiment.find_dataset(chosen))


@pytest.fixture
def mine():
    """A data set that is registered as a plugin does it."""
    with mock.patch.dict(DATASETS):
        DATASETS["mine"] = DataSet(classes=3, shape=(3, 16, 16), load=stripes)
        yield DATASETS["mine"]


@pytest.fixture
def load(tmp_path):
    """The config of the registered data set, with overrides."""

    def load(*overrides):
        path = tmp_path / "mine.yaml"
        path.write_text(MINE)
        return config.load(path, overrides)

    return load


def test_a_config_reaches_a_data_set_registered_from_outside(mine, load):
    source = loaded(load("dataset.augment=false"))
    assert (source.train_size, source.validation_size) == (60, 20)
    images, labels = next(source.validation(20))
    assert images.shape == (20, 3, 16, 16) and labels.asnumpy().tolist() == [0, 1, 2] * 6 + [0, 1]
    assert set(images.asnumpy().ravel().tolist()) == {-2, 2}
    assert loaded(load("dataset.samples=30")).train_size == 30


def test_a_data_set_that_is_not_registered_is_refused(load):
    with pytest.raises(ConfigError, match=r"^[^\n]*dataset\.name: [^\n]*mnist[^\n]*'mine'"):
        loaded(load())


@pytest.mark.parametrize(
    "field, overrides",
    [
        ("takes_size", ["dataset.classes=5"]),
        ("takes_size", ["dataset.size=32"]),
        ("takes_samples", ["dataset.samples=9"]),
        ("takes_samples", ["dataset.holdout=0.5"]),
        ("takes_damaged", ["dataset.damaged=skip"]),
    ],
)
def test_a_config_may_set_what_a_data_set_takes(mine, load, field, overrides):
    """The fields of a data set are independent of one another."""
    chosen = load(*overrides)
    fields = ("takes_size", "takes_samples", "takes_damaged", "in_memory")
    nothing = dict.fromkeys(fields, False)
    DATASETS["mine"] = replace(mine, **{**nothing, field: True})
    found = experiment.find_dataset(chosen)
    assert found.classes == (chosen.dataset.classes or mine.classes)
    assert found.shape == (3, *[chosen.dataset.size or 16] * 2)
    DATASETS["mine"] = replace(mine, **{**dict.fromkeys(nothing, True), field: False})
    key = overrides[0].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^[^\n]*{key}: [^\n]*mine[^\n]*$"):
        experiment.find_dataset(chosen)


def test_only_data_sets_in_memory_are_loaded_to_check_them(mine, load):
    chosen = load("dataset.root=nowhere")
    with pytest.raises(UserError, match=r"/mine: dataset\.root: expected a folder"):
        experiment.check_data(chosen)
    DATASETS["mine"] = replace(mine, in_memory=False)
    experiment.check_data(chosen)


def test_what_the_data_sets_take():
    takes = {
        name: (dataset.takes_size, dataset.takes_samples, dataset.takes_damaged, dataset.in_memory)
        for name, dataset in DATASETS.items()
    }
    names = ("mnist", "fashion_mnist", "cifar10", "cifar100", "glyphs")
    small = dict.fromkeys(names, (False, True, False, True))
    assert takes == {
        **small,
        "imagenet": (True, False, True, False),
        "synthetic": (True, False, False, True),
    }


def test_a_config_repeats_what_is_trained_on_and_not_what_a_head_is_fitted_to(mine, load, tmp_path):
    chosen = load("dataset.repeat=2", "train.epochs=1")
    training = mock.patch("trnet.training.loop.train", side_effect=InterruptedError)
    with training as train, pytest.raises(InterruptedError):
        experiment.train(chosen, None, tmp_path, [mx.cpu()], show=False)
    assert train.call_args.args[1].passes == 2
    assert loaded(chosen).passes == 1
