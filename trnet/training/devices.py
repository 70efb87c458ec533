"""Devices by name."""

from __future__ import annotations

import re

from trnet.errors import UserError
from trnet.tensor.backend import mx

_FORM = re.compile(r"(cpu|gpu)(?::(\d+(?:,\d+)*))?")


def parse_devices(text: str) -> list[mx.Context]:
    """Contexts from ``auto``, ``cpu``, ``cpu:0,1`` or ``gpu:0,1,2,3``.

    ``auto`` is every GPU there is, or else the CPU.

    Raises
    ------
    UserError
        For another form, a device named twice, or a GPU that is not there.
    """
    if text == "auto":
        return [mx.gpu(i) for i in range(_count_gpus())] or [mx.cpu()]
    match = _FORM.fullmatch(text)
    if match is None:
        raise UserError(f"--devices: got {text!r}; auto, cpu, cpu:0,1 or gpu:0,1,2,3 would fit")
    kind, numbers = match.groups(default="0")
    indices = [int(number) for number in numbers.split(",")]
    if len(set(indices)) < len(indices):
        raise UserError(f"--devices: got {text!r}; each device once would fit")
    if kind == "gpu" and max(indices) >= (n_gpus := _count_gpus()):
        raise UserError(f"--devices: got {text!r}; MXNet sees {n_gpus} GPUs on this machine")
    return [mx.Context(kind, index) for index in indices]


def _count_gpus() -> int:
    try:
        return mx.context.num_gpus()
    except mx.MXNetError as error:  # a driver that is there and does not work
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"--devices: the GPUs cannot be asked for ({reason}); cpu would fit"
        ) from None
