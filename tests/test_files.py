"""Files: complete or absent, with a name in every error, and checksums as others write them."""

import errno
import os

import pytest

from trnet.errors import UserError
from trnet.files import aside, check_checksum, naming, sync, write_aside, write_checksum


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    write_aside(path, "before")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as error:
        write_aside(path, "after")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError) as error:
        sync(path)
    assert error.value.filename == str(path)


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path):
    path = tmp_path / "plot.png"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="no such format"), aside(path) as beside:
        beside.write_bytes(b"half of it")
        raise ValueError("no such format")
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder") as error:
        write_aside(tmp_path / "missing" / "table.md", "")
    assert error.value.filename == str(tmp_path / "missing")


def test_an_error_that_has_a_name_keeps_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error, naming(tmp_path / "other"):
        (tmp_path / "missing").read_text()
    assert error.value.filename == str(tmp_path / "missing")


def test_a_text_may_hold_names_that_are_no_utf8(tmp_path):
    write_aside(tmp_path / "names", "a\udcffb\n")
    assert (tmp_path / "names").read_bytes() == b"a\xffb\n"


@pytest.mark.parametrize("content", ["", "0" * 64, "rubbish\n", "\udcff"])
def test_a_checksum_that_is_another_one(content, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    check_checksum(path)  # none is beside it
    write_checksum(path)
    check_checksum(path)
    write_aside(tmp_path / "net.onnx.sha256", content)
    with pytest.raises(UserError, match=r"net\.onnx: is damaged: [^\n]* net\.onnx\.sha256$"):
        check_checksum(path)
