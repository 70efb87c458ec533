"""Heads: from the activation tensor (batch, C, H, W) to class scores, in the registry HEADS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mxnet.gluon import HybridBlock, nn

from trnet.layers import TCL, TRL
from trnet.models.backbones import Backbone
from trnet.tensor.factorizations import DEFAULT, FACTORIZATIONS, Rank

SPATIAL_MODES = (2, 3)  # H and W of the activation tensor (C, H, W)
_DROPOUT = 0.5  # AlexNet's and VGG's


def dense_head(
    backbone: Backbone,
    in_shape: tuple[int, ...],
    classes: int,
    hidden: Sequence[int] | None = None,
    dropout: float | None = None,
    pooling: bool | None = None,
) -> HybridBlock:
    """The network's own head, or one of its form: pooling or flattening, then dense layers.

    Parameters
    ----------
    backbone : Backbone
        The backbone that the head is for.
    in_shape : tuple of int
        (C, H, W) of the activation tensor.
    classes : int
    hidden : sequence of int, optional
        Units of the hidden dense layers; by default the backbone's own.
    dropout : float, optional
        Rate of the dropout after every hidden layer: by default 0.5, and in the network's own head
        the rate that it has.
    pooling : bool, optional
        Whether global average pooling precedes the dense layers, or flattening: by default the one
        that the network itself has.
    """
    head = nn.HybridSequential(prefix="head_")
    if hidden is None and pooling in (None, backbone.pooling) and backbone.classes == classes:
        if dropout and not any(isinstance(block, nn.Dropout) for block in backbone.head):
            raise _nothing_to_drop(dropout)
        head.add(*backbone.head)
        for block in backbone.head:
            if isinstance(block, nn.Dropout) and dropout is not None:
                block._rate = dropout
        return head
    with head.name_scope():
        pools = backbone.pooling if pooling is None else pooling
        # (B, C, H, W) -> (B, C, 1, 1), which a dense layer flattens, or (B, C·H·W)
        head.add(nn.GlobalAvgPool2D() if pools else nn.Flatten())
        _add_dense(head, backbone.hidden if hidden is None else hidden, dropout, classes)
    return head


def tcl_head(
    backbone: Backbone,
    in_shape: tuple[int, ...],
    classes: int,
    rank: Sequence[int] | Sequence[Sequence[int]],
    hidden: Sequence[int] | None = None,
    dropout: float | None = None,
    norm: bool = True,
) -> HybridBlock:
    """A TCL, or several one after another, then dense layers on the flattened result.

    Parameters
    ----------
    backbone, in_shape, classes, hidden, dropout
        As in :func:`dense_head`.
    rank : sequence of int, or of such
        (R1, R2, R3) of the TCL, or of each.
    norm : bool
        Whether batch normalisation precedes and follows every TCL.
    """
    head = nn.HybridSequential(prefix="head_")
    with head.name_scope():
        if norm:
            head.add(nn.BatchNorm())
        for each in rank if isinstance(rank[0], Sequence) else [rank]:
            head.add(TCL(tuple(each), in_shape))  # (B, C, H, W) -> (B, R1, R2, R3)
            in_shape = tuple(each)
            if norm:
                head.add(nn.BatchNorm())
        head.add(nn.Flatten())  # -> (B, R1·R2·R3)
        _add_dense(head, backbone.hidden if hidden is None else hidden, dropout, classes)
    return head


def trl_head(
    backbone: Backbone,
    in_shape: tuple[int, ...],
    classes: int,
    rank: Rank,
    factorization: str = DEFAULT,
    dropout: float = 0.0,
    pooling: bool | None = None,
    norm: bool = False,
    weight_norm: bool = False,
    tcl: Sequence[int] | None = None,
) -> HybridBlock:
    """A TRL in place of everything after the activation tensor.

    Parameters
    ----------
    backbone, in_shape, classes
        As in :func:`dense_head`.
    rank, factorization, dropout
        As in :class:`trnet.TRL`.
    pooling : bool, optional
        Whether the TRL starts as global average pooling and a dense layer: by default if the
        network itself pools and the factorisation supports it.
    norm : bool
        Whether batch normalisation precedes and follows the TRL, and a TCL, as the authors trained
        them.
    weight_norm : bool
        As in :class:`trnet.TRL`.
    tcl : sequence of int, optional
        (R1, R2, R3) of a TCL before the TRL, which then does not pool.
    """
    pools = backbone.pooling if pooling is None and tcl is None else pooling
    # The layer itself refuses the name of an unknown factorisation.
    supports = getattr(FACTORIZATIONS.get(factorization), "supports_pooling", False)
    trl = TRL(
        classes,
        rank,
        in_shape if tcl is None else tuple(tcl),
        factorization,
        dropout=dropout,
        pooled_modes=SPATIAL_MODES if pools and supports else (),
        weight_norm=weight_norm,
        prefix="head_",
    )
    if not norm and tcl is None:
        return trl
    head = nn.HybridSequential(prefix="head_")
    with head.name_scope():
        for layer in (trl,) if tcl is None else (TCL(tuple(tcl), in_shape), trl):
            if norm:
                head.add(nn.BatchNorm())
            head.add(layer)
        if norm:
            head.add(nn.BatchNorm())
    return head


def _add_dense(
    head: nn.HybridSequential, hidden: Sequence[int], dropout: float | None, classes: int
) -> None:
    if dropout and not hidden:
        raise _nothing_to_drop(dropout)
    rate = _DROPOUT if dropout is None else dropout
    for units in hidden:
        head.add(nn.Dense(units, activation="relu"), nn.Dropout(rate))
    head.add(nn.Dense(classes))


def _nothing_to_drop(dropout: float) -> ValueError:
    return ValueError(f"dropout: expected 0 without hidden layers, got {dropout:g}")


HEADS: dict[str, Callable[..., HybridBlock]] = {
    "dense": dense_head,
    "tcl": tcl_head,
    "trl": trl_head,
}
"""The registry of heads: a type, and a function that makes a head of that type.

The types are values of ``model.head.type`` in a config, and of ``head["type"]`` in
:func:`~trnet.models.attach_head`. The function is called with the :class:`Backbone`, the shape
(C, H, W) of the activation tensor, and the number of classes; its further arguments, by keyword,
are the other keys of ``model.head``. A plugin registers a head by assignment, and a config whose
``plugins`` name the plugin's module can use it::

    from trnet.models import HEADS


    def my_head(backbone, in_shape, classes, units=64):
        head = nn.HybridSequential(prefix="head_")
        with head.name_scope():
            head.add(nn.Flatten(), nn.Dense(units, activation="tanh"), nn.Dense(classes))
        return head


    HEADS["mine"] = my_head  # in a config: head: {type: mine, units: 32}
"""
