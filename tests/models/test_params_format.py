"""The layout of .params files: what MXNet writes passes, and what it would wait for does not."""

from __future__ import annotations

import struct
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from trnet.models.params_format import check_layout
from trnet.models.weights import read_weights

DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8")


def saved(path: Path, arrays) -> Path:
    mx.nd.save(str(path), arrays)
    return path


def test_what_mxnet_writes_passes(tmp_path):
    arrays = {f"a.{dtype}": mx.nd.ones((2, 3, 1), dtype=dtype) for dtype in DTYPES}
    arrays["é"] = mx.nd.zeros((1,))
    check_layout(saved(tmp_path / "all.params", arrays))
    with mx.util.np_shape(True):
        check_layout(saved(tmp_path / "np.params", arrays))


def test_every_cut_is_noticed(tmp_path):
    content = saved(tmp_path / "a", {"w": mx.nd.ones((2, 3)), "b": mx.nd.ones(2)}).read_bytes()
    path = tmp_path / "cut"
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError):
            check_layout(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="it has more bytes than its arrays"):
        check_layout(path)


@pytest.mark.parametrize(
    "at, value, said",
    [
        (0, 0x111, "it is no file of MXNet's arrays"),
        (16, 2**63, "not dense|ends before"),
        (24, 0xF993FAC8, "not dense, or of a format before MXNet 1.0"),
        (28, 1, "not dense"),
        (32, 2**20, "has 1048576 dimensions"),
        (36, 2**62, "ends before its arrays do"),
        (60, 99, "no known type"),
    ],
)
def test_damage_is_named(at, value, said, tmp_path):
    path = saved(tmp_path / "a", {"w": mx.nd.ones((2, 3))})
    content = bytearray(path.read_bytes())
    form = "<Q" if at in (0, 16, 36) else "<I"
    struct.pack_into(form, content, at, value)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        check_layout(path)


def test_sparse_arrays_and_names_that_are_there_twice_are_refused(tmp_path):
    sparse = mx.nd.ones((2, 3)).tostype("row_sparse")
    with pytest.raises(ValueError, match="not dense"):
        check_layout(saved(tmp_path / "sparse", {"w": sparse}))
    path = saved(tmp_path / "twice", {"wa": mx.nd.ones(2), "wb": mx.nd.ones(2)})
    path.write_bytes(path.read_bytes().replace(b"wb", b"wa"))
    with pytest.raises(ValueError, match="2 arrays and 1 names"):
        check_layout(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_that_are_not_finite_are_named(value, dtype, tmp_path):
    arrays = {"good": mx.nd.ones(2), "bad.weight": mx.nd.array([1, value], dtype=dtype)}
    path = saved(tmp_path / "a.params", arrays)
    with pytest.raises(ValueError, match=r"finite, got others in bad\.weight"):
        read_weights("resnet18_v1", str(path))
