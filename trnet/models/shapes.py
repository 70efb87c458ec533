"""Shapes by inference through a symbol of one sample: nothing is allocated or computed."""

from __future__ import annotations

from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock

from trnet.errors import lines_of
from trnet.tensor.backend import mx


def parameter_shapes(block: HybridBlock, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Infer the shape of every parameter, by name.

    Parameters
    ----------
    block : HybridBlock
        Initialised or not.
    in_shape : tuple of int
        Its input's shape without the batch.
    """
    out = block(sample(in_shape))
    arguments, _, states = out.infer_shape()
    names = [*out.list_arguments(), *out.list_auxiliary_states()]
    return {name: s for name, s in zip(names, [*arguments, *states]) if name != "data"}


def output_shape(block: HybridBlock, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Infer the shape of a block's output, without the batch.

    Raises
    ------
    ValueError
        If the block does not take such samples.
    """
    return shape_of(block(sample(in_shape)), in_shape)


def sample(shape: tuple[int, ...]) -> mx.sym.Symbol:
    """A symbol of a batch (1, *shape)."""
    return mx.sym.var("data", shape=(1, *shape))


def shape_of(symbol: mx.sym.Symbol, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Infer the shape of a symbol computed from a sample of ``in_shape``, without the batch."""
    try:
        return symbol.infer_shape_partial()[1][0][1:]  # of the first output
    except MXNetError as error:
        reason = lines_of(error)[-1]
        raise ValueError(f"the network does not take images of {in_shape}: {reason}") from None
