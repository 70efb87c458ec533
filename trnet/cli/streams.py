"""Output that ends no training: to a reader who left, a full disk, a closed or an ASCII stream."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class Lasting:
    """A text stream that becomes silent, and no error, when it can no longer be written to.

    Parameters
    ----------
    stream : TextIO
        Such as ``sys.stderr``, which may be a pipe that its reader leaves.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or nothing."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the file is closed
            self._silence()
            return len(text)

    def flush(self) -> None:
        """Flush what was written, if it can be."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._silence()

    def _silence(self) -> None:
        """Send this and all later output of the process to nowhere, MXNet's too."""
        if not self._stream.closed:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def open_closed() -> None:
    """Open standard streams that the process was started without.

    Else the next file would get their number, and MXNet's messages would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # on an ASCII terminal, not an error


def let_last() -> None:
    """Make both output streams of the process :class:`Lasting`."""
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
