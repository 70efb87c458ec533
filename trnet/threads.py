"""Threads: how many there are to compute with.

MXNet and OpenMP read the environment when they are loaded. A library leaves it to its user, so only
commands set it, and those who start processes, for these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import joblib

# How often an OpenMP thread spins before it sleeps. By default it spins for milliseconds: beside
# another busy process, a product of 0.1 ms may wait 12 for the other thread's turn.
_SPIN_COUNT = "1000"


def cores() -> int:
    """Processors that this process may use, by its affinity and its container's quota."""
    return joblib.cpu_count()


def use_cores(share: int = 1) -> None:
    """Let MXNet compute with a share of the cores, unless the user chose a number of threads.

    Without it, MXNet takes half of the machine's. Threads that wait fall asleep early, unless the
    user chose how they wait. MXNet reads both when it is imported: of a process that has imported
    it, only the children are changed.

    Parameters
    ----------
    share : int
        Between how many processes the cores are divided.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // share)))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


@contextmanager
def cores_shared(share: int) -> Iterator[None]:
    """Let processes that start here compute with a share of the cores; see :func:`use_cores`."""
    ours = [name for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT") if name not in os.environ]
    use_cores(share)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def in_use() -> str:
    """The number of threads that MXNet computes with, as far as the environment says so."""
    return os.environ.get("OMP_NUM_THREADS", "MXNet's default")
