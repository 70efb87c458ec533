"""The look into Gluon's trace, on the MXNet that is pinned."""

from __future__ import annotations

import mxnet as mx
import pytest
from mxnet.gluon import HybridBlock, nn

from trnet.layers.tracing import shape_in_trace


class Recorder(HybridBlock):
    """Passes its input on, and records the shape that the trace has for it."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = []

    def forward(self, x):
        self.shapes.append(shape_in_trace(x))
        return super().forward(x)

    def hybrid_forward(self, F, x):
        return F.identity(x)


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (5, 3, 11, 7)])
def test_a_shape_is_inferred_from_the_arrays_of_the_trace(shape):
    network, recorder = nn.HybridSequential(), Recorder()
    network.add(nn.Conv2D(4, kernel_size=3), recorder)
    network.initialize()
    network.hybridize()
    network(mx.nd.zeros(shape))
    assert recorder.shapes == [(shape[0], 4, shape[2] - 2, shape[3] - 2)]


def test_a_shape_is_inferred_from_a_variable():
    recorder = Recorder()
    recorder(mx.sym.var("data", shape=(0, 3, 4)))
    assert recorder.shapes == [(0, 3, 4)]


@pytest.mark.parametrize("shape", [None, (2, 0, 4)])
def test_an_unknown_shape_is_none(shape):
    recorder = Recorder()
    recorder(mx.sym.var("data", shape=shape))
    assert recorder.shapes == [None]
