"""Folding the tensor layers of a trained network, wherever they are in it."""

from __future__ import annotations

from copy import copy
from functools import partial
from types import FunctionType, MethodType

from mxnet.gluon import Block, HybridBlock

from trnet.layers.block import Folded, TensorBlock


def fold(block: Block, batch: int = 1) -> Block:
    """Fold the tensor layers of a trained network, for inference.

    Parameters
    ----------
    block : Block
        Any block: a tensor layer, or one that holds tensor layers at any depth, as attributes,
        children, or in lists, tuples and dicts.
    batch : int
        Samples at a time, for which the layers are to be fast; a small one becomes one dense
        matrix. The network takes any other number, too.

    Returns
    -------
    Block
        A copy with folded layers, to be hybridized and exported. It shares all other parameters,
        and all blocks that hold no tensor layer.

    Raises
    ------
    ValueError
        For a layer whose input's shape is not known yet, and for one that a function holds, where
        it cannot be replaced; the message names the layer.
    """
    return _folded(block, batch, {})


def _folded(value, batch: int, made: dict):
    """A value with its tensor layers folded: the value itself where it holds none."""
    if isinstance(value, Block):
        if value not in made:
            made[value] = value  # for a block that refers to one that holds it
            made[value] = _folded_block(value, batch, made)
        return made[value]
    if isinstance(value, (list, tuple)):
        items = [_folded(item, batch, made) for item in value]
        is_same = all(item is old for item, old in zip(items, value))
        make = getattr(value, "_make", type(value))  # a named tuple's
        return value if is_same else make(items)
    if isinstance(value, dict):
        items = {key: _folded(item, batch, made) for key, item in value.items()}
        if all(items[key] is old for key, old in value.items()):
            return value
        folded = copy(value)
        folded.update(items)
        return folded
    _refuse_hidden(value)
    return value


def _folded_block(block: Block, batch: int, made: dict) -> Block:
    if isinstance(block, Folded):
        return block
    if isinstance(block, TensorBlock):
        return block.folded(batch)
    attributes = {name: _folded(value, batch, made) for name, value in vars(block).items()}
    if all(attributes[name] is value for name, value in vars(block).items()):
        return block
    clone = copy(block)
    vars(clone).update(attributes)
    for name, value in attributes.items():
        if isinstance(value, MethodType) and value.__self__ is block:
            vars(clone)[name] = MethodType(value.__func__, clone)
    clone._scope = copy(block._scope)
    clone._scope._block = clone
    if isinstance(clone, HybridBlock):
        clone._clear_cached_op()  # the graph of the layers that are not folded
    return clone


def _refuse_hidden(value) -> None:
    """Refuse a function that holds a tensor layer."""
    held = []
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        held += value.__defaults__ or ()
    elif isinstance(value, partial):
        held = [value.func, *value.args, *value.keywords.values()]
    for one in held:
        layers = _tensor_layers(one) if isinstance(one, Block) else []
        if layers:
            raise ValueError(
                f"fold cannot replace {layers[0].name}, {layers[0]!r}, which a function holds; "
                "make it an attribute of the block that calls it"
            )


def _tensor_layers(block: Block) -> list[TensorBlock]:
    if isinstance(block, TensorBlock):
        return [] if isinstance(block, Folded) else [block]
    return [layer for child in block._children.values() for layer in _tensor_layers(child)]
