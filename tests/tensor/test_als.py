"""CP by alternating least squares: exact where the rank is, and else as good as TensorLy's best."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet.gluon import nn
from tensor.reference import full_weight

from trnet import TRL
from trnet.tensor import als
from trnet.tensor.backend import tensorly_scope
from trnet.tensor.factorizations import FACTORIZATIONS


def relative_error(weight: np.ndarray, factors) -> float:
    return np.linalg.norm(weight - full_weight("cp", factors)) / np.linalg.norm(weight)


def random_terms(shape: tuple[int, ...], rank: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return full_weight("cp", [rng.standard_normal((size, rank)) for size in shape])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "shape, rank",
    [
        ((7, 6), 3),
        ((6, 5, 4), 3),
        ((6, 5, 4), 5),
        ((4, 5, 6), 7),  # more terms than any mode is long
        ((5, 5, 5), 7),
        ((8, 7, 7, 10), 6),
        ((20, 7, 7, 10), 10),
        ((3, 4, 2, 3, 5), 6),
    ],
)
def test_exact_where_the_rank_is(shape, rank, seed):
    weight = random_terms(shape, rank, seed)
    assert relative_error(weight, als.fit(weight, rank)) < 1e-6


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pooled_dense_weight(scale, dtype):
    """Repeated over 7×7 pixels, it has the dense weight's rank."""
    dense = np.random.default_rng(0).standard_normal((64, 10)) * scale / 49
    weight = np.broadcast_to(dense[:, None, None, :], (64, 7, 7, 10)).astype(dtype)
    form = FACTORIZATIONS["cp"](weight.shape, 10)
    assert relative_error(weight, form.decompose(weight).values()) < 1e-6


@pytest.mark.parametrize("rank", [3, 5, 30])
def test_a_weight_of_few_entries(rank):
    weight = np.eye(120, 3).reshape(4, 5, 6, 3)
    form = FACTORIZATIONS["cp"](weight.shape, rank)
    assert relative_error(weight, form.decompose(weight).values()) < 1e-6


@pytest.mark.parametrize(
    "shape, rank", [((6, 5, 4), 4), ((4, 5, 6, 3), 8), ((8, 7, 7, 10), 10), ((5, 4, 3, 2, 4), 5)]
)
def test_as_good_as_the_best_of_five_starts(shape, rank):
    weight, errors = np.random.default_rng(1).standard_normal(shape), []
    with tensorly_scope("numpy"):
        from tensorly.decomposition import parafac

        for seed in range(5):
            _, factors = parafac(weight, rank, 300, init="random", random_state=seed, tol=1e-9)
            errors.append(relative_error(weight, factors))
    assert relative_error(weight, als.fit(weight, rank)) < 1.01 * min(errors)


@pytest.mark.parametrize("shape", [(9, 4), (6, 5, 4), (6, 3, 3, 5), (3, 2, 4, 2, 5)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_unit_columns_and_the_same_result_each_time(shape, rank):
    weight = np.random.default_rng(2).standard_normal(shape)
    form = FACTORIZATIONS["cp"](shape, rank)
    first, second = (list(form.decompose(weight).values()) for _ in range(2))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    for factor in first[:-1]:
        lengths = np.linalg.norm(factor, axis=0)
        assert np.all((np.abs(lengths - 1) < 1e-9) | (lengths == 0))
    assert relative_error(weight, first) < 1


def test_a_weight_of_zero_stays_trainable():
    form = FACTORIZATIONS["cp"]((4, 5, 3), 2)
    *others, last = form.decompose(np.zeros((4, 5, 3))).values()
    assert not last.any() and all(factor.any() for factor in others)


@pytest.mark.parametrize("form", ["tucker", "cp", "tensor_train"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(refusal, form, value):
    dense = nn.Dense(3, in_units=60)
    dense.initialize()
    weight = dense.weight.data()
    weight[1, 7] = value
    dense.weight.set_data(weight)
    layer = TRL(3, 0.5, (4, 5, 3), form)
    refusal(lambda: layer.init_from_dense(dense), f"TRL {layer.name}: dense", "finite")
