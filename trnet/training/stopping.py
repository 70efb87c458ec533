"""Signals that end a training: after the step that is under way, and with a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Optional

from trnet.errors import Stopped

Handler = Callable[[int, Optional[FrameType]], None]

GRACE = 10.0  # seconds in which a training has to end, or to begin its checkpoint
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Stop:
    """Whether a signal has asked a training to stop; false until then.

    Attributes
    ----------
    signal : int or None
        The signal's number.
    saving : Lock
        Held while a checkpoint is being written.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.saving = threading.Lock()

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. A second Ctrl-C ends the process at once."""
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def stop_now(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal by an exception."""
    raise Stopped("stopped", number)


@contextmanager
def heard(handler: Handler | Stop, grace: float | None = None) -> Iterator[None]:
    """Let ``handler`` handle the signals that ask a process to end.

    One that the process was started to ignore, as by nohup, stays ignored.

    Parameters
    ----------
    handler : callable
        As :func:`signal.signal` takes it; with a grace, a :class:`Stop`.
    grace : float, optional
        Seconds after a signal in which this context has to be left; then the process is ended. A
        handler alone would wait for ever for MXNet to come back. A checkpoint that is being written
        is waited for: one of a large network takes longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    woken_before = signal.set_wakeup_fd(writing)
    left = threading.Event()
    if grace is not None:
        watch = threading.Thread(
            target=_end_after, args=(grace, reading, left, handler), daemon=True
        )
        watch.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(woken_before)
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
        os.close(writing)
        if grace is not None:
            watch.join()
        os.close(reading)


def _end_after(grace: float, reading: int, left: threading.Event, stop: Stop) -> None:
    """End the process some seconds after its first signal, unless it left its context before."""
    numbers = os.read(reading, 1)  # Python writes them from C, whatever the main thread does
    if not numbers or numbers[0] not in _SIGNALS:
        return
    while not left.wait(grace):
        if stop.saving.locked():
            with stop.saving:
                continue
        line = f"ended {grace:g} seconds after a signal; the same command resumes at a checkpoint"
        try:
            os.write(sys.stderr.fileno(), f"{line}\n".encode())
        finally:
            os._exit(128 + numbers[0])
