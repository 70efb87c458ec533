"""The tensor contraction layer against its formula, and how it starts."""

from __future__ import annotations

from math import prod

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers.helpers import (
    INITIALIZERS,
    close,
    dense_power,
    initial_power,
    normal,
    numpy_output,
    values,
)
from tensor.reference import generators, sizes

from trnet.layers import TCL

pairs = st.lists(st.tuples(sizes, sizes).map(sorted), min_size=1, max_size=4)  # (Rk, Ik)


@given(pairs, generators, sizes, st.booleans())
def test_forward(pairs, rng, batch, hybridized):
    rank, in_shape = zip(*pairs)
    layer = TCL(rank, use_bias=True, bias_initializer="normal", dtype="float64")
    layer.initialize(mx.init.Normal(1))
    layer.hybridize(hybridized)
    x = mx.nd.array(rng.standard_normal((batch, *in_shape)), dtype="float64")
    out = layer(x)
    assert out.shape == (batch, *rank)
    close(out, numpy_output("tcl", layer, x))
    assert layer.rank == rank and layer.in_shape == in_shape
    assert {name: value.shape for name, value in values(layer).items()} == {
        **{f"factor{k}": pair for k, pair in enumerate(zip(rank, in_shape), start=1)},
        "bias": rank,
    }


def test_dense_weight_is_the_kronecker_product():
    layer = TCL((2, 3), in_shape=(4, 5), dtype="float64")
    layer.initialize()
    close(layer.to_dense_weight(), np.kron(*values(layer).values()), 1e-12)


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize(
    "in_shape, rank",
    [
        ((400,), (30,)),
        ((40, 12), (1, 1)),
        ((24, 5, 5), (1, 1, 1)),
        ((24, 5, 5), (12, 3, 3)),
        ((24, 5, 5), (24, 5, 5)),
        ((9, 4, 5, 3), (2, 4, 1, 3)),
    ],
)
def test_initial_variance_is_that_of_a_dense_layer(initializer, in_shape, rank):
    layer, x = TCL(rank, in_shape=in_shape), normal(2000, *in_shape, dtype="float32")
    expected = dense_power(initializer, prod(rank), prod(in_shape))
    for _ in range(3):
        assert initial_power(layer, initializer, x) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    "rank, said",
    [
        ((0, 2), ["mode 1", "0"]),
        ((2, -1), ["mode 2", "-1"]),
        ((2, True), ["mode 2", "True"]),
        ((2.0, 2), ["mode 1", "2.0"]),
        ((2, "2"), ["mode 2", "'2'"]),
        ((2, 9), ["mode 2", "9", "1 to 5"]),
        ((2, 2, 2), ["expected 3 modes", "got 2"]),
        ((2,), ["expected 1 modes", "got 2"]),
        ((), ["()", "integer"]),
        (3, ["3", "(R1, …, RN)"]),
        (0.5, ["0.5", "(R1, …, RN)"]),
        ("same", ["'same'", "(R1, …, RN)"]),
        (None, ["None", "(R1, …, RN)"]),
    ],
)
@pytest.mark.parametrize("way", ["known", "deferred", "hybridized"])
def test_wrong_rank(refusal, rank, said, way):
    def run() -> None:
        layer = TCL(rank, in_shape=(4, 5) if way == "known" else None)
        layer.initialize()
        layer.hybridize(way == "hybridized")
        layer(mx.nd.ones((2, 4, 5)))

    assert refusal(run, *said).startswith("TCL tcl")


def test_repr():
    layer = TCL((384, 5, 5))
    assert repr(layer) == "TCL(? -> 384×5×5)"
    layer.infer_shape(mx.nd.zeros((1, 512, 7, 7)))
    assert repr(layer) == "TCL(512×7×7 -> 384×5×5)"
