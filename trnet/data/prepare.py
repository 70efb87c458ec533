"""The preparation of a folder of images into RecordIO files, resumed and verified."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trnet.data import recordio
from trnet.data.images import Listing, Undecodable, for_mxnet, list_images
from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.files import read_json, write_aside

_AHEAD = 16  # records per thread that are made before their turn


@dataclass(frozen=True)
class Preparation:
    """The outcome of a preparation.

    Attributes
    ----------
    images, classes : int
    skipped : dict
        The reason by file, of those that are not images or are damaged.
    made : bool
        Whether the records were made; False if they were there, and were only verified.
    ignored : int
        Entries of class folders that are no image files, by their names.
    """

    images: int
    classes: int
    skipped: dict[str, str]
    made: bool
    ignored: int


def prepare(
    source: Path,
    output: Path,
    resize: int | None = None,
    quality: int = 95,
    jobs: int = 1,
    show: bool = True,
) -> Preparation:
    """Make ``output``.rec, .idx, .classes.txt and .skipped.txt from a folder of class folders.

    A preparation that was interrupted, even by SIGKILL, resumes where it stopped and ends with the
    same bytes. No file gets its final name before all records are verified.

    Parameters
    ----------
    source, output : Path
    resize : int, optional
        The shorter side to which larger images are shrunk; these become JPEG of the given
        ``quality``. All others keep their bytes, if MXNet can decode them.
    quality : int
    jobs : int
        Threads that decode.
    show : bool
        Whether to show progress.

    Raises
    ------
    UserError
        If there are records already that were made of something else, or are damaged.
    """
    listing = list_images(source)
    order = np.random.RandomState(0).permutation(len(listing.files))  # frozen in every numpy
    work = _Work(source, output, listing, order, resize, quality, jobs, show)
    rec, idx = work.beside("rec"), work.beside("idx")
    made = not (rec.exists() and idx.exists())
    if made:
        skipped = work.write()
    else:
        work.check_note(work.beside("json"), rec, idx)
        skipped = work.read_skipped()
        work.verify(rec, idx, skipped)
    work.beside("json.partial").unlink(missing_ok=True)
    images = len(listing.files) - len(skipped)
    return Preparation(images, len(listing.classes), skipped, made, listing.ignored)


@dataclass(frozen=True)
class _Work:
    """A preparation; the key and id of a record is its position in ``order``."""

    source: Path
    output: Path
    listing: Listing
    order: np.ndarray
    resize: int | None
    quality: int
    jobs: int
    show: bool

    def beside(self, suffix: str) -> Path:
        return self.output.with_name(f"{self.output.name}.{suffix}")

    def file(self, position: int) -> str:
        return self.listing.files[self.order[position]]

    def label(self, position: int) -> int:
        return int(self.listing.labels[self.order[position]])

    def write(self) -> dict[str, str]:
        """Complete the partial files, verify them, and rename them; returns what was skipped."""
        rec, idx = self.beside("rec"), self.beside("idx")
        rec_partial, idx_partial = self.beside("rec.partial"), self.beside("idx.partial")
        # Interrupted between the two renames at the end: the index has its name, the records not.
        half_renamed = rec_partial.exists() and not idx_partial.exists()
        if rec.exists() or (idx.exists() and not half_renamed):
            alone, missing = (rec, idx) if rec.exists() else (idx, rec)
            raise UserError(
                f"{alone}: expected {missing.name} in the same folder, got none; "
                f"delete {alone.name} to make both again"
            )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with rec_partial.open("a+b", buffering=0) as rec_file:
            try:
                fcntl.flock(rec_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{rec_partial}: another process is writing it") from None
            if idx.exists():
                idx.rename(idx_partial)
            note = self.beside("json.partial")
            if rec_partial.stat().st_size:
                self.check_note(note, rec_partial, idx_partial)
            else:
                write_aside(note, json.dumps(self._made_of()) + "\n")
            with idx_partial.open("ab", buffering=0) as idx_file:
                writer = recordio.Writer(rec_file, idx_file)
                skipped = self._append(writer, rec_partial)
                writer.sync()
            self.verify(rec_partial, idx_partial, skipped)
            write_aside(self.beside("classes.txt"), _lines(self.listing.classes))
            if skipped:
                reasons = (f"{file}\t{reason}" for file, reason in skipped.items())
                write_aside(self.beside("skipped.txt"), _lines(reasons))
            else:
                self.beside("skipped.txt").unlink(missing_ok=True)
            write_aside(self.beside("json"), note.read_text())
            idx_partial.rename(idx)
            rec_partial.rename(rec)  # last: if it is there, its index is
        return skipped

    def read_skipped(self) -> dict[str, str]:
        path = self.beside("skipped.txt")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {file: reason for file, _, reason in (line.rpartition("\t") for line in lines)}

    def verify(self, rec: Path, idx: Path, skipped: dict[str, str]) -> None:
        """Refuse records that are not those of the files that were not skipped."""
        positions = (p for p in range(len(self.order)) if self.file(p) not in skipped)
        labels = {position: self.label(position) for position in positions}
        faults = recordio.verify(rec, idx, labels, self.jobs)
        with closing(faults), self._bar("verify", len(skipped)) as bar:
            for position, fault in faults:
                if fault is not None:
                    raise UserError(
                        f"{rec}: record {position} ({self.file(position)}) {fault}; "
                        f"delete {rec.name} and {idx.name} to make them again"
                    )
                bar.update()

    def check_note(self, note: Path, rec: Path, idx: Path) -> None:
        """Refuse records whose note says that they were made of something else."""
        noted, made_of = read_json(note, dict[str, Any]) if note.exists() else {}, self._made_of()
        if noted == made_of:
            return
        got = "records of other files"
        if noted.get("files") == made_of["files"]:
            got = f"records with resize {noted['resize']} and quality {noted['quality']}"
        raise UserError(
            f"{rec}: expected records of the images in {self.source} with resize {self.resize} and "
            f"quality {self.quality}, got {got}; choose another output, or delete {rec.name} and "
            f"{idx.name}"
        )

    def _made_of(self) -> dict[str, str | int | None]:
        """What decides the records: the files by name and size, and the options."""
        digest = hashlib.sha256()
        for file in self.listing.files:
            digest.update(os.fsencode(f"{file}\t{(self.source / file).stat().st_size}\n"))
        return {"files": digest.hexdigest(), "resize": self.resize, "quality": self.quality}

    def _append(self, writer: recordio.Writer, rec: Path) -> dict[str, str]:
        """Append the records that are not there; returns what was skipped, now and before."""
        begin = writer.keys[-1] + 1 if writer.keys else 0
        passed = sorted(set(range(begin)).difference(writer.keys))  # read again, for their reasons
        positions = [*passed, *range(begin, len(self.order))]
        skipped = {}
        made = map_ahead(self._make, positions, self.jobs, ahead=_AHEAD * self.jobs)
        with closing(made), self._bar("prepare", len(self.order) - len(positions)) as bar:
            for position, (record, reason) in zip(positions, made):
                if reason is not None:
                    skipped[self.file(position)] = reason
                elif position < begin:
                    raise UserError(
                        f"{self.source / self.file(position)}: expected a damaged image, as when "
                        f"{rec.name} was begun, got a complete one; delete {rec.name} to begin "
                        "again"
                    )
                else:
                    writer.append(position, record)
                bar.update()
        return skipped

    def _make(self, position: int) -> tuple[bytes, str | None]:
        """A record, or the reason why there is none."""
        path = self.source / self.file(position)
        try:
            content = for_mxnet(path.read_bytes(), self.resize, self.quality)
            return recordio.pack(position, self.label(position), content), None
        except (Undecodable, recordio.TooLarge) as error:
            return b"", str(error)

    def _bar(self, what: str, done: int) -> tqdm:
        hidden = not self.show
        return tqdm(total=len(self.order), initial=done, desc=what, unit=" images", disable=hidden)


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
