"""Heartbeat: every process of a distributed training notices when another one is lost.

MXNet itself waits forever for a process that died. So every server and worker (a member) keeps a
TCP connection to the scheduler (the monitor). Messages are lines of text, a verb and its text:

- ``hello NONCE`` is the monitor's first message, of random digits;
- ``join NONCE PROOF WHO`` is a member's: the proof is an HMAC of both nonces by the job's secret;
- ``welcome PROOF`` is the monitor's answer, with a proof of its own;
- ``name WHO`` changes the member's name;
- ``beat`` comes from every member each few seconds, and the monitor answers with ``beat``;
- ``goodbye WHY`` comes from a process that ends; without a reason it has finished its work;
- ``end WHY`` comes from the monitor to all members: they end at once.

A member is lost if its connection closes without a goodbye, or if it stops beating. The monitor
then sends ``end`` to the others, and ends itself. Members watch the monitor in the same way. A
connection that does not prove in some seconds that it knows the secret is closed.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from trnet.errors import UserError

INTERVAL = 5.0  # seconds between beats
TIMEOUT = 30.0  # seconds without a beat after which a process is lost: several beats may be late
JOIN_TIMEOUT = 60.0  # seconds in which all processes should have started
HELLO_TIMEOUT = 10.0  # seconds that a connection has to prove that it knows the secret
FIRST_BEAT = 120.0  # seconds after joining: a member may be in a long import
GRACE_PERIOD = 5.0  # seconds that members have to end before the scheduler does
_STRANGERS = 64  # connections at a time that have not proved anything yet
_LONGEST = 4096  # bytes of a message: strangers may connect, too

_NOT_OURS = (
    "the secret of this job is another one: give all its processes the same TRNET_SECRET, or "
    "--runs on a folder that they share"
)
_LOST = "was lost; all others end; run the same command to resume after the last complete epoch"


def end_process(why: str) -> None:
    """End this process at once: MXNet's threads wait for the lost process and cannot be joined."""
    try:
        tqdm.write(f"error: {why}\n", file=sys.stderr, end="")
        sys.stderr.flush()
    finally:
        os._exit(1)


class Monitor:
    """The scheduler's side: knows all members, and ends them when one is lost.

    Parameters
    ----------
    address : tuple of str and int
        Where to listen; an empty host means every interface.
    expected : int
        The number of members; further ones belong to another training, and are refused.
    secret : str
        Of the job; members prove that they know it.
    end : callable
        Ends the process, for a reason.
    """

    def __init__(
        self,
        address: tuple[str, int],
        expected: int,
        secret: str,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._expected, self._secret, self._end = expected, secret, end
        self._members: dict[_Connection, str] = {}
        self._n_joined = 0
        self._ending = False
        self._lock = threading.Lock()
        self._strangers = threading.BoundedSemaphore(_STRANGERS)
        self._listener = socket.create_server(address)
        _start_thread(self._accept)
        _start_thread(self._warn_if_incomplete)

    def leave(self, why: str = "") -> None:
        """Tell the members that the scheduler ends: for a reason, or because it has finished."""
        if why:
            self._broadcast("end", f"the scheduler ({socket.gethostname()}) ended: {why}")
        else:
            self._broadcast("goodbye")

    def _accept(self) -> None:
        while True:
            self._strangers.acquire()
            try:
                connected, _ = self._listener.accept()
                _start_thread(self._serve, _Connection(connected))
            except (OSError, RuntimeError):  # too many files or threads, until strangers are gone
                self._strangers.release()
                time.sleep(0.1)

    def _serve(self, connection: _Connection) -> None:
        # The time is that of all its messages: a stranger may send a byte now and then.
        watch = threading.Timer(HELLO_TIMEOUT, connection.shut_down)
        watch.start()
        is_member = False
        with suppress(OSError):  # it closed or timed out
            is_member = self._admits(connection)
        watch.cancel()
        self._strangers.release()
        with suppress(OSError):  # the last lines here handle it
            if is_member:
                self._follow(connection)
        self._remove(connection, _LOST)
        connection.close()

    def _admits(self, connection: _Connection) -> bool:
        """Let a connection join, if it knows the secret and a member is missing."""
        connection.set_timeout(HELLO_TIMEOUT)
        own = secrets.token_hex(16)
        connection.send("hello", own)
        verb, text = connection.receive()
        nonce, proof, name = (*text.split(" ", 2), "", "", "")[:3]
        if verb != "join":
            return False
        if not hmac.compare_digest(proof.encode(), _proof(self._secret, "join", own, nonce)):
            connection.send("end", _NOT_OURS)
            return False
        with self._lock:
            if self._n_joined == self._expected:
                connection.send("end", "this training already has all its servers and workers")
                return False
            self._n_joined += 1
            self._members[connection] = name
            connection.set_timeout(FIRST_BEAT)
            connection.send("welcome", _proof(self._secret, "welcome", own, nonce).decode())
        return True

    def _follow(self, connection: _Connection) -> None:
        while True:
            verb, text = connection.receive()
            if verb == "name":
                with self._lock:
                    if connection in self._members:
                        self._members[connection] = text
            elif verb == "beat":
                connection.set_timeout(TIMEOUT)
                connection.send("beat")
            elif verb == "goodbye":
                self._remove(connection, text and f"ended: {text}")

    def _remove(self, connection: _Connection, fate: str) -> None:
        """Remove a member; if it has not finished its work, end all others for its fate."""
        with self._lock:
            name = self._members.pop(connection, None)
        if name is None or not fate or not self._broadcast("end", f"{name} {fate}"):
            return
        deadline = time.monotonic() + GRACE_PERIOD
        while self._members and time.monotonic() < deadline:
            time.sleep(0.02)
        self._end(f"{name} {fate}")

    def _broadcast(self, verb: str, text: str = "") -> bool:
        """Send the last message to all members; False if a last message was sent before."""
        with self._lock:
            if self._ending:
                return False
            self._ending = True
            for connection in self._members:
                with suppress(OSError):  # this member has ended by itself
                    connection.send(verb, text)
        return True

    def _warn_if_incomplete(self) -> None:
        time.sleep(JOIN_TIMEOUT)
        if self._n_joined < self._expected and not self._ending:
            print(
                f"warning: {self._n_joined} of {self._expected} servers and workers have joined "
                f"after {JOIN_TIMEOUT:.0f} s; waiting for the others",
                file=sys.stderr,
            )


class Member:
    """A server's or a worker's side: beats, and ends the process when the monitor says so.

    Parameters
    ----------
    address : tuple of str and int
        Where the monitor listens. If nobody answers, the member warns and works without.
    name : str
    secret : str
        Of the job.
    end : callable
        Ends the process, for a reason.

    Attributes
    ----------
    host : str or None
        This machine's address on the way to the scheduler; None if nobody answered.

    Raises
    ------
    UserError
        If the scheduler belongs to another training, or has another secret.
    """

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        secret: str,
        end: Callable[[str], None] = end_process,
    ) -> None:
        self._scheduler, self._end = address[0], end
        self._left = False
        self._lock = threading.Lock()
        self._connection = _connect(address, name, secret)
        self.host = self._connection.host if self._connection else None
        if self._connection:
            _start_thread(self._listen)
            _start_thread(self._beat)

    def rename(self, name: str) -> None:
        """Change this member's name, which messages about it use."""
        self._send("name", name)

    def leave(self, why: str = "") -> None:
        """Tell the monitor that this member ends: for a reason, or because it has finished.

        From now on the monitor cannot end this process.
        """
        with self._lock:
            self._left = True
        self._send("goodbye", why)

    def _send(self, verb: str, text: str = "") -> None:
        if self._connection:
            with suppress(OSError):  # the thread that listens notices it
                self._connection.send(verb, text)

    def _listen(self) -> None:
        why = f"the scheduler ({self._scheduler}) {_LOST}"
        with suppress(OSError):  # the connection closed or timed out, for this reason
            while True:
                verb, text = self._connection.receive()
                if verb == "goodbye":
                    return
                if verb == "end":
                    why = text
                    break
                self._connection.set_timeout(TIMEOUT)
        with self._lock:
            if not self._left:
                self._end(why)

    def _beat(self) -> None:
        while not self._left:
            time.sleep(INTERVAL)
            self._send("beat")


