"""A small ImageNet in folders and in records, made once for all tests of the data sets."""

import shutil
from pathlib import Path

import pytest
from data.helpers import to_records
from data.photographs import make_imagenet

from trnet.data.prepare import prepare


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """24 images for training and 12 for validation."""
    return make_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="session")
def records(folder, tmp_path_factory) -> Path:
    return to_records(folder, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="session")
def ten(tmp_path_factory) -> Path:
    """Records of 10 images for training and 4 for validation, in 2 classes."""
    folder = make_imagenet(tmp_path_factory.mktemp("few"), train=5, validation=2, classes=2)
    return to_records(folder, tmp_path_factory.mktemp("ten"))


@pytest.fixture(params=["folder", "records"])
def root(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """27 files in 4 classes, 3 of them broken."""
    return make_imagenet(tmp_path_factory.mktemp("imagenet"), broken=True) / "train"


@pytest.fixture(scope="session")
def whole(source, tmp_path_factory) -> Path:
    """What an uninterrupted preparation made of ``source``."""
    output = tmp_path_factory.mktemp("whole") / "train"
    prepare(source, output, jobs=2, show=False)
    return output


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole.parent, tmp_path / "copy")
    return tmp_path / "copy" / "train"
