"""The heartbeat: who is missed, who is not, and what the others hear."""

from __future__ import annotations

import hashlib
import hmac
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from training.helpers import wait_for

from trnet.errors import UserError
from trnet.training import heartbeat
from trnet.training.heartbeat import Member, Monitor

SECRET = "between us"


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> None:
    """No monitor that outlives its test warns into another one."""
    monkeypatch.setattr(heartbeat, "JOIN_TIMEOUT", 3600.0)


def listening(port: int) -> Monitor:
    """A monitor of one member, which ends nothing."""
    return Monitor(("127.0.0.1", port), 1, SECRET, [].append)


def joined(port: int, secret: str = SECRET) -> Member:
    """A member of that training, which the monitor cannot end: it outlives its test."""
    return Member(("127.0.0.1", port), "worker 0", secret, [].append)


def join_message(connected: socket.socket, secret: str) -> bytes:
    """How a member that knows a secret answers the monitor's first message."""
    verb, nonce = connected.recv(100).split()
    assert verb == b"hello"
    return b"join 42 " + proof(secret, b"join", nonce)


def proof(secret: str, verb: bytes, nonce: bytes) -> bytes:
    digest = hmac.new(secret.encode(), verb + b" " + nonce + b" 42", hashlib.sha256)
    return digest.hexdigest().encode()


class Training:
    """A monitor with two members: a real one, and a plain socket that the test writes to."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.monitor_ends, self.member_ends = [], []
        self.monitor = Monitor(self.address, 2, SECRET, self.monitor_ends.append)
        self.member = Member(self.address, "worker 0 (here)", SECRET, self.member_ends.append)
        self.other = socket.create_connection(self.address, timeout=10)
        self.other.sendall(join_message(self.other, SECRET) + b" a worker (there)\n")
        assert self.other.recv(100).startswith(b"welcome ")

    def assert_all_end(self, why: str) -> None:
        wait_for(lambda: self.member_ends and self.monitor_ends, seconds=10)
        time.sleep(0.1)
        for ends in (self.member_ends, self.monitor_ends):
            assert len(ends) == 1 and ends[0].startswith(why)

    def assert_nobody_ends(self) -> None:
        time.sleep(0.3)
        assert self.member_ends == self.monitor_ends == []


@pytest.fixture
def training(port, monkeypatch) -> Training:
    monkeypatch.setattr(heartbeat, "GRACE_PERIOD", 0.1)
    return Training(port)


def test_the_monitor_misses_one_that_is_gone(training):
    training.other.sendall(b"name worker 1 (there)\n")
    training.other.close()
    training.assert_all_end("worker 1 (there) was lost; all others end")


def test_the_monitor_misses_one_that_is_silent(training, monkeypatch):
    monkeypatch.setattr(heartbeat, "TIMEOUT", 0.3)
    training.assert_nobody_ends()  # one that does not beat yet may be in a long import
    training.other.sendall(b"beat\n")
    training.assert_all_end("a worker (there) was lost; all others end")


def test_the_monitor_sends_the_others_why_one_ends(training):
    training.other.sendall(b"goodbye no images:\t/data\n")
    training.assert_all_end("a worker (there) ended: no images:")


def test_the_monitor_lets_one_leave_that_has_finished(training):
    training.other.sendall(b"goodbye\n")
    training.other.close()
    training.assert_nobody_ends()


def test_the_monitor_ignores_strangers(training):
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"goodbye cruel world\n", b"\xff" * 10_000):
        with socket.create_connection(training.address) as stranger:
            stranger.sendall(words)
    training.assert_nobody_ends()


def test_a_member_of_another_training_is_refused(training):
    said = (
        r"127\.0\.0\.1: .* already has all its servers and workers; use another DMLC_PS_ROOT_PORT"
    )
    with pytest.raises(UserError, match=said):
        Member(training.address, "a worker (astray)", SECRET)
    training.assert_nobody_ends()


def test_a_monitor_that_finishes_ends_nobody(training):
    training.monitor.leave()
    training.assert_nobody_ends()


def test_a_monitor_that_fails_says_why(training):
    training.monitor.leave("no MXNet here")
    wait_for(lambda: training.member_ends, seconds=10)
    assert training.member_ends == [f"the scheduler ({socket.gethostname()}) ended: no MXNet here"]


def test_a_member_that_left_is_not_ended(training):
    training.member.leave("its own reasons")
    wait_for(lambda: training.monitor_ends, seconds=10)
    assert training.member_ends == []


@pytest.mark.parametrize("words", [b"join", b"join 42 00 worker 0", b"name worker 0", b"beat"])
def test_a_stranger_is_not_heard(training, words):
    """Without the secret: not as a member, not under a member's name, and not when it leaves."""
    with socket.create_connection(training.address, timeout=10) as stranger:
        stranger.recv(100)
        stranger.sendall(words + b"\nbeat\nname worker 0 (here)\ngoodbye of worker 0\n")
        assert not stranger.recv(1000).startswith(b"welcome")
    training.assert_nobody_ends()