class _Connection:
    """A socket that carries messages: lines of a verb and its text."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._reader = connected, connected.makefile("rb")
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._socket.getsockname()[0]

    def set_timeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def send(self, verb: str, text: str = "") -> None:
        with self._lock:
            self._socket.sendall(f"{verb} {' '.join(text.split())}\n".encode())

    def receive(self) -> tuple[str, str]:
        """Wait for the next message; raises an OSError if the connection closes or times out."""
        line = self._reader.readline(_LONGEST)
        if not line:
            raise ConnectionError
        text = "".join(c if c.isprintable() else "?" for c in line.decode(errors="replace").strip())
        verb, _, text = text.partition(" ")
        return verb, text

    def shut_down(self) -> None:
        """End what another thread waits for."""
        with suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


def _connect(address: tuple[str, int], name: str, secret: str) -> _Connection | None:
    """Join the monitor at an address; None if there is none."""
    deadline = time.monotonic() + JOIN_TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        with suppress(OSError):  # it has not started yet
            connection = _Connection(socket.create_connection(address, timeout=left))
            verb, its = connection.receive()
            if verb == "hello":
                own = secrets.token_hex(16)
                proof = _proof(secret, "join", its, own).decode()
                connection.send("join", f"{own} {proof} {name}")
                verb, text = connection.receive()
                expected = _proof(secret, "welcome", its, own)
                if verb == "welcome" and not hmac.compare_digest(text.encode(), expected):
                    verb, text = "end", _NOT_OURS
                if verb == "welcome":
                    connection.set_timeout(FIRST_BEAT)
                    return connection
                if verb == "end":
                    connection.close()
                    advice = "" if text == _NOT_OURS else "; use another DMLC_PS_ROOT_PORT"
                    raise UserError(f"{address[0]}: {text}{advice}")
            connection.close()
        time.sleep(0.2)
    print(
        f"warning: no trnet scheduler answers at {address[0]}:{address[1]}, so this process will "
        "not notice when another one is lost",
        file=sys.stderr,
    )
    return None


def _proof(secret: str, verb: str, *nonces: str) -> bytes:
    """Hexadecimal digits that only those who know the secret can give for these nonces."""
    message = " ".join((verb, *nonces)).encode()
    return hmac.new(secret.encode(), message, "sha256").hexdigest().encode()


def _start_thread(function: Callable, *arguments) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()
