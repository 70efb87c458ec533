"""A fourth form, as a user of trnet would add one: a plain low-rank matrix.

W (I1, …, IN, O) unfolded to (I1·…·IN, O) = A Bᵀ   A (I1·…·IN, R)   B (O, R)
"""

from __future__ import annotations

from math import prod

import numpy as np

from trnet.tensor.contraction import make_product
from trnet.tensor.factorizations import FACTORIZATIONS, Factorization, is_integer
from trnet.tensor.initial import orthonormal
from trnet.tensor.plan import TRAINING, Step


class LowRank(Factorization):
    """W unfolded = A Bᵀ, with rank R. Parameters: ``left`` A and ``right`` B."""

    title = "low-rank matrix"
    rank_form = "an integer"

    @staticmethod
    def parameter_names(n_modes):
        return ["left", "right"]

    @staticmethod
    def is_rank(rank):
        return is_integer(rank) and rank >= 1

    @staticmethod
    def input_modes(rank):
        return None

    @property
    def parameter_shapes(self):
        units, inputs = self.dense_shape
        return {"left": (inputs, self.rank), "right": (units, self.rank)}

    def _exact_rank(self, rank):
        if not 1 <= rank <= min(self.dense_shape):
            raise ValueError(
                f"rank: expected an integer from 1 to {min(self.dense_shape)}, got {rank}"
            )
        return rank

    def _rank_of(self, fraction):
        return max(1, round(fraction * prod(self.dense_shape) / sum(self.dense_shape)))

    def steps(self, reuse=TRAINING):
        # (I1, …, IN) -> (R,) -> (O,)
        *in_shape, units = self.shape
        return (
            Step(1, len(in_shape), tuple(in_shape), (self.rank,)),
            Step(1, 1, (self.rank,), (units,)),
        )

    def products(self, F, parameters, reuse=TRAINING):
        left, right = parameters.values()
        project, classify = self.steps()
        return [make_product(F, project, left, transposed=True), make_product(F, classify, right)]

    @property
    def latent_modes(self):
        return [("right", 1, self.rank)]

    def reconstruct(self, tl, parameters):
        left, right = parameters.values()
        return tl.dot(left, right.T).reshape(self.shape)

    def decompose(self, weight):
        u, s, vt = np.linalg.svd(weight.reshape(-1, self.shape[-1]), full_matrices=False)
        return {"left": u[:, : self.rank] * s[: self.rank], "right": vt[: self.rank].T}

    @property
    def _components(self):
        return self.rank

    def _unit(self, name):
        return orthonormal(*self.parameter_shapes[name])


FACTORIZATIONS["low_rank"] = LowRank