def test_a_proof_serves_one_connection_only(training):
    with socket.create_connection(training.address, timeout=10) as honest:
        message = join_message(honest, SECRET)
    with socket.create_connection(training.address, timeout=10) as replaying:
        replaying.recv(100)
        replaying.sendall(message + b" worker 0\n")
        assert replaying.recv(1000).startswith(b"end the secret of this job is another one")


def test_another_secret_is_refused_on_both_sides(port):
    listening(port)
    said = (
        r"127\.0\.0\.1: the secret of this job is another one: .* TRNET_SECRET, or --runs [^\n]*$"
    )
    with pytest.raises(UserError, match=said):
        joined(port, "not between us")
    assert joined(port).host == "127.0.0.1"


def test_a_monitor_that_cannot_prove_itself_is_refused(port):
    with socket.create_server(("127.0.0.1", port)) as listener, ThreadPoolExecutor() as threads:
        joining = threads.submit(joined, port)
        impostor, _ = listener.accept()
        impostor.sendall(b"hello 17\n")
        impostor.recv(1000)
        impostor.sendall(b"welcome 17\n")
        with pytest.raises(UserError, match="the secret of this job is another one"):
            joining.result(timeout=10)


def test_idle_connections_end_nothing(port, monkeypatch):
    """With more of them than the process may have files: members join once these are closed."""
    monkeypatch.setattr(heartbeat, "HELLO_TIMEOUT", 0.5)
    listening(port)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    idle = [socket.socket() for _ in range(100)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(s.fileno() for s in idle) + 20, hard))
    try:
        for connection in idle:
            connection.connect(("127.0.0.1", port))
        assert joined(port).host == "127.0.0.1"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for connection in idle:
            connection.close()


def test_a_stranger_who_is_slow_is_closed(port, monkeypatch):
    """Whose every byte comes in time."""
    monkeypatch.setattr(heartbeat, "HELLO_TIMEOUT", 0.3)
    listening(port)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.recv(100)
        deadline = time.monotonic() + 10
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                slow.sendall(b"x")
                time.sleep(0.05)


def test_a_member_that_never_beats_is_missed(port, monkeypatch):
    monkeypatch.setattr(heartbeat, "FIRST_BEAT", 0.5)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)
    monkeypatch.setattr(heartbeat, "GRACE_PERIOD", 0.1)
    Training(port).assert_all_end("a worker (there) was lost; all others end")


def test_control_characters_are_not_shown(training):
    training.other.sendall(b"goodbye \x1b[2J\x1b]0;owned\x07 with \xff\n")
    training.assert_all_end("a worker (there) ended: ?[2J?]0;owned? with")


@pytest.mark.parametrize("last_words", [None, b"", b"beat\n"], ids=["gone", "frozen", "silent"])
def test_a_member_misses_its_monitor(port, monkeypatch, last_words):
    monkeypatch.setattr(heartbeat, "TIMEOUT", 0.3)
    monkeypatch.setattr(heartbeat, "FIRST_BEAT", 0.3)
    ends = []
    with socket.create_server(("127.0.0.1", port)) as listener, ThreadPoolExecutor() as threads:
        threads.submit(Member, ("127.0.0.1", port), "worker 0", SECRET, ends.append)
        scheduler, _ = listener.accept()
        scheduler.sendall(b"hello 17\n")
        _, nonce, _, _ = scheduler.recv(1000).split(b" ", 3)
        digest = hmac.new(SECRET.encode(), b"welcome 17 " + nonce, hashlib.sha256).hexdigest()
        scheduler.sendall(f"welcome {digest}\n".encode() + (last_words or b""))
        if last_words is None:
            scheduler.close()
        wait_for(lambda: ends, seconds=10)
    assert len(ends) == 1 and ends[0].startswith("the scheduler (127.0.0.1) was lost; all others")


def test_a_member_that_nobody_answers_warns(port, monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "JOIN_TIMEOUT", 0.3)
    member = Member(("127.0.0.1", port), "worker 0", SECRET)
    assert member.host is None
    member.rename("worker 1")
    member.leave("tired")
    said = f"warning: no trnet scheduler answers at 127.0.0.1:{port}, so"
    assert capsys.readouterr().err.startswith(said)


def test_a_monitor_whose_members_do_not_join_warns(port, monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "JOIN_TIMEOUT", 0.2)
    Monitor(("127.0.0.1", port), 3, SECRET)
    said = []
    wait_for(lambda: said.append(capsys.readouterr().err) or any(said), seconds=10)
    assert "warning: 0 of 3 servers and workers have joined" in "".join(said)
