"""What has to happen before MXNet is imported, whoever imports it."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path

# MXNet imports these if they are there, which takes as long as most of its own import: for the base
# class of its FeedForward, and for the calibration of its quantisation. No command uses either.
_OPTIONAL_IMPORTS = ("sklearn", "scipy.stats")


class BeforeMXNet(MetaPathFinder):
    """Finds no module; it prepares for MXNet when that is looked for."""

    def __init__(self) -> None:
        self._has_begun = False  # it is asked again for where MXNet is

    def find_spec(self, name: str, path=None, target=None) -> None:
        """Load MXNet's OpenBLAS first; let commands import MXNet without what it takes along."""
        if name == "mxnet" and not self._has_begun:
            self._has_begun = True
            load_openblas()
        elif name in _OPTIONAL_IMPORTS and "TRNET_COMMAND" in os.environ and _is_importing_mxnet():
            raise ModuleNotFoundError(f"{name} is not imported with MXNet", name=name)


def load_openblas() -> None:
    """Load MXNet's OpenBLAS with kernels for AVX2, unless the user chose its kernels.

    It is of 2020, and has none for AVX-512. On a processor that it does not know, such as one that
    came later, it takes those for SSE3, with which a product takes twice as long. Other libraries
    have an OpenBLAS of their own.
    """
    spec = find_spec("mxnet")
    if (
        spec is None
        or spec.origin is None
        or "OPENBLAS_CORETYPE" in os.environ
        or not {"avx2", "fma"} <= _flags()
    ):
        return
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # it is read when the library is loaded
    try:
        with suppress(OSError):  # MXNet's own import says what is missing
            ctypes.CDLL(str(Path(spec.origin).with_name("libopenblas.so.0")))
    finally:
        del os.environ["OPENBLAS_CORETYPE"]


def _flags() -> set[str]:
    """What the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _is_importing_mxnet() -> bool:
    spec = getattr(sys.modules.get("mxnet"), "__spec__", None)
    return getattr(spec, "_initializing", False)
