"""MXNet, and TensorLy's MXNet backend beside it.

Every module of trnet takes ``mx`` from here, so that a missing or broken MXNet is explained once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from trnet.errors import MissingStack
from trnet.tensor import cuda

SUPPORTED_PYTHONS = ((3, 9), (3, 10), (3, 11))


def _explain(error: Exception) -> str:
    """One line on why ``import mxnet`` failed and what would make it work."""
    if sys.version_info[:2] not in SUPPORTED_PYTHONS:
        found = ".".join(map(str, sys.version_info[:3]))
        return f"trnet needs Python 3.9, 3.10 or 3.11, because MXNet 1.9.1 does; this is {found}"
    reason = str(error).strip().partition("\n")[0]
    if "libgomp" in reason:
        return f"MXNet needs the system's libgomp.so.1 (Debian: apt-get install libgomp1): {reason}"
    if isinstance(error, AttributeError):
        return f"MXNet 1.9.1 needs numpy<1.24 (pip install 'numpy==1.23.5'): {reason}"
    return cuda.explain(reason) or (
        "trnet needs MXNet 1.9.1 (pip install 'trnet[cpu]' or 'mxnet==1.9.1', with a GPU"
        f" 'trnet[cu112]'): {reason}"
    )


def _check_surroundings() -> None:
    """Refuse what MXNet cannot be imported with, or would abort the process for."""
    if sys.flags.optimize > 1:
        raise MissingStack("MXNet needs docstrings, which python -OO leaves out; use python -O")
    for name in ("OMP_NUM_THREADS", "MXNET_CPU_WORKER_NTHREADS"):
        text = os.environ.get(name)
        if text is not None and not (text.isdecimal() and 0 < int(text) < 2**15):
            raise MissingStack(f"{name}: expected a number of threads ≥ 1, got {text!r}")


try:
    _check_surroundings()
    cuda.preload()
    import mxnet as mx
    from mxnet.util import is_np_array, is_np_shape
except MissingStack:
    raise
except (ImportError, OSError, AttributeError) as error:
    raise MissingStack(_explain(error)) from error

__all__ = ["MissingStack", "as_numpy", "is_np_array", "mx", "tensorly_scope"]


class _OnCPU:
    """An MXNet array as NumPy's ``from_dlpack`` takes it."""

    def __init__(self, array: mx.nd.NDArray) -> None:
        self._array = array

    def __dlpack__(self, stream=None):
        return mx.nd.to_dlpack_for_read(self._array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # DLPack's CPU, of which there is one


def as_numpy(array: mx.nd.NDArray) -> np.ndarray:
    """The values of an MXNet array; on a CPU without a copy, which a large weight has no room for.

    Not to be written to.
    """
    array = array.as_nd_ndarray().as_in_context(mx.cpu())
    try:
        return np.from_dlpack(_OnCPU(array))
    except mx.base.MXNetError:  # an output of oneDNN, in a layout of its own
        return array.asnumpy()


@contextmanager
def tensorly_scope(backend: str = "mxnet") -> Iterator:
    """TensorLy on its MXNet backend, with NumPy semantics inside and the caller's outside.

    Loading that backend calls ``npx.set_np()`` for the whole process, under which legacy Gluon
    networks fail; and outside NumPy semantics TensorLy's own functions do. Hence this scope. The
    backend is set for the running thread only, and given back.

    Parameters
    ----------
    backend : {"mxnet", "numpy"}

    Yields
    ------
    module
        ``tensorly``.
    """
    import tensorly as tl

    array, shape = is_np_array(), is_np_shape()
    previous = tl.get_backend()
    try:
        tl.set_backend(backend, local_threadsafe=True)
    finally:
        mx.npx.set_np(shape=shape, array=array)
    try:
        with mx.util.np_shape(True), mx.util.np_array(True):
            yield tl
    finally:
        tl.set_backend(previous, local_threadsafe=True)
