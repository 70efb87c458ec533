"""What computes: devices by name, the floating-point type, and the workers of a training."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trnet.errors import UserError, lines_of
from trnet.tensor import cuda
from trnet.tensor.backend import mx
from trnet.training.distributed import ALONE, Workers

_FORM = re.compile(r"(cpu|gpu)(?::(\d+(?:,\d+)*))?")

_LAST_DEVICE = 255  # MXNet keeps an array of all up to the largest


@dataclass(frozen=True)
class Compute:
    """What a network is computed on, and in which type.

    Attributes
    ----------
    devices : list of Context
        This worker's devices; its part of every batch is split over them.
    dtype : {"float32", "float16"}
        The type of the network's parameters and activations.
    workers : Workers
        All that train the network together.
    """

    devices: list[mx.Context]
    dtype: str = "float32"
    workers: Workers = ALONE

    def split(self, array: mx.nd.NDArray) -> list[mx.nd.NDArray]:
        """Split a batch over the devices, one part each, even if it does not divide evenly."""
        used = self.devices[: len(array)]
        return mx.gluon.utils.split_and_load(array, used, even_split=False)


def parse_devices(text: str) -> list[mx.Context]:
    """Parse ``auto``, ``cpu``, ``cpu:0,1`` or ``gpu:0,1,2,3`` into contexts.

    ``auto`` is every GPU of the machine, or the CPU if it has none.

    Raises
    ------
    UserError
        For another form, a device named twice, or a GPU that does not exist or that MXNet has no
        code for.
    """
    if text == "auto":
        return _checked([mx.gpu(i) for i in range(_count_gpus())]) or [mx.cpu()]
    match = _FORM.fullmatch(text)
    if match is None:
        raise UserError(f"--devices: expected auto, cpu, cpu:0,1 or gpu:0,1,2,3, got {text!r}")
    kind, numbers = match.groups(default="0")
    indices = [int(number) for number in numbers.split(",")]
    if len(set(indices)) < len(indices):
        raise UserError(f"--devices: expected each device once, got {text!r}")
    if max(indices) > _LAST_DEVICE:
        raise UserError(f"--devices: expected numbers up to {_LAST_DEVICE}, got {text!r}")
    if kind == "gpu" and max(indices) >= (n_gpus := _count_gpus()):
        raise UserError(
            f"--devices: expected GPUs of this machine, on which MXNet sees {n_gpus}, got {text!r}"
        )
    return _checked([mx.Context(kind, index) for index in indices])


def _checked(contexts: list[mx.Context]) -> list[mx.Context]:
    for context in contexts:
        if context.device_type == "gpu":
            cuda.check(context.device_id)
    return contexts


def _count_gpus() -> int:
    try:
        return mx.context.num_gpus()
    except mx.MXNetError as error:  # the driver is installed but does not work
        reason = lines_of(error)[-1]
        raise UserError(
            f"--devices: MXNet cannot count the GPUs ({reason}); use --devices cpu"
        ) from None
