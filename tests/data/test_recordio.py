"""RecordIO: records laid out as MXNet does, and damage that verification finds."""

import json
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from data.helpers import files_of, one_line, unfinish
from hypothesis import given
from hypothesis import strategies as st

from trnet.data.prepare import prepare
from trnet.data.recordio import Writer, frame, pack
from trnet.data.records import Records, read_lines
from trnet.files import sealed

MAGIC = (0xCED7230A).to_bytes(4, "little")


@given(st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=12))
def test_frames_are_mxnets(tmp_path_factory, pieces):
    content = b"".join(pieces)
    path = tmp_path_factory.getbasetemp() / "framed.rec"
    writer = mx.recordio.MXRecordIO(str(path), "w")
    writer.write(content)
    writer.close()
    assert path.read_bytes() == frame(content)
    rec, lines = path.with_suffix(".again"), path.with_suffix(".lines")
    with rec.open("wb+", 0) as rec_file, lines.open("wb+", 0) as lines_file:
        writer = Writer(rec_file, lines_file)
        writer.append(0, pack(0, 3, content))
        writer.append(7, pack(7, 5, b"more"))
    records = Records(rec, read_lines(lines))
    assert [records.read(i) for i in range(2)] == [content, b"more"]
    assert (records.keys.tolist(), records.labels.tolist()) == ([0, 7], [3, 5])


def edit(path: Path, begin: int, content: bytes) -> None:
    held = bytearray(path.read_bytes())
    held[begin : begin + len(content)] = content
    path.write_bytes(held)


def label_of_third(output: Path) -> int:
    """The offset of the third record's label, after its frame's two words and its flag."""
    return int(Path(f"{output}.idx").read_text().splitlines()[2].split("\t")[1]) + 12


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda rec, idx, at: edit(rec, at, np.float32(3).tobytes()), "with other keys or labels"),
        (lambda rec, idx, at: edit(rec, at + 4, b"\x77"), "record 3 is damaged: its checksum"),
        (lambda rec, idx, at: edit(rec, at - 12, b"\0\0\0\0"), "expected record 3 in"),
        (lambda rec, idx, at: edit(rec, at - 8, b"\xff\xff\xff\x1f"), "expected record 3 in"),
        (lambda rec, idx, at: edit(rec, at + 20, b"\0" * 20), "record 3 is damaged: its checksum"),
        (lambda rec, idx, at: edit(rec, at + 1000, b"\1"), "1 of 24 records are damaged"),
        (lambda rec, idx, at: rec.write_bytes(rec.read_bytes()[:-40]), "as train.json notes, got"),
        (lambda rec, idx, at: rec.write_bytes(rec.read_bytes() + b"more"), "as train.json notes"),
        (lambda rec, idx, at: idx.write_text(idx.read_text()[4:]), "train.idx: is damaged"),
        (lambda rec, idx, at: idx.unlink(), "expected train.idx in the same folder, got none"),
        (lambda rec, idx, at: rec.with_suffix(".json").unlink(), "expected train.json beside it"),
        (lambda rec, idx, at: rec.with_suffix(".crc32").write_bytes(b""), "crc32: is damaged"),
        (
            lambda rec, idx, at: rec.with_suffix(".json").write_text(
                rec.with_suffix(".json").read_text().replace('"quality": 95', '"quality": 94')
            ),
            "is damaged: its checksum is not that of its content",
        ),
        (lambda rec, idx, at: newer(rec.with_suffix(".json")), "expected version 1, got 2"),
    ],
)
def test_verification_finds_damage(source, copy, damage, said):
    rec, idx = Path(f"{copy}.rec"), Path(f"{copy}.idx")
    damage(rec, idx, label_of_third(copy))
    before = files_of(copy)
    one_line(lambda: prepare(source, copy, jobs=2, show=False), said)
    assert files_of(copy) == before


def newer(note: Path) -> None:
    content = json.loads(note.read_text())
    note.write_text(json.dumps(sealed({**content, "version": 2})))


def test_all_records_are_checked_without_their_source(copy, tmp_path):
    command = [sys.executable, "-m", "trnet", "prepare", "--check"]

    def check(*arguments: object) -> tuple[int, str]:
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
        return done.returncode, (
            done.stdout + done.stderr.splitlines()[-1] if done.stderr else done.stdout
        )

    assert check(copy)[0] == 0
    edit(Path(f"{copy}.rec"), label_of_third(copy) + 1000, b"\1")
    code, said = check(copy)
    assert code == 2 and "record 3 is damaged: its checksum" in said and "1 of 24" in said
    code, said = check(tmp_path / "none")
    assert code == 2 and "none.rec: expected records to check, got no such file" in said
    code, said = check("/")
    assert code == 2 and "/: expected the records' path without suffix, got a folder" in said


def test_records_that_fail_verification_get_no_final_name(source, copy, monkeypatch):
    unfinish(copy, source)
    edit(Path(f"{copy}.rec.partial"), 12, np.float32(9).tobytes())
    one_line(
        lambda: prepare(source, copy, show=False),
        "with other keys or labels",
        "delete train.rec.partial",
    )
    assert not Path(f"{copy}.rec").exists() and not Path(f"{copy}.idx").exists()


def test_a_folder_of_damaged_images_alone_makes_no_records(tmp_path):
    (tmp_path / "in" / "n0").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "in" / "n0" / f"{i}.jpg").write_bytes(b"<html>")
    output = tmp_path / "out" / "train"
    one_line(lambda: prepare(tmp_path / "in", output, show=False), "expected images, got 3 files")
    assert files_of(output) == {}
