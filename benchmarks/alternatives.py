"""Heads for ``stability.py``: simpler ways to train a TRL than scaled gradients.

A plugin of configs: it registers the types of heads ``plain`` and ``static``. Both have the start
of :class:`~trnet.layers.TRL`.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Union

import numpy as np

from trnet.layers import TRL
from trnet.models import HEADS, Backbone
from trnet.tensor.initial import dense_std


class Plain(TRL):
    """A TRL whose gradients no trainer scales."""

    def _parameter_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        shapes = super()._parameter_shapes(in_shape)
        for name in self._factor_names():
            del self._reg_params[name].tensor_layer
        return shapes


class Static(Plain):
    """A plain TRL whose factors learn 1 / σ² as fast, with σ² the eigenvalues of Ck at the start.

    That is what scaled gradients divide by, as long as the weight stays as it was.
    """

    def _initial_values(self, name: str, initializer) -> np.ndarray:
        form = self.factorization
        if name != form.scale_name(len(self.in_shape)):
            power = prod(form.shape) * dense_std(initializer, form.dense_shape) ** 2  # ‖W‖²
            rank = form.parameter_shapes[name][-1]
            self._reg_params[name].lr_mult = rank / power
        return super()._initial_values(name, initializer)


def head(
    layer: type[TRL],
    backbone: Backbone,
    in_shape: tuple[int, ...],
    classes: int,
    rank: Union[int, list],
    factorization: str = "tucker",
) -> TRL:
    """A TRL of some class in place of everything after the activation tensor."""
    return layer(classes, rank, in_shape, factorization, prefix="head_")


HEADS["plain"] = partial(head, Plain)
HEADS["static"] = partial(head, Static)
