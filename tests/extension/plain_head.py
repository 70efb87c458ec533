"""A head as a plugin registers it: global average pooling and one dense layer."""

from __future__ import annotations

from typing import Optional

from mxnet.gluon import nn

from trnet.models import HEADS


def plain_head(
    backbone, in_shape, classes, width: int, bias: bool = True, act: Optional[str] = "relu"
):
    head = nn.HybridSequential(prefix="head_")
    with head.name_scope():
        head.add(
            nn.GlobalAvgPool2D(), nn.Dense(width, activation=act), nn.Dense(classes, use_bias=bias)
        )
    return head


HEADS["plain"] = plain_head
