"""Where a classification network ends: its head, found and taken off.

A head is read off the order in which a network calls its blocks, so that it may stand in a pair
``features`` and ``output``, or in attributes such as ``avgpool``, ``flat`` and ``fc``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from gluoncv.nn.block import HardSwish, ReLU6
from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.nn import Identity

from trnet.tensor.backend import mx

LINEAR = (nn.Dense, nn.Conv2D)
POOLING = (nn.GlobalAvgPool2D, nn.AvgPool2D)
_ACTIVATIONS = (nn.Activation, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.Swish)
_BETWEEN = (*_ACTIVATIONS, HardSwish, ReLU6, nn.Dropout)
_UNDERSTOOD = (*LINEAR, *POOLING, *_BETWEEN, nn.Flatten)


@dataclass(frozen=True)
class _Call:
    """A block as a network calls it, from one symbol to another."""

    block: HybridBlock
    input: mx.sym.Symbol
    output: mx.sym.Symbol

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.input.infer_shape_partial()[1][0][1:]

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.output.infer_shape_partial()[1][0][1:]


def take_off_head(
    network: HybridBlock, image_shape: tuple[int, int, int]
) -> tuple[HybridBlock, list[HybridBlock]]:
    """Part a network into its trunk and its head.

    The head is all that stands behind the activation tensor: average pooling over all of it or
    flattening, then dense layers or 1×1 convolutions with activations and dropout between them.

    Parameters
    ----------
    network : HybridBlock
        From images to class scores, initialised or not. It becomes the trunk, not hybridized.
    image_shape : tuple of int
        (channels, height, width).

    Returns
    -------
    HybridBlock, list of HybridBlock
        The trunk, from images to the activation tensor, and the head's blocks in order.

    Raises
    ------
    ValueError
        Where the network ends in another way; the message says in which.
    """
    network.hybridize(False)  # or graphs with the head in them would be left
    calls, scores = _trace(network, image_shape)
    tail = _tail(calls)
    for before, behind in zip(tail, tail[1:]):
        if behind.input is not before.output:
            raise ValueError(
                f"between its {_name(before)} and its {_name(behind)} stands an operator of no "
                "block"
            )
    if tail[-1].output is not scores:
        raise ValueError(f"an operator of no block stands behind its {_name(tail[-1])}")
    head = [call.block for call in tail]
    _remove(network, head)
    return network, head


def output_shape(block: HybridBlock, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a sample behind a block, by shape inference: nothing is allocated or computed.

    Raises
    ------
    ValueError
        Where the block takes no such samples.
    """
    return _sample_shape(block(mx.sym.var("data", shape=(1, *in_shape))), in_shape)


def _sample_shape(symbol: mx.sym.Symbol, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a sample of a symbol that was made of images."""
    try:
        return symbol.infer_shape_partial()[1][0][1:]
    except MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"images of {image_shape} do not fit it: {reason}") from None


def _tail(calls: list[_Call]) -> list[_Call]:
    """The calls behind the activation tensor: from the last that takes more than one pixel."""
    # From the end, as every shape takes a walk through all of the network in front.
    places = reversed(range(len(calls)))
    first = next((i for i in places if prod(calls[i].in_shape[1:]) > 1), 0)
    vectorises = calls[first]
    if not isinstance(vectorises.block, (*POOLING, nn.Flatten, nn.Dense)):
        if any(isinstance(call.block, (*POOLING, nn.Flatten)) for call in calls[first + 1 :]):
            raise ValueError("the images leave it one pixel to pool; larger ones would fit")
        raise ValueError(
            f"the last of its blocks that takes more than one pixel is a {_name(vectorises)}; "
            "average pooling, Flatten or Dense would fit"
        )
    if isinstance(vectorises.block, nn.AvgPool2D):
        kernel, size = tuple(vectorises.block._kwargs["kernel"]), vectorises.in_shape[1:]
        if kernel != size:
            raise ValueError(f"its AvgPool2D pools {kernel} of {size}; all of them would fit")
    # A classifier of 1×1 convolutions may stand before the pooling.
    while not any(isinstance(call.block, LINEAR) for call in calls[first:]):
        first -= 1
        if first < 0 or not isinstance(calls[first].block, (*LINEAR, *_BETWEEN)):
            raise ValueError("it has no dense layer and no 1×1 convolution behind its trunk")
    if first > 0 and isinstance(calls[first - 1].block, nn.Dropout):
        first -= 1
    for call in calls[first:]:
        _check(call)
    return calls[first:]


def _check(call: _Call) -> None:
    """Refuse a block that a head of ours does not know."""
    if not isinstance(call.block, _UNDERSTOOD):
        raise ValueError(f"its head holds a {_name(call)}, which is not understood")
    if isinstance(call.block, nn.Conv2D):
        kernel, groups = (call.block._kwargs[key] for key in ("kernel", "num_group"))
        if tuple(kernel) != (1, 1) or groups != 1 or call.in_shape[1:] != call.out_shape[1:]:
            raise ValueError(f"its head holds a {_name(call)} of {kernel}; 1×1 would fit")


def _trace(
    network: HybridBlock, image_shape: tuple[int, int, int]
) -> tuple[list[_Call], mx.sym.Symbol]:
    """The calls of a network's blocks in order, and its scores."""
    calls: list[_Call] = []

    def note(block, inputs, output) -> None:
        calls.append(_Call(block, inputs[0], output))

    hooks = [unit.register_forward_hook(note) for unit in dict.fromkeys(_units(network))]
    try:
        scores = network(mx.sym.var("data", shape=(1, *image_shape)))
    except (MXNetError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"it cannot be traced: {reason}") from None
    finally:
        for hook in hooks:
            hook.detach()
    if not isinstance(scores, mx.sym.Symbol):
        raise ValueError(f"it gives {len(scores)} outputs; one would fit")
    _sample_shape(scores, image_shape)
    return calls, scores


def _units(block: HybridBlock) -> Iterator[HybridBlock]:
    """Blocks that count as one: those that a head may hold, and all that hold no other."""
    children = list(block._children.values())
    if isinstance(block, _UNDERSTOOD) or not children:
        yield block
        return
    for child in children:
        yield from _units(child)


def _remove(block: HybridBlock, unwanted: list[HybridBlock]) -> None:
    """Take blocks out of a network; one that its code calls by name passes its input on instead."""
    for name, child in list(block._children.items()):
        if not any(child is one for one in unwanted):
            _remove(child, unwanted)
            continue
        del block._children[name]
        if not isinstance(block, nn.HybridSequential):
            delattr(block, name)  # as Gluon lets no attribute change its type
            setattr(block, name, Identity(prefix=""))


def _name(call: _Call) -> str:
    return type(call.block).__name__
