"""Random images: as many as real ones, on every worker."""

import numpy as np
import pytest
from data.helpers import images_request, joined

from trnet.data import Request, Shard
from trnet.data.synthetic import synthetic
from trnet.errors import UserError


@pytest.mark.parametrize("workers", [1, 3])
def test_all_workers_together_get_all_images(workers):
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
        UserError, match=r"^dataset\.root: expected null, as synthetic has no files, got 'here'$"
    ):
        synthetic(images_request("here"))
