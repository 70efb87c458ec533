"""Signals that end a training: after the step that is under way, and with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Optional

from trnet.errors import Stopped

Handler = Callable[[int, Optional[FrameType]], None]
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Stop:
    """Whether a signal has asked a training to stop; false until then.

    Attributes
    ----------
    signal : int or None
        The signal's number.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. A second Ctrl-C ends the process at once."""
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def heard(stop: Handler) -> Iterator[None]:
    """Let ``stop`` handle the signals that ask a process to end.

    One that the process was started to ignore, as by nohup, stays ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_now(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal by an exception."""
    raise Stopped("stopped", number)
