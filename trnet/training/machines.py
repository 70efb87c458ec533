"""Several machines: a process's place among them, and the workers that train one network together.

They train on MXNet's parameter server. Importing MXNet in a server or in the scheduler runs it
there and exits, and a worker needs its place in the environment before; so this module imports
MXNet late.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trnet.errors import UserError
from trnet.training.roll_call import Member, RollCall

if TYPE_CHECKING:
    from mxnet.kvstore import KVStore

KVSTORES = ("dist_sync",)

_ROLES = ("scheduler", "server", "worker")
_COUNTS = range(1, 10_001)
_PORTS = range(1, 65_535)  # the roll call takes the one behind
_LAUNCHERS = (  # variables with a process's rank, their number, and that on the process's host
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
)
_FIRST_SUM = 2**30  # of the kvstore's keys: a Trainer counts parameters from 0


@dataclass(frozen=True)
class Place:
    """A process's place in a training over several machines.

    Attributes
    ----------
    role : {"scheduler", "server", "worker"}
    host : str
        The scheduler's.
    port : int
        On which MXNet's scheduler listens; the roll call takes the next.
    servers, workers : int
    """

    role: str
    host: str
    port: int
    servers: int
    workers: int

    def variables(self) -> dict[str, str]:
        """The environment variables by which MXNet knows the place."""
        return {
            "DMLC_ROLE": self.role,
            "DMLC_PS_ROOT_URI": self.host,
            "DMLC_PS_ROOT_PORT": str(self.port),
            "DMLC_NUM_SERVER": str(self.servers),
            "DMLC_NUM_WORKER": str(self.workers),
        }


@dataclass
class Workers:
    """The workers that train a network together, as one of them sees it; or the only one.

    Attributes
    ----------
    index, count : int
        This worker's number among all, from 0.
    kvstore : str or KVStore
        What a Gluon Trainer sums gradients with.
    """

    index: int = 0
    count: int = 1
    kvstore: str | KVStore = "device"
    _sums: set[int] = field(default_factory=set, init=False, repr=False)

    @property
    def writes(self) -> bool:
        """Whether it is this worker that writes files and shows progress."""
        return self.index == 0

    def sum(self, values: np.ndarray | Sequence[float]) -> np.ndarray:
        """Sum an array, not an empty one, over the workers in float64; every worker gets it.

        It waits for all workers, which have to ask for the same sums in the same order.
        """
        values = np.asarray(values, dtype="float64")
        if self.count == 1:
            return values
        from trnet.tensor.backend import mx

        key = _FIRST_SUM + values.size
        total = mx.nd.array(values.ravel(), dtype="float64")
        if key not in self._sums:
            self.kvstore.init(key, mx.nd.zeros_like(total))
            self._sums.add(key)
        self.kvstore.pushpull(key, total)
        return total.asnumpy().reshape(values.shape)

    def wait(self) -> None:
        """Wait for all workers to come here."""
        self.sum([0.0])

    def agree(self, what: str, value: int) -> None:
        """Refuse to go on where workers differ in a number that has to be every worker's.

        Parameters
        ----------
        what : str
            What the number is, for the message.
        value : int
            Below 2^53.

        Raises
        ------
        UserError
            In every worker.
        """
        own = np.zeros(self.count)
        own[self.index] = value
        values = self.sum(own)
        if len(set(values)) > 1:
            listed = ", ".join(f"worker {i}: {v:.0f}" for i, v in enumerate(values))
            raise UserError(
                f"workers differ in {what} ({listed}); the same command on every machine, with the "
                "same data and --runs on a folder that all of them share, would fit"
            )


ALONE = Workers()


def find_place(kvstore: str | None, environ: Mapping[str, str]) -> Place | None:
    """Find the process's place in its environment.

    DMLC_ROLE and its companions tell it, or else the ranks of mpirun and srun: rank 0 is the
    scheduler, the next DMLC_NUM_SERVER (one where that is not set) are the servers, the rest are
    workers.

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
        Where the environment is none for several machines, is incomplete, or contradicts itself or
        ``kvstore``.
    """
    role = environ.get("DMLC_ROLE")
    if kvstore is None:
        if role is not None:
            raise UserError(
                f"DMLC_ROLE: got {role!r} without --kvstore; --kvstore dist_sync would fit, or "
                "DMLC_ROLE not set for a training in one process"
            )
        return None
    if role is not None:
        return _from_dmlc(environ)
    for rank, size, local_size in _LAUNCHERS:
        if rank in environ:
            return _from_launcher(environ, rank, size, local_size)
    raise UserError(
        f"--kvstore {kvstore}: this process has no place among several; mpirun or srun would give "
        f"it one, or DMLC_ROLE ({', '.join(_ROLES)}), DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT, "
        "DMLC_NUM_SERVER and DMLC_NUM_WORKER"
    )


def _from_dmlc(environ: Mapping[str, str]) -> Place:
    role = environ["DMLC_ROLE"]
    if role not in _ROLES:
        raise UserError(f"DMLC_ROLE: got {role!r}; one of {', '.join(_ROLES)} would fit")
    host = environ.get("DMLC_PS_ROOT_URI")
    if not host:
        raise UserError("DMLC_PS_ROOT_URI: is missing; the scheduler's host would fit")
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
            f"{size_key}: got {size}; at least {servers + 2} processes would fit: the scheduler, "
            f"{servers} for DMLC_NUM_SERVER, and a worker"
        )
    if environ.get("DMLC_NUM_WORKER", str(workers)) != str(workers):
        raise UserError(
            f"DMLC_NUM_WORKER: got {environ['DMLC_NUM_WORKER']!r}; {workers} would fit, or the "
            f"variable not set: so many of {size} processes are neither scheduler nor server"
        )
    role = "scheduler" if rank == 0 else "server" if rank <= servers else "worker"
    host = environ.get("DMLC_PS_ROOT_URI") or _first_host(environ, size, local_size_key)
    port = _number(environ, "DMLC_PS_ROOT_PORT", _PORTS, default="9091")
    return Place(role, host, port, servers, workers)


def _first_host(environ: Mapping[str, str], size: int, local_size_key: str | None) -> str:
    """Where a launcher has started rank 0."""
    if local_size_key in environ:
        is_one_host, nodes = environ[local_size_key] == str(size), None
    else:  # srun's, which may set PMI_RANK as well
        is_one_host = environ.get("SLURM_NNODES") == "1"
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if is_one_host:
        return "127.0.0.1"
    if nodes:
        return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]
    raise UserError("DMLC_PS_ROOT_URI: is missing; the host on which rank 0 runs would fit")


def _number(
    environ: Mapping[str, str], key: str, allowed: range, default: str | None = None
) -> int:
    text = environ.get(key, default)
    if text is None or not text.isdecimal() or int(text) not in allowed:
        got = "is missing" if text is None else f"got {text!r}"
        raise UserError(
            f"{key}: {got}; a whole number from {allowed[0]} to {allowed[-1]} would fit"
        )
    return int(text)


@contextmanager
def join(place: Place | None) -> Iterator[Workers]:
    """Take one's place among the machines, and learn of it when another process is lost.

    A server or the scheduler does not come to the body: it serves until the workers are done, and
    exits. Whoever ends otherwise tells the others why, and all of them end.

    Parameters
    ----------
    place : Place or None
        None for a training in this process alone.

    Yields
    ------
    Workers
    """
    if place is None:
        yield ALONE
        return
    os.environ.update(place.variables())
    roll = _call_roll(place) if place.role == "scheduler" else _answer_roll(place)
    kvstore = None
    try:
        with _ended_by_ctrl_c():
            from trnet.tensor.backend import mx

            kvstore = mx.kv.create("dist_sync")
        roll.rename(f"worker {kvstore.rank} ({socket.gethostname()})")
        yield Workers(kvstore.rank, kvstore.num_workers, kvstore)
        # Freeing it waits for all others: now, while the roll call can still end the wait.
        kvstore.__del__()
        kvstore.handle = type(kvstore.handle)()
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:  # how a server or scheduler is done
            roll.leave()
            raise
        roll.leave(_reason(error))
        atexit.register(_exit_at_once, _exit_code(error), kvstore)
        raise
    roll.leave()


def _call_roll(place: Place) -> RollCall:
    """Listen, as the scheduler, where MXNet will: at an address, or everywhere for a name."""
    is_address = re.fullmatch(r"[\d.]+", place.host) is not None
    if not is_address:
        os.environ.setdefault("DMLC_USE_KUBERNETES", "1")  # or MXNet fails to listen at a name
    host = place.host if is_address and "DMLC_USE_KUBERNETES" not in os.environ else ""
    try:
        socket.create_server((host, place.port)).close()  # MXNet would fail with a traceback
        return RollCall((host, place.port + 1), place.servers + place.workers)
    except OSError as error:
        raise UserError(
            f"DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT: got {place.host} and {place.port}; an address "
            "of the scheduler's machine, and a port there that is free as the next one is, would "
            f"fit: {os.strerror(error.errno)}"
        ) from None


def _answer_roll(place: Place) -> Member:
    """Go on the scheduler's roll, and be found by the others at the address that leads to it."""
    member = Member((place.host, place.port + 1), f"a {place.role} ({socket.gethostname()})")
    if member.host is None or {"DMLC_NODE_HOST", "DMLC_INTERFACE"} & set(os.environ):
        return member
    # A machine may know its own name as a local address, at which no other finds it.
    if not member.host.startswith("127.") or place.host.startswith(("127.", "localhost")):
        os.environ["DMLC_NODE_HOST"] = member.host
    return member


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """End at once by Ctrl-C: while MXNet waits for others, Python would not hear of it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _exit_at_once(code: int, _kvstore: KVStore | None) -> None:
    """Exit while the kvstore is still held: MXNet waits for all others where it is freed."""
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
