"""The GPUs that the driver describes, and those that mxnet-cu112 has no machine code for."""

from __future__ import annotations

import ctypes
import re

import mxnet as mx
import pytest

from trnet import result
from trnet.errors import UserError
from trnet.tensor import cuda
from trnet.training.devices import parse_devices

AMPERE = cuda.GPU("NVIDIA RTX A6000", (8, 6))
HOPPER = cuda.GPU("NVIDIA H100", (9, 0))


class Driver:
    """Stands for libcuda and libnvidia-ml on a machine with some GPUs."""

    def __init__(self, *gpus: cuda.GPU, fails: bool = False) -> None:
        self.gpus, self.fails = gpus, fails

    def cuInit(self, flags):
        return 100 if self.fails else 0

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = self.gpus[device.value].name.encode()
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.gpus[device.value].capability[attribute - 75]
        return 0

    def nvmlInit_v2(self):
        return 0

    def nvmlSystemGetDriverVersion(self, version, size):
        version.value = b"580.1"
        return 0


@pytest.fixture
def install(monkeypatch):
    """Install a driver, and mxnet-cu112 as far as its name."""

    def install(driver: Driver) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
        monkeypatch.setattr(cuda, "_find", lambda package: package)
        monkeypatch.setattr(mx.context, "num_gpus", lambda: len(driver.gpus))

    return install


@pytest.mark.parametrize(
    "driver, said",
    [
        (Driver(fails=True), "the NVIDIA driver finds no GPU"),
        (Driver(), "the NVIDIA driver finds no GPU"),
        (Driver(HOPPER), "expected a GPU of compute capability 5.0 to 8.9, .*NVIDIA H100 with 9.0"),
    ],
)
def test_a_machine_without_a_suitable_gpu_is_named(driver, said, install, capsys):
    install(driver)
    with pytest.raises(SystemExit) as ended:
        cuda.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(said, line)


def test_suitable_gpus_are_listed(install, capsys):
    install(Driver(AMPERE, HOPPER))
    cuda.main()
    assert capsys.readouterr().out.splitlines() == [
        "NVIDIA RTX A6000, compute capability 8.6",
        "NVIDIA H100, compute capability 9.0",
    ]
    assert cuda.gpus() == [AMPERE, HOPPER] and cuda.driver_version() == "580.1"
    assert result.processor([mx.gpu(1), mx.gpu(0)]) == "NVIDIA H100, NVIDIA RTX A6000"


@pytest.mark.parametrize("capability, runs", [((3, 7), False), ((5, 0), True), ((8, 9), True)])
def test_machine_code_runs_on_later_minor_numbers(capability, runs):
    assert (cuda.refusal(cuda.GPU("a GPU", capability)) is None) == runs


def test_a_gpu_without_machine_code_is_no_device(install, monkeypatch):
    install(Driver(AMPERE, HOPPER))
    assert parse_devices("gpu:0") == [mx.gpu(0)]
    for text in ("gpu:1", "gpu:0,1", "auto"):
        with pytest.raises(UserError, match=r"^gpu\(1\): expected .*; use --devices cpu$"):
            parse_devices(text)
    monkeypatch.setattr(cuda, "_find", lambda package: None)  # an MXNet that was built for it
    assert parse_devices("gpu:1") == [mx.gpu(1)]
