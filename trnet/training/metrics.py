"""Metrics of every epoch, one row each: a log beside the checkpoints, and copies for readers.

The log, ``checkpoints/metrics.jsonl``, only grows. A checkpoint has the size and the SHA-256 of the
rows up to its epoch, and not the rows, so that the thousandth epoch costs as much as the first. The
copies in the run folder are ``metrics.jsonl``, the same rows, and ``metrics.csv``. The log and its
copy restore each other.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from operator import itemgetter
from pathlib import Path

from trnet.errors import UserError
from trnet.files import File, naming, write_aside

_LOG, _TABLE = "metrics.jsonl", "metrics.csv"


class Metrics:
    """The rows of a training, and what identifies them.

    Parameters
    ----------
    rows : iterable of dict

    Attributes
    ----------
    rows : list of dict
        One for each epoch. ``append`` adds to them.
    best : dict or None
        The first one with the highest Top-1.
    """

    def __init__(self, rows: Iterable[dict] = ()) -> None:
        self.rows: list[dict] = []
        self.best: dict | None = None
        self._digest, self._size = hashlib.sha256(), 0
        self._unsaved = bytearray()  # the last lines, which the log lacks
        for row in rows:
            self.append(row)

    def append(self, row: dict) -> None:
        """Add an epoch's row."""
        self.rows.append(row)
        self.best = row if self.best is None else max(self.best, row, key=itemgetter("top1"))
        line = _lines([row]).encode()
        self._digest.update(line)
        self._size += len(line)
        self._unsaved += line

    def described(self) -> File:
        """The size and the SHA-256 of the rows, as lines."""
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def save(self, checkpoints: Path) -> None:
        """Write the rows that the log lacks, and wait until they are on the disk.

        Rows of later epochs, which are trained again, are cut off.
        """
        path = checkpoints / _LOG
        saved = self._size - len(self._unsaved)
        if not path.is_file() or path.stat().st_size < saved:  # not by us: it is written again
            saved, self._unsaved[:] = 0, _lines(self.rows).encode()
        with naming(path), path.open("r+b" if saved else "wb") as file:
            file.seek(saved)
            file.truncate()
            file.write(self._unsaved)
            file.flush()
            os.fsync(file.fileno())
        self._unsaved.clear()

    @classmethod
    def load(cls, checkpoints: Path, expected: File) -> Metrics:
        """Load the rows that a checkpoint describes, from a copy in which they are whole.

        Raises
        ------
        UserError
            If both copies are damaged or missing.
        """
        if not expected["size"]:
            return cls()
        log, copy = checkpoints / _LOG, checkpoints.parent / _LOG
        for path in (log, copy):
            with suppress(OSError), path.open("rb") as file:
                lines = file.read(expected["size"])
                if hashlib.sha256(lines).hexdigest() == expected["sha256"]:
                    metrics = cls(map(json.loads, lines.splitlines()))
                    if path == log:
                        metrics._unsaved.clear()
                    return metrics
        raise UserError(f"{log}: is damaged or missing, and so is its copy {copy}")

    def write(self, folder: Path) -> None:
        """Write the copies for readers, ``metrics.jsonl`` and ``metrics.csv``, into a run folder.

        Without rows, there are no such files.
        """
        if not self.rows:
            for name in (_LOG, _TABLE):
                (folder / name).unlink(missing_ok=True)
            return
        write_aside(folder / _LOG, _lines(self.rows))
        write_aside(folder / _TABLE, _csv(self.rows[0], *(row.values() for row in self.rows)))

    def write_last(self, folder: Path) -> None:
        """Append the last row to the copies for readers."""
        row = self.rows[-1]
        path = folder / _LOG
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(_lines([row]))
        path = folder / _TABLE
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(_csv(*([row] if file.tell() == 0 else []), row.values()))


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv(*rows: Iterable) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[[dict], None]]:
    """Log every epoch's metrics for TensorBoard, in a run folder.

    What it shows of epochs that are trained again is replaced.
    """
    from tensorboardX import SummaryWriter

    writer = None

    def log(row: dict) -> None:
        nonlocal writer
        if writer is None:
            path = str(folder / "tensorboard")
            writer = SummaryWriter(path, purge_step=row["epoch"], flush_secs=10)
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, row["epoch"])

    try:
        yield log
    finally:
        if writer is not None:
            writer.close()
