"""The preparation of a folder of images into RecordIO files, resumed and verified."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
from pydantic import BeforeValidator
from tqdm import tqdm

from trnet.data import recordio
from trnet.data.images import Listing, Undecodable, faults, for_mxnet, list_images
from trnet.data.records import VERSION, Index, Records, open_records, read_lines, read_note
from trnet.data.threads import map_ahead
from trnet.errors import UserError
from trnet.files import Sealed, aside, check_seal, described, read_json, sealed, sync, write_aside

_AHEAD = 16  # records per thread that are made before their turn


class _Begun(Sealed):
    """``train.json.partial``: what decides the records that were begun."""

    files: str
    resize: Optional[int]
    quality: int


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
    """Make ``output``.rec, and .idx, .crc32, .classes.txt, .skipped.txt and .json beside it.

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
    for name in (*listing.classes, *listing.files):
        if "\n" in name or "\t" in name:
            raise UserError(f"{source / name!a}: expected a name without line breaks and tabs")
    order = np.random.RandomState(0).permutation(len(listing.files))  # frozen in every numpy
    work = _Work(source, output, listing, order, resize, quality, jobs, show)
    made = not work.beside("rec").exists()
    skipped = work.write() if made else work.verify()
    for suffix in ("lines.partial", "json.partial"):
        work.beside(suffix).unlink(missing_ok=True)
    images = len(listing.files) - len(skipped)
    return Preparation(images, len(listing.classes), skipped, made, listing.ignored)


def check(output: Path, jobs: int = 1, show: bool = True) -> int:
    """Read every record of ``output``.rec and decode its image; returns their number.

    Raises
    ------
    UserError
        If a file is missing or damaged; damaged records are counted, and the first is named.
    """
    if not output.name:
        raise UserError(f"{output}: expected the records' path without suffix, got a folder")
    rec = output.with_name(f"{output.name}.rec")
    if not rec.is_file():
        raise UserError(f"{rec}: expected records to check, got no such file")
    records, _ = open_records(rec, jobs)
    _refuse_damaged(records, jobs, show)
    return len(records)


def _refuse_damaged(records: Records, jobs: int, show: bool) -> None:
    damaged = []
    found = faults(records.read, range(len(records)), jobs)
    with closing(found), _bar("verify", len(records), show=show) as bar:
        for i, fault in enumerate(found):
            bar.update()
            if fault is not None:
                damaged.append(f"{records.name(i)} {fault}")
    if damaged:
        raise UserError(
            f"{damaged[0]}; {len(damaged)} of {len(records)} records are damaged: copy the files "
            "again, or delete them and prepare them again"
        )


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
        rec_partial, lines_partial = self.beside("rec.partial"), self.beside("lines.partial")
        if idx.exists() and not rec_partial.exists():
            raise UserError(
                f"{idx}: expected {rec.name} in the same folder, got none; "
                f"delete {idx.name} to make both again"
            )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with rec_partial.open("a+b", buffering=0) as rec_file:
            try:
                fcntl.flock(rec_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{rec_partial}: another process is writing it") from None
            note = self.beside("json.partial")
            if rec_partial.stat().st_size:
                noted = (
                    read_json(note, Annotated[_Begun, BeforeValidator(check_seal)])
                    if note.exists()
                    else {}
                )
                self._check_made_of(noted, rec_partial)
            else:
                write_aside(note, json.dumps(sealed(self._made_of)) + "\n")
            with lines_partial.open("ab", buffering=0) as lines_file:
                writer = recordio.Writer(rec_file, lines_file)
                skipped = self._append(writer, rec_partial)
                writer.sync()
            if len(skipped) == len(self.order):
                for path in (rec_partial, lines_partial, note):
                    path.unlink()
                file, reason = next(iter(skipped.items()))
                raise UserError(
                    f"{self.source}: expected images, got {len(skipped)} files that are none: "
                    f"{file} {reason}"
                )
            index = read_lines(lines_partial)
            self._check_records(Records(rec_partial, index, self.jobs), skipped)
            self._write_beside(index, skipped, rec_partial.stat().st_size)
            rec_partial.rename(rec)  # last: if it is there, all others are
            sync(rec.parent)
        return skipped

    def verify(self) -> dict[str, str]:
        """Refuse finished records that are damaged, or were made of something else."""
        rec = self.beside("rec")
        records, _ = open_records(rec, self.jobs)
        if not self.beside("json").is_file():
            raise UserError(
                f"{rec}: expected {self.beside('json').name} beside it, got none; choose another "
                f"output, or delete {rec.name} to make it again"
            )
        self._check_made_of(read_note(rec), rec)
        content = self.beside("skipped.txt").read_bytes()
        lines = content.decode(errors="surrogateescape").split("\n")[:-1]
        skipped = {file: reason for file, _, reason in (line.rpartition("\t") for line in lines)}
        self._check_records(records, skipped)
        return skipped

    def _check_records(self, records: Records, skipped: dict[str, str]) -> None:
        """Refuse records that are not those of the files that were not skipped."""
        positions = (p for p in range(len(self.order)) if self.file(p) not in skipped)
        labels = {position: self.label(position) for position in positions}
        if records.keys.tolist() != list(labels) or records.labels.tolist() != [*labels.values()]:
            raise UserError(
                f"{records.rec}: expected {len(labels)} records of {self.source}, got "
                f"{len(records)} with other keys or labels; delete {records.rec.name} to make them "
                "again"
            )
        _refuse_damaged(records, self.jobs, self.show)

    def _write_beside(self, index: Index, skipped: dict[str, str], size: int) -> None:
        """Write all files but the records; the note, which describes the others, last."""
        texts = {
            "idx": index.text,
            "classes.txt": _lines(self.listing.classes),
            "skipped.txt": _lines(f"{file}\t{reason}" for file, reason in skipped.items()),
        }
        for suffix, text in texts.items():
            write_aside(self.beside(suffix), text)
        with aside(self.beside("crc32")) as beside:
            beside.write_bytes(index.sums.astype("<u4").tobytes())
        described_files = {suffix: described(self.beside(suffix)) for suffix in (*texts, "crc32")}
        note = {
            "version": VERSION,
            **self._made_of,
            "size": size,
            "beside": described_files,
        }
        write_aside(self.beside("json"), json.dumps(sealed(note), indent=1) + "\n")

    def _check_made_of(self, noted: Mapping[str, Any], rec: Path) -> None:
        """Refuse records whose note says that they were made of something else."""
        made_of = self._made_of
        if all(noted.get(key) == value for key, value in made_of.items()):
            return
        got = "records of other files"
        if noted.get("files") == made_of["files"]:
            got = f"records with resize {noted['resize']} and quality {noted['quality']}"
        raise UserError(
            f"{rec}: expected records of the images in {self.source} with resize {self.resize} and "
            f"quality {self.quality}, got {got}; choose another output, or delete {rec.name} to "
            "make it again"
        )

    @cached_property
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
        n_done = len(self.order) - len(positions)
        with closing(made), _bar("prepare", len(self.order), n_done, self.show) as bar:
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


def _bar(what: str, total: int, done: int = 0, show: bool = True) -> tqdm:
    return tqdm(total=total, initial=done, desc=what, unit=" images", disable=not show)


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
