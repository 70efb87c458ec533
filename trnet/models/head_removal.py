"""Removes the head of a classification network, to leave its backbone.

The head is found in the order in which the network calls its blocks. So it may be a pair
``features`` and ``output``, or attributes such as ``avgpool``, ``flat`` and ``fc``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from gluoncv.nn.block import HardSwish, ReLU6
from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.nn import Identity

from trnet.errors import lines_of
from trnet.models.backbones import Backbone
from trnet.models.shapes import sample, shape_of
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

    def __str__(self) -> str:
        return type(self.block).__name__


def remove_head(network: HybridBlock, image_shape: tuple[int, int, int]) -> Backbone:
    """Split a classification network into its backbone and its head.

    The head is everything after the activation tensor: average pooling over all of its pixels or
    flattening, then dense layers or 1×1 convolutions with activations and dropout between them.

    Parameters
    ----------
    network : HybridBlock
        From images to class scores, initialised or not. It becomes the backbone's ``features``,
        which are not hybridized.
    image_shape : tuple of int
        (channels, height, width).

    Returns
    -------
    Backbone
        With the parameters of ``network`` itself, and the blocks of its head.

    Raises
    ------
    ValueError
        If the network ends in another way; the message says in which.
    """
    names = network._collect_params_with_prefix()
    network.hybridize(False)  # else cached graphs would still contain the head
    calls, scores = _trace(network, image_shape)
    head = _head_calls(calls)
    for before, after in zip(head, head[1:]):
        if after.input is not before.output:
            raise ValueError(
                f"expected only blocks in the head, got an operator between {before} and {after}"
            )
    if head[-1].output is not scores:
        raise ValueError(f"expected only blocks in the head, got an operator after {head[-1]}")
    blocks = [call.block for call in head]
    _remove(network, blocks)
    linear = [block for block in blocks if isinstance(block, LINEAR)]
    widths = [b._units if isinstance(b, nn.Dense) else b._channels for b in linear]
    return Backbone(
        network,
        pooling=any(isinstance(block, POOLING) for block in blocks),
        hidden=tuple(widths[:-1]),
        head=blocks,
        classes=widths[-1],
        names=names,
    )


def _trace(
    network: HybridBlock, image_shape: tuple[int, int, int]
) -> tuple[list[_Call], mx.sym.Symbol]:
    """The calls of a network's blocks in order, and its scores."""
    calls: list[_Call] = []

    def note(block, inputs, output) -> None:
        calls.append(_Call(block, inputs[0], output))

    hooks = [unit.register_forward_hook(note) for unit in dict.fromkeys(_units(network))]
    try:
        scores = network(sample(image_shape))
    except (MXNetError, ValueError, TypeError) as error:
        reason = lines_of(error)[0]
        raise ValueError(f"the network cannot be traced: {reason}") from None
    finally:
        for hook in hooks:
            hook.detach()
    if not isinstance(scores, mx.sym.Symbol):
        raise ValueError(f"expected a network with one output, got {len(scores)} outputs")
    shape_of(scores, image_shape)  # refuses images that are too small
    return calls, scores


def _units(block: HybridBlock) -> Iterator[HybridBlock]:
    """Blocks that count as one: those that a head may hold, and those without children."""
    children = list(block._children.values())
    if isinstance(block, _UNDERSTOOD) or not children:
        yield block
        return
    for child in children:
        yield from _units(child)


def _head_calls(calls: list[_Call]) -> list[_Call]:
    """The calls of the head: it starts at the last block that takes more than one pixel."""
    # From the end, because inferring a shape walks through all of the network before it.
    places = reversed(range(len(calls)))
    first = next((i for i in places if prod(calls[i].in_shape[1:]) > 1), 0)
    start = calls[first]  # (C, H, W) -> (C, 1, 1), (C·H·W,) or, for a dense layer, (units,)
    if not isinstance(start.block, (*POOLING, nn.Flatten, nn.Dense)):
        if any(isinstance(call.block, (*POOLING, nn.Flatten)) for call in calls[first + 1 :]):
            raise ValueError("expected larger images: these leave only one pixel to pool")
        raise ValueError(
            "expected average pooling, Flatten or Dense as the last block that takes more than "
            f"one pixel, got {start}"
        )
    if isinstance(start.block, nn.AvgPool2D):
        kernel, size = tuple(start.block._kwargs["kernel"]), start.in_shape[1:]
        if kernel != size:
            raise ValueError(f"expected AvgPool2D over all pixels {size}, got a kernel {kernel}")
    # SqueezeNet's classifier is a 1×1 convolution before the pooling.
    while not any(isinstance(call.block, LINEAR) for call in calls[first:]):
        first -= 1
        if first < 0 or not isinstance(calls[first].block, (*LINEAR, *_BETWEEN)):
            raise ValueError("expected a dense layer or a 1×1 convolution in the head, got neither")
    if first > 0 and isinstance(calls[first - 1].block, nn.Dropout):
        first -= 1
    for call in calls[first:]:
        _check(call)
    return calls[first:]


def _check(call: _Call) -> None:
    """Refuse a block that is not understood as part of a head."""
    if not isinstance(call.block, _UNDERSTOOD):
        raise ValueError(
            "expected dense layers, 1×1 convolutions, pooling, activations and dropout in the "
            f"head, got {call}"
        )
    if isinstance(call.block, nn.Conv2D):
        kernel, groups = (call.block._kwargs[key] for key in ("kernel", "num_group"))
        if tuple(kernel) != (1, 1) or groups != 1 or call.in_shape[1:] != call.out_shape[1:]:
            raise ValueError(
                "expected 1×1 convolutions in one group that keep the pixels in the head, got "
                f"{call} with a kernel {tuple(kernel)} in {groups} groups"
            )


def _remove(block: HybridBlock, unwanted: list[HybridBlock]) -> None:
    """Remove blocks; an identity replaces those that the network's code calls by name."""
    for name, child in list(block._children.items()):
        if not any(child is one for one in unwanted):
            _remove(child, unwanted)
            continue
        del block._children[name]
        if not isinstance(block, nn.HybridSequential):
            delattr(block, name)  # because Gluon refuses to change an attribute's type
            setattr(block, name, Identity(prefix=""))
