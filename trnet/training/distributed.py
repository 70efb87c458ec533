"""Distributed training on MXNet's parameter server: a process's role, and what workers exchange.

Importing MXNet in a process whose DMLC_ROLE is scheduler or server runs that role, with a
controller that unpickles what it is sent. So this module imports MXNet late, sets the role after
that, and runs it with a controller that executes nothing.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trnet.errors import UserError
from trnet.training.heartbeat import Member, Monitor

if TYPE_CHECKING:
    from mxnet.kvstore import KVStore

KVSTORES = ("dist_sync",)

_ROLES = ("scheduler", "server", "worker")
_COUNTS = range(1, 10_001)
_PORTS = range(1, 65_535)  # the heartbeat uses the next one
_LAUNCHERS = (  # variables for a process's rank, the number of processes, and that on its host
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
)
_FIRST_SUM = 2**30  # the first key for sums: a Trainer uses those from 0 on for parameters


@dataclass(frozen=True)
class Place:
    """A process's place in a distributed training.

    Attributes
    ----------
    role : {"scheduler", "server", "worker"}
    host : str
        The scheduler's.
    port : int
        Where MXNet's scheduler listens; the heartbeat uses the next port.
    servers, workers : int
    """

    role: str
    host: str
    port: int
    servers: int
    workers: int

    def variables(self) -> dict[str, str]:
        """The environment variables from which MXNet reads the place."""
        return {
            "DMLC_ROLE": self.role,
            "DMLC_PS_ROOT_URI": self.host,
            "DMLC_PS_ROOT_PORT": str(self.port),
            "DMLC_NUM_SERVER": str(self.servers),
            "DMLC_NUM_WORKER": str(self.workers),
        }


@dataclass(eq=False)
class Workers:
    """The workers that train a network together, as seen by one of them.

    Attributes
    ----------
    index, count : int
        This worker's number, from 0, and the number of workers.
    kvstore : str or KVStore
        How a Gluon Trainer sums gradients.
    """

    index: int = 0
    count: int = 1
    kvstore: str | KVStore = "device"
    _sums: set[int] = field(default_factory=set, init=False, repr=False)

    @property
    def writes(self) -> bool:
        """Whether this worker is the one that writes files and shows progress."""
        return self.index == 0

    def sum(self, values: np.ndarray | Sequence[float]) -> np.ndarray:
        """Sum a non-empty array over all workers in float64; every worker gets the same bits.

        This waits for all workers. They must ask for the same sums in the same order.
        """
        values = np.asarray(values, dtype="float64")
        if self.count == 1:
            return values
        from trnet.tensor.backend import mx

        # MXNet's servers add in the order of arrival, and float64 sometimes in float32, by a flag
        # that they never set. So each worker sends its bits, 16 in a number, in a row of its own.
        rows = np.zeros((self.count, 4 * values.size), "float32")
        rows[self.index] = values.ravel().view("uint16")
        key, gathered = _FIRST_SUM + values.size, mx.nd.array(rows)
        if key not in self._sums:
            self.kvstore.init(key, mx.nd.zeros_like(gathered))
            self._sums.add(key)
        self.kvstore.pushpull(key, gathered)
        each = gathered.asnumpy().astype("uint16").view("float64")  # (workers, n)
        return each.sum(axis=0).reshape(values.shape)

    def wait(self) -> None:
        """Wait until all workers have called this."""
        self.sum([0.0])

    def agree(self, what: str, value: int) -> None:
        """Check that a number is the same in all workers.

        Parameters
        ----------
        what : str
            What the number is, for the message.
        value : int
            Below 2^53, so that float64 holds it exactly.

        Raises
        ------
        UserError
            In every worker, if it is not.
        """
        own = np.zeros(self.count)
        own[self.index] = value
        values = self.sum(own)
        if len(set(values)) > 1:
            listed = ", ".join(f"worker {i}: {v:.0f}" for i, v in enumerate(values))
            raise UserError(
                f"workers differ in {what} ({listed}); run the same command on every machine, with "
                "the same data and with --runs on a folder that all of them share"
            )


ALONE = Workers()


def find_place(kvstore: str | None, environ: Mapping[str, str]) -> Place | None:
    """Find the process's place from its environment variables.

    DMLC_ROLE and its companions come first. Otherwise it follows from the rank that mpirun or srun
    gave: rank 0 is the scheduler, the next DMLC_NUM_SERVER ranks (1 if unset) are servers, the rest
    are workers.

    Parameters
    ----------
    kvstore : str or None
        One of :data:`KVSTORES`, or None to train in this process alone.
    environ : mapping of str to str

    Returns
    -------
    Place or None
        None for a process that trains alone.

    Raises
    ------
    UserError
        If the environment gives no place, is incomplete, or contradicts itself or ``kvstore``.
    """
    role = environ.get("DMLC_ROLE")
    if kvstore is None:
        if role is not None:
            raise UserError(
                f"DMLC_ROLE: got {role!r} without --kvstore; add --kvstore dist_sync, or unset "
                "DMLC_ROLE to train in one process"
            )
        return None
    if role is not None:
        return _from_dmlc(environ)
    for rank, size, local_size in _LAUNCHERS:
        if rank in environ:
            return _from_launcher(environ, rank, size, local_size)
    raise UserError(
        f"--kvstore {kvstore}: expected a process that mpirun or srun started, or the variables "
        f"DMLC_ROLE ({', '.join(_ROLES)}), DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT, DMLC_NUM_SERVER "
        "and DMLC_NUM_WORKER, got neither"
    )


def _from_dmlc(environ: Mapping[str, str]) -> Place:
    role = environ["DMLC_ROLE"]
    if role not in _ROLES:
        raise UserError(f"DMLC_ROLE: expected one of {', '.join(_ROLES)}, got {role!r}")
    host = environ.get("DMLC_PS_ROOT_URI")
    if not host:
        raise UserError("DMLC_PS_ROOT_URI: expected the scheduler's host, but it is not set")
    return Place(
        role,
        host,
        _number(environ, "DMLC_PS_ROOT_PORT", _PORTS),
        _number(environ, "DMLC_NUM_SERVER", _COUNTS),
        _number(environ, "DMLC_NUM_WORKER", _COUNTS),
    )


def _from_launcher(
    environ: Mapping[str, str], rank_key: str, size_key: str, local_size_key: str | None
) -> Place:
    size = _number(environ, size_key, _COUNTS)
    rank = _number(environ, rank_key, range(size))
    servers = _number(environ, "DMLC_NUM_SERVER", _COUNTS, default="1")
    workers = size - 1 - servers
    if workers < 1:
        raise UserError(
            f"{size_key}: expected at least {servers + 2} processes (the scheduler, {servers} for "
            f"DMLC_NUM_SERVER, and one worker), got {size}"
        )
    if environ.get("DMLC_NUM_WORKER", str(workers)) != str(workers):
        raise UserError(
            f"DMLC_NUM_WORKER: expected {workers}, the number of {size} processes that are neither "
            f"scheduler nor server, got {environ['DMLC_NUM_WORKER']!r}"
        )
    role = "scheduler" if rank == 0 else "server" if rank <= servers else "worker"
    host = environ.get("DMLC_PS_ROOT_URI") or _first_host(environ, size, local_size_key)
    port = _number(environ, "DMLC_PS_ROOT_PORT", _PORTS, default="9091")
    return Place(role, host, port, servers, workers)


def _first_host(environ: Mapping[str, str], size: int, local_size_key: str | None) -> str:
    """The host on which a launcher has started rank 0."""
    if local_size_key is not None and local_size_key in environ:
        is_one_host, nodes = environ[local_size_key] == str(size), None
    else:  # srun, which may set PMI_RANK as well
        is_one_host = environ.get("SLURM_NNODES") == "1"
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if is_one_host:
        return "127.0.0.1"
    if nodes:
        # node[01-04,7],login -> node01,login -> node01
        return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]
    raise UserError("DMLC_PS_ROOT_URI: expected the host of rank 0, but it is not set")


def _number(
    environ: Mapping[str, str], key: str, allowed: range, default: str | None = None
) -> int:
    text = environ.get(key, default)
    if text is None or not text.isdecimal() or int(text) not in allowed:
        got = "but it is not set" if text is None else f"got {text!r}"
        raise UserError(f"{key}: expected an integer from {allowed[0]} to {allowed[-1]}, {got}")
    return int(text)


def find_secret(runs: Path, environ: Mapping[str, str]) -> str:
    """The secret of a job: TRNET_SECRET, or what the first of its processes wrote into ``runs``.

    Raises
    ------
    UserError
        If the file cannot be written or read.
    """
    if environ.get("TRNET_SECRET"):
        return environ["TRNET_SECRET"]
    path = runs / ".secret"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            own = runs / f".secret.{secrets.token_hex(8)}"
            own.touch(mode=0o600)
            try:
                own.write_text(secrets.token_hex(32))
                os.link(own, path)
            except FileExistsError:  # another process of the job was first
                pass
            finally:
                own.unlink()
        held, secret = path.stat(), path.read_text()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be the job's secret: {why}; set TRNET_SECRET") from None
    if held.st_uid != os.getuid() or held.st_mode & 0o077 or not secret.strip():
        raise UserError(
            f"{path}: expected a secret that only this user can read, got another file; delete it, "
            "or set TRNET_SECRET"
        )
    return secret


@contextmanager
def join(place: Place | None, secret: str | None = None) -> Iterator[Workers]:
    """Take part in a distributed training, and end when another of its processes is lost.

    Only workers run the body of the ``with`` statement. The scheduler and the servers serve until
    the workers have finished, and then exit. A process that fails sends its reason to the others,
    and all of them end.

    Parameters
    ----------
    place : Place or None
        None to train in this process alone.
    secret : str, optional
        Of the job; see :func:`find_secret`.

    Yields
    ------
    Workers
    """
    if place is None:
        yield ALONE
        return
    os.environ.update({**place.variables(), "DMLC_ROLE": "worker"})
    heartbeat = _monitor(place, secret) if place.role == "scheduler" else _member(place, secret)
    kvstore = None
    try:
        with _default_sigint():
            from trnet.tensor.backend import mx

            os.environ["DMLC_ROLE"] = place.role
            kvstore = mx.kv.create("dist_sync")
            if place.role != "worker":
                _serve(kvstore)
                sys.exit()
        heartbeat.rename(f"worker {kvstore.rank} ({socket.gethostname()})")
        yield Workers(kvstore.rank, kvstore.num_workers, kvstore)
        # Freeing the kvstore waits for all others. Do so now, while the heartbeat can still end it.
        kvstore.__del__()
        kvstore.handle = type(kvstore.handle)()
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:  # a server or scheduler has finished
            heartbeat.leave()
            raise
        heartbeat.leave(_reason(error))
        atexit.register(_exit_at_once, _exit_code(error), kvstore)
        raise
    heartbeat.leave()


def _serve(kvstore: KVStore) -> None:
    """Be the scheduler or a server until the workers have finished.

    MXNet's own controller unpickles an optimiser that a worker sends. Ours send none, as they
    update the parameters themselves.
    """
    from mxnet.base import _LIB, check_call

    @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    def ignore(command: int, _body: bytes, _handle: int) -> None:
        print(
            f"warning: ignored command {command}, which no worker of trnet sends", file=sys.stderr
        )

    check_call(_LIB.MXKVStoreRunServer(kvstore.handle, ignore, None))


def _monitor(place: Place, secret: str) -> Monitor:
    """Listen, as the scheduler, where MXNet will: at the address that was asked for.

    Under Kubernetes, a name may be that of a service, whose address no machine has: then both
    listen on every interface.
    """
    try:
        host = ""
        if "DMLC_USE_KUBERNETES" not in os.environ:
            host = os.environ["DMLC_PS_ROOT_URI"] = socket.gethostbyname(place.host)
        socket.create_server((host, place.port)).close()  # MXNet would fail with a traceback
        return Monitor((host, place.port + 1), place.servers + place.workers, secret)
    except OSError as error:
        why = error.strerror.partition(" (")[0]  # Python adds the address
        raise UserError(
            "DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT: expected an address of the scheduler's machine, "
            f"and a port that is free there, as must be the next; got {place.host} and {place.port}"
            f": {why}"
        ) from None


def _member(place: Place, secret: str) -> Member:
    """Join the scheduler's members, and make MXNet use this machine's address on the way to it."""
    address, name = (place.host, place.port + 1), f"a {place.role} ({socket.gethostname()})"
    member = Member(address, name, secret)
    if member.host is None or {"DMLC_NODE_HOST", "DMLC_INTERFACE"} & set(os.environ):
        return member
    # Its own name may resolve to a loopback address, at which no other machine finds it.
    if not member.host.startswith("127.") or place.host.startswith(("127.", "localhost")):
        os.environ["DMLC_NODE_HOST"] = member.host
    return member


@contextmanager
def _default_sigint() -> Iterator[None]:
    """Let Ctrl-C end the process at once: Python's handler does not run while MXNet waits."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _exit_at_once(code: int, _kvstore: KVStore | None) -> None:
    """Exit while the kvstore is still referenced: freeing it would wait for all others."""
    os._exit(code)


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _exit_code(error: BaseException) -> int:
    """The exit code that the command line gives for an error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UserError) else 1
