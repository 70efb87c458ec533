"""Devices by name, and batches that are split over them."""

import mxnet as mx
import numpy as np
import pytest

from trnet.errors import UserError
from trnet.training.devices import Compute, parse_devices


def test_a_batch_splits_unevenly_and_loses_nothing():
    contexts = [mx.cpu(i) for i in range(4)]
    for size in (1, 3, 4, 7, 10):
        parts = Compute(contexts).split(mx.nd.arange(size))
        assert np.concatenate([part.asnumpy() for part in parts]).tolist() == list(range(size))
        assert [part.context for part in parts] == contexts[: len(parts)]


@pytest.mark.parametrize(
    "text, expected",
    [("cpu", [mx.cpu()]), ("cpu:0,2", [mx.cpu(0), mx.cpu(2)]), ("gpu:1,0", [mx.gpu(1), mx.gpu(0)])],
)
def test_devices_by_name(text, expected, monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    assert parse_devices(text) == expected


def test_auto_is_every_gpu_or_the_cpu(monkeypatch):
    for n_gpus, expected in ((0, [mx.cpu()]), (2, [mx.gpu(0), mx.gpu(1)])):
        monkeypatch.setattr(mx.context, "num_gpus", lambda n_gpus=n_gpus: n_gpus)
        assert parse_devices("auto") == expected


@pytest.mark.parametrize(
    "text, said",
    [
        ("tpu", r"expected auto, cpu, cpu:0,1 or gpu:0,1,2,3, got 'tpu'"),
        ("cpu:", r"expected auto, .*, got 'cpu:'"),
        ("cpu:0,0", r"expected each device once, got 'cpu:0,0'"),
        ("gpu:1", r"expected GPUs of this machine, on which MXNet sees 1, got 'gpu:1'"),
    ],
)
def test_devices_that_are_refused(text, said, monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 1)
    with pytest.raises(UserError, match=rf"^--devices: {said}$"):
        parse_devices(text)


def test_a_driver_that_fails_is_named(monkeypatch):
    def fail():
        raise mx.MXNetError("trace\nno driver")

    monkeypatch.setattr(mx.context, "num_gpus", fail)
    with pytest.raises(UserError, match=r"cannot count the GPUs \(no driver\); use --devices cpu$"):
        parse_devices("auto")


def test_numbers_of_devices_are_bounded():
    """MXNet allocates an array of all devices up to the last: without end."""
    with pytest.raises(UserError, match="--devices: expected numbers up to 255, got 'cpu:2147483"):
        parse_devices("cpu:2147483647")
