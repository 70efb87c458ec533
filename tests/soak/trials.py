"""One trial: a command in a forked process, what it left, and whether that is what it should be."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trnet.cli import main

TIMEOUT = 120.0  # seconds after which a process hangs


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    code : int or None
        Its exit code, or minus the signal that killed it; None if it hung and was killed.
    said : str
        On standard output and standard error.
    """

    code: int | None
    said: str

    @property
    def fault(self) -> str | None:
        """What no process may do: hang, crash, or show a traceback."""
        if self.code is None:
            return "hang"
        if self.code < 0 and self.code != -signal.SIGKILL:
            return "crash"
        return "traceback" if "Traceback" in self.said else None

    @property
    def is_expected(self) -> bool:
        """Whether it succeeded, was killed, or ended by one line that names a file."""
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        is_named = len(lines) == 1 and "standard output" not in lines[0]
        return self.code in (0, -signal.SIGKILL) or (self.code == 2 and is_named)


@dataclass
class Tally:
    """How trials of one kind ended.

    Attributes
    ----------
    what : str
    ends : Counter
        The number of trials by how they ended.
    wrong : list of str
        Each trial that ended as none may.
    """

    what: str
    ends: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def count(self, end: str, wrong: str | None = None) -> None:
        """Count a trial, and note what is wrong with it."""
        self.ends[end] += 1
        if wrong is not None:
            self.wrong.append(wrong)


def forked(
    work: Callable[[], None],
    timeout: float = TIMEOUT,
    kill_after: float | None = None,
) -> Ended:
    """Run a function in a process of its own, which is faster to start than a new Python.

    Parameters
    ----------
    work : callable
    timeout : float
        Seconds.
    kill_after : float, optional
        Seconds after which the process is killed by SIGKILL.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            _become(work, output.fileno())
        begun, code = time.monotonic(), None
        while code is None:
            done, status = os.waitpid(child, os.WNOHANG)
            passed = time.monotonic() - begun
            if done:
                code = os.waitstatus_to_exitcode(status)
            elif passed > min(timeout, kill_after or timeout):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                code = -signal.SIGKILL if kill_after else None
                break
            else:
                time.sleep(0.002)
        output.seek(0)
        return Ended(code, output.read())


def _become(work: Callable[[], None], output: int) -> None:
    """Do the work of a forked process, and end it as Python would."""
    code = 0
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def command(*arguments: str | Path) -> Callable[[], None]:
    """What the command line `trnet` does with these arguments."""
    return lambda: main([str(argument) for argument in arguments])
