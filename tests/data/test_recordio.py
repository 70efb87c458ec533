"""RecordIO: records laid out as MXNet does, and damage that verification finds."""

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from data.helpers import one_line, unfinish
from hypothesis import given
from hypothesis import strategies as st

from trnet.data.prepare import prepare
from trnet.data.recordio import frame
from trnet.errors import UserError

MAGIC = (0xCED7230A).to_bytes(4, "little")


@given(st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=12))
def test_frames_are_mxnets(tmp_path_factory, pieces):
    content = b"".join(pieces)
    path = tmp_path_factory.getbasetemp() / "framed.rec"
    writer = mx.recordio.MXRecordIO(str(path), "w")
    writer.write(content)
    writer.close()
    assert path.read_bytes() == frame(content)


def edit(path: Path, begin: int, content: bytes) -> None:
    held = bytearray(path.read_bytes())
    held[begin : begin + len(content)] = content
    path.write_bytes(held)


def label_of_third(output: Path) -> int:
    """The offset of the third record's label, after its frame's two words and its flag."""
    return int(Path(f"{output}.idx").read_text().splitlines()[2].split("\t")[1]) + 12


def swap(path: Path) -> None:
    """Swap the offsets of the first two records."""
    (a, at), (b, bt), *rest = (line.split("\t") for line in path.read_text().splitlines())
    path.write_text("".join(f"{k}\t{v}\n" for k, v in [(a, bt), (b, at), *rest]))


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda rec, idx, at: edit(rec, at, np.float32(9).tobytes()), "and label 9.0"),
        (lambda rec, idx, at: edit(rec, at + 4, b"\x77"), "got id 119 and"),
        (lambda rec, idx, at: edit(rec, at - 12, b"\0\0\0\0"), "cannot be read"),
        (lambda rec, idx, at: edit(rec, at - 8, b"\xff\xff\xff\x1f"), "cannot be read"),
        (lambda rec, idx, at: edit(rec, at + 20, b"\0" * 20), "cannot be read"),
        (
            lambda rec, idx, at: rec.write_bytes(rec.read_bytes()[:-40]),
            "expected to end with the last record",
        ),
        (
            lambda rec, idx, at: rec.write_bytes(rec.read_bytes() + b"more"),
            "expected to end with the last record",
        ),
        (lambda rec, idx, at: swap(idx), "got id"),
        (
            lambda rec, idx, at: idx.write_text(idx.read_text()[4:]),
            "expected one line per record|expected 24 records",
        ),
        (
            lambda rec, idx, at: idx.write_text(idx.read_text().partition("\n")[2]),
            "expected 24 records, got 23",
        ),
    ],
)
def test_verification_finds_damage(source, copy, damage, said):
    rec, idx = Path(f"{copy}.rec"), Path(f"{copy}.idx")
    damage(rec, idx, label_of_third(copy))
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        prepare(source, copy, jobs=2, show=False)
    assert any(words in str(error.value) for words in said.split("|")), error.value


def test_records_that_fail_verification_get_no_final_name(source, copy):
    unfinish(copy, source)
    edit(Path(f"{copy}.rec.partial"), 12, np.float32(9).tobytes())
    one_line(lambda: prepare(source, copy, show=False), "record 0 (", "delete train.rec.partial")
    assert not Path(f"{copy}.rec").exists() and not Path(f"{copy}.idx").exists()
