"""Roll call: the processes of a training over several machines learn of each other's end.

MXNet waits for ever for a process that died. So every server and worker keeps a connection to the
scheduler, of lines of text, each a verb and what it is about:

- ``name WHO``: a member, at first, and again when it knows its name better;
- ``welcome``: the answer to the first;
- ``beat``: from a member every few seconds, and the answer to it;
- ``goodbye WHY``: from one that ends, without a reason where it ends well;
- ``end WHY``: to the members, who end then.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from trnet.errors import UserError

PATIENCE = 60.0  # seconds in which a scheduler, and its members, should have come
SILENCE = 30.0  # seconds behind which whoever used to beat is lost
BEAT = 5.0  # seconds between beats
LAST_WORDS = 5.0  # seconds that members have to end before the scheduler does
_LONGEST = 4096  # bytes of a line: strangers may connect, too

_LOST = "was lost; all others end, and the same command goes on behind the last whole epoch"


def end_process(why: str) -> None:
    """End this process at once: MXNet's threads wait for whoever was lost and cannot be joined."""
    try:
        tqdm.write(f"error: {why}\n", file=sys.stderr, end="")
        sys.stderr.flush()
    finally:
        os._exit(1)


class RollCall:
    """The scheduler's side: knows the members, and tells all of them when one is missing.

    Parameters
    ----------
    address : tuple of str and int
        Where to listen; an empty host is every interface.
    expected : int
        Members of the training; further ones are another training's, and sent away.
    end : callable
        Ends the process, for a reason.
    """

    def __init__(
        self, address: tuple[str, int], expected: int, end: Callable[[str], None] = end_process
    ) -> None:
        self._expected, self._end = expected, end
        self._members: dict[_Line, str] = {}
        self._n_come = 0
        self._ending = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(address)
        _in_background(self._accept)
        _in_background(self._remind)

    def leave(self, why: str = "") -> None:
        """Tell the members that the scheduler ends, for a reason or well."""
        if why:
            self._tell_all("end", f"the scheduler ({socket.gethostname()}) ended: {why}")
        else:
            self._tell_all("goodbye")

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            _in_background(self._attend, _Line(connection))

    def _attend(self, line: _Line) -> None:
        with suppress(OSError):  # its end or its silence, of which the last line here tells all
            while True:
                verb, text = line.receive()
                if verb == "name":
                    self._enrol(line, text)
                elif verb == "beat":
                    line.limit_silence(SILENCE)
                    line.send("beat")
                elif verb == "goodbye":
                    self._dismiss(line, text and f"ended: {text}")
        self._dismiss(line, _LOST)
        line.close()

    def _enrol(self, line: _Line, name: str) -> None:
        with self._lock:
            if line not in self._members:
                if self._n_come == self._expected:
                    line.send("end", "the scheduler's training has all its servers and workers")
                    return
                self._n_come += 1
                line.send("welcome")
            self._members[line] = name

    def _dismiss(self, line: _Line, fate: str) -> None:
        """Strike a member off the roll, and end all others where it did not end well."""
        with self._lock:
            name = self._members.pop(line, None)
        if name is None or not fate or not self._tell_all("end", f"{name} {fate}"):
            return
        deadline = time.monotonic() + LAST_WORDS
        while self._members and time.monotonic() < deadline:
            time.sleep(0.02)
        self._end(f"{name} {fate}")

    def _tell_all(self, verb: str, text: str = "") -> bool:
        """Say the last that is said to the members; False where that was said already."""
        with self._lock:
            if self._ending:
                return False
            self._ending = True
            for line in self._members:
                with suppress(OSError):  # it has ended by itself
                    line.send(verb, text)
        return True

    def _remind(self) -> None:
        time.sleep(PATIENCE)
        if self._n_come < self._expected and not self._ending:
            print(
                f"warning: {self._n_come} of {self._expected} servers and workers are here behind "
                f"{PATIENCE:.0f} s; the others are waited for",
                file=sys.stderr,
            )


class Member:
    """A server's or a worker's side: stays on the roll, and ends the process when it is told to.

    Parameters
    ----------
    address : tuple of str and int
        Where the scheduler listens. Where nobody does, the member says so and is alone.
    name : str
    end : callable
        Ends the process, for a reason.

    Attributes
    ----------
    host : str or None
        This machine's address on the way to the scheduler.

    Raises
    ------
    UserError
        Where the scheduler is another training's.
    """

    def __init__(
        self, address: tuple[str, int], name: str, end: Callable[[str], None] = end_process
    ) -> None:
        self._scheduler, self._end = address[0], end
        self._left = False
        self._lock = threading.Lock()
        self._line = _answered(address, name)
        self.host = self._line.host if self._line else None
        if self._line:
            _in_background(self._listen)
            _in_background(self._beat)

    def rename(self, name: str) -> None:
        """Be known by another name from now on."""
        self._send("name", name)

    def leave(self, why: str = "") -> None:
        """Tell the scheduler that this member ends, for a reason or well; nobody ends it then."""
        with self._lock:
            self._left = True
        self._send("goodbye", why)

    def _send(self, verb: str, text: str = "") -> None:
        if self._line:
            with suppress(OSError):  # the listener notices
                self._line.send(verb, text)

    def _listen(self) -> None:
        why = f"the scheduler ({self._scheduler}) {_LOST}"
        with suppress(OSError):  # the scheduler's end or silence, for which the reason is set
            while True:
                verb, text = self._line.receive()
                if verb == "goodbye":
                    return
                if verb == "end":
                    why = text
                    break
                self._line.limit_silence(SILENCE)
        with self._lock:
            if not self._left:
                self._end(why)

    def _beat(self) -> None:
        while not self._left:
            time.sleep(BEAT)
            self._send("beat")


class _Line:
    """A connection of lines, each a verb and what it is about."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._reader = connection, connection.makefile("rb")
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._connection.getsockname()[0]

    def limit_silence(self, seconds: float | None) -> None:
        self._connection.settimeout(seconds)

    def send(self, verb: str, text: str = "") -> None:
        with self._lock:
            self._connection.sendall(f"{verb} {' '.join(text.split())}\n".encode())

    def receive(self) -> tuple[str, str]:
        """The next line; an OSError where the connection has ended or is silent for too long."""
        line = self._reader.readline(_LONGEST)
        if not line:
            raise ConnectionError
        verb, _, text = line.decode(errors="replace").strip().partition(" ")
        return verb, text

    def close(self) -> None:
        self._reader.close()
        self._connection.close()


def _answered(address: tuple[str, int], name: str) -> _Line | None:
    """A connection on which a scheduler has welcomed this member, or None where there is none."""
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        with suppress(OSError):  # it is not there yet
            line = _Line(socket.create_connection(address, timeout=left))
            line.send("name", name)
            verb, text = line.receive()
            if verb == "welcome":
                line.limit_silence(None)
                return line
            line.close()
            if verb == "end":
                raise UserError(f"{address[0]}: {text}; another DMLC_PS_ROOT_PORT would fit")
        time.sleep(0.2)
    print(
        f"warning: no scheduler of trnet's answers on {address[0]}:{address[1]}, so a process that "
        "is lost will not be noticed",
        file=sys.stderr,
    )
    return None


def _in_background(function: Callable, *arguments) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()
