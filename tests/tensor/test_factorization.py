"""Tucker, CP and tensor train: shapes, counts, ranks, decomposition and reconstruction."""

from __future__ import annotations

from math import prod
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor.reference import (
    FORMS,
    full_weight,
    generators,
    in_shapes,
    largest_rank,
    parameter_shapes,
    ranks,
    sizes,
)
from tensorly.cp_tensor import validate_cp_rank
from tensorly.tt_tensor import validate_tt_rank
from tensorly.tucker_tensor import validate_tucker_rank

from trnet.tensor.backend import tensorly_scope
from trnet.tensor.factorizations import FACTORIZATIONS, Factorization, Tucker

SHAPES = [(6, 5), (5, 4, 6), (4, 3, 2, 5), (3, 2, 4, 2, 3)]


def rebuilt(factorization: Factorization, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """The full weight, through TensorLy."""
    with tensorly_scope() as tl:
        arrays = {name: tl.tensor(array) for name, array in parameters.items()}
        return factorization.reconstruct(tl, arrays).asnumpy()


def distance(got: np.ndarray, weight: np.ndarray) -> float:
    return np.linalg.norm(got - weight) / np.linalg.norm(weight)


def unfoldings(form: str, weight: np.ndarray) -> list[np.ndarray]:
    """The matrices whose ranks a form bounds: by mode for Tucker, by cut for a tensor train."""
    if form == "tucker":
        return [np.moveaxis(weight, m, 0).reshape(s, -1) for m, s in enumerate(weight.shape)]
    return [weight.reshape(prod(weight.shape[:cut]), -1) for cut in range(1, weight.ndim)]


@pytest.mark.parametrize("form", FORMS)
@given(st.data())
def test_parameters(form, data):
    shape = (*data.draw(in_shapes), data.draw(sizes))
    rank, rng = data.draw(ranks(form, shape)), data.draw(generators)
    factorization = FACTORIZATIONS[form](shape, rank)
    shapes = parameter_shapes(form, shape, rank)
    assert factorization.shape == shape and factorization.rank == rank
    assert list(factorization.parameter_shapes) == factorization.parameter_names(len(shape) - 1)
    assert list(factorization.parameter_shapes.values()) == shapes
    assert factorization.size == sum(map(prod, shapes))
    assert factorization.dense_shape == (shape[-1], prod(shape[:-1]))

    parameters = {
        name: rng.standard_normal(s) for name, s in factorization.parameter_shapes.items()
    }
    expected = full_weight(form, list(parameters.values()))
    np.testing.assert_allclose(rebuilt(factorization, parameters), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "form, shape, rank, size",
    [
        ("tucker", (2048, 7, 7, 1000), (200, 1, 1, 200), 649_614),
        ("tucker", (2048, 7, 7, 1000), (150, 1, 1, 150), 479_714),
        ("tucker", (2048, 7, 7, 1000), (100, 1, 1, 100), 314_814),
        ("tucker", (2048, 7, 7, 1000), (50, 1, 1, 50), 154_914),
        ("cp", (512, 7, 7, 10), 8, 8 * (512 + 7 + 7 + 10)),
        ("tensor_train", (512, 7, 7, 10), (8, 6, 5), 512 * 8 + 8 * 7 * 6 + 6 * 7 * 5 + 5 * 10),
    ],
)
def test_size(form, shape, rank, size):
    assert FACTORIZATIONS[form](shape, rank).size == size


def tensorly_rank(form: str, shape: tuple[int, ...], fraction: float):
    """TensorLy's rank for a fraction of the parameters, clipped to what a weight can have."""
    if form == "cp" or (form == "tensor_train" and len(shape) == 2):
        rank = max(1, validate_cp_rank(shape, fraction))
        return rank if form == "cp" else (min(rank, *shape),)
    found = (
        validate_tucker_rank(shape, fraction)
        if form == "tucker"
        else validate_tt_rank(shape, fraction)[1:-1]
    )
    return tuple(max(1, min(r, b)) for r, b in zip(found, largest_rank(form, shape)))


@pytest.mark.parametrize("form", FORMS)
@given(in_shapes, sizes, st.floats(0.001, 1))
def test_fraction_is_the_rank_that_tensorly_finds(form, in_shape, units, fraction):
    shape = (*in_shape, units)
    factorization = FACTORIZATIONS[form](shape, fraction)
    assert factorization.rank == tensorly_rank(form, shape, fraction)
    assert FACTORIZATIONS[form](shape, factorization.rank).rank == factorization.rank


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(512, 7, 7, 100), (320, 240), (64, 48, 40), (12, 10, 8, 9, 11)])
@pytest.mark.parametrize("fraction", [0.02, 0.05])
def test_fraction_of_the_parameters(form, shape, fraction):
    factorization = FACTORIZATIONS[form](shape, fraction)
    assert factorization.size == pytest.approx(fraction * prod(shape), rel=0.2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_same_is_all_of_the_parameters(form, shape):
    factorization = FACTORIZATIONS[form](shape, "same")
    assert factorization.rank == FACTORIZATIONS[form](shape, 1.0).rank
    assert factorization.rank == tensorly_rank(form, shape, 1.0)


@pytest.mark.parametrize(
    "form, rank, said",
    [
        ("tucker", (0, 1, 1, 1), ["mode 1", "got 0", "1 to 6"]),
        ("tucker", (1, -2, 1, 1), ["mode 2", "got -2", "1 to 5"]),
        ("tucker", (1, 1, 5, 1), ["mode 3", "got 5", "1 to 4"]),
        ("tucker", (1, 1, 1, 4), ["output", "got 4", "1 to 3"]),
        ("tucker", (1, 1, 1), ["(1, 1, 1)", "4 integers"]),
        ("tucker", (1, 1, 1, 1, 1), ["(1, 1, 1, 1, 1)", "4 integers"]),
        ("tucker", (), ["()", "4 integers"]),
        ("tucker", 2, ["2", "4 integers"]),
        ("tucker", (1, True, 1, 1), ["mode 2", "True", "1 to 5"]),
        ("tucker", (1, 1, 2.0, 1), ["mode 3", "2.0", "1 to 4"]),
        ("tucker", (1, 1, 1, "2"), ["output", "'2'", "1 to 3"]),
        ("tucker", (1, None, 1, 1), ["mode 2", "None", "1 to 5"]),
        ("tensor_train", (0, 1, 1), ["mode 1", "got 0", "1 to 6"]),
        ("tensor_train", (1, 13, 1), ["mode 2", "got 13", "1 to 12"]),
        ("tensor_train", (1, 1, 4), ["mode 3", "got 4", "1 to 3"]),
        ("tensor_train", (1, 1, 1, 1), ["(1, 1, 1, 1)", "3 integers"]),
        ("tensor_train", 3, ["3", "3 integers"]),
        ("tensor_train", (1, False, 1), ["mode 2", "False", "1 to 12"]),
        ("tensor_train", (1.5, 1, 1), ["mode 1", "1.5", "1 to 6"]),
        ("cp", 0, ["0", "an integer ≥ 1"]),
        ("cp", -3, ["-3", "an integer ≥ 1"]),
        ("cp", True, ["True", "an integer ≥ 1"]),
        ("cp", (2, 2, 2, 2), ["(2, 2, 2, 2)", "an integer ≥ 1"]),
        ("cp", None, ["None", "an integer ≥ 1"]),
        *[
            (form, rank, said)
            for form in FORMS
            for rank, said in [
                (0.0, ["0.0", "(0, 1]"]),
                (-0.5, ["-0.5", "(0, 1]"]),
                (1.5, ["1.5", "(0, 1]"]),
                (float("nan"), ["nan", "(0, 1]"]),
                ("full", ["'full'", "'same'"]),
            ]
        ],
    ],
)
def test_wrong_rank(refusal, form, rank, said):
    refusal(lambda: FACTORIZATIONS[form]((6, 5, 4, 3), rank), *said)


@pytest.mark.parametrize("modes", [(0,), (4,), (1, -1), (True,), (1.0,)])
def test_wrong_pooled_modes(refusal, modes):
    refusal(
        lambda: Tucker((6, 5, 4, 3), (1, 1, 1, 1), pooled_modes=modes),
        *("pooled_modes", repr(modes), "from 1", "to 3"),
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_decomposition_at_full_rank_is_exact(form, shape):
    weight = np.random.standard_normal(shape)
    factorization = FACTORIZATIONS[form](shape, largest_rank(form, shape))
    parameters = factorization.decompose(weight)
    assert {n: a.shape for n, a in parameters.items()} == factorization.parameter_shapes
    assert distance(rebuilt(factorization, parameters), weight) < 1e-6


@pytest.mark.parametrize(
    "form, tolerance", [("tucker", 1e-6), ("tensor_train", 1e-6), ("cp", 0.02)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_decomposition_recovers_a_weight_of_its_rank(form, tolerance, shape):
    largest = largest_rank(form, shape)
    rank = 3 if form == "cp" else tuple(min(2, bound) for bound in largest)
    weight = full_weight(
        form, [np.random.standard_normal(s) for s in parameter_shapes(form, shape, rank)]
    )
    factorization = FACTORIZATIONS[form](shape, rank)
    assert distance(rebuilt(factorization, factorization.decompose(weight)), weight) < tolerance


@pytest.mark.parametrize("form", ["tucker", "tensor_train"])
@settings(max_examples=8)
@given(st.data())
def test_decomposition_at_a_lower_rank_is_close_to_the_best(form, data):
    """No better than the worst unfolding allows, no worse than truncating one by one is."""
    shape = data.draw(st.sampled_from(SHAPES))
    rank, rng = data.draw(ranks(form, shape)), data.draw(generators)
    weight = rng.standard_normal(shape)
    lost = [
        np.sum(np.linalg.svd(matrix, compute_uv=False)[r:] ** 2)
        for matrix, r in zip(unfoldings(form, weight), rank)
    ]
    factorization = FACTORIZATIONS[form](shape, rank)
    error = np.sum((rebuilt(factorization, factorization.decompose(weight)) - weight) ** 2)
    assert max(lost) * (1 - 1e-6) - 1e-9 <= error <= sum(lost) * (1 + 1e-6) + 1e-9


def test_tucker_decomposition_is_as_close_as_tensorly_finds():
    """Of a weight whose spectra decay, in any order in memory, from blocks of its unfoldings."""
    shape, rank = (30, 6, 5, 20), (12, 3, 2, 9)
    weight = np.random.standard_normal(shape)
    for mode, size in enumerate(shape):
        weight = np.moveaxis(np.moveaxis(weight, mode, -1) / np.arange(1, size + 1), -1, mode)
    with tensorly_scope("numpy"):
        from tensorly.decomposition import tucker
        from tensorly.tucker_tensor import tucker_to_tensor

        best = distance(tucker_to_tensor(tucker(weight, rank=list(rank))), weight)
    for array in (weight, np.asfortranarray(weight)):
        factorization = Tucker(shape, rank)
        with patch("trnet.tensor.factorizations.tucker._SLAB", 100):
            parameters = factorization.decompose(array)
        assert distance(rebuilt(factorization, parameters), weight) < 1.001 * best
        for mode in range(1, 5):
            factor = parameters[f"factor{mode}"]
            assert distance(factor.T @ factor, np.eye(rank[mode - 1])) < 1e-9


@pytest.mark.parametrize("rank", range(1, 5))
def test_cp_decomposition_of_a_matrix_is_the_best(rank):
    weight = np.random.standard_normal((6, 5))
    best = np.sqrt(np.sum(np.linalg.svd(weight, compute_uv=False)[rank:] ** 2))
    factorization = FACTORIZATIONS["cp"]((6, 5), rank)
    error = np.linalg.norm(rebuilt(factorization, factorization.decompose(weight)) - weight)
    assert error == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize("rank", [4, 7, 11])
def test_cp_decomposition_at_more_terms_than_a_mode_is_long(rank):
    weight = np.random.standard_normal((6, 3, 4))
    factorization = FACTORIZATIONS["cp"]((6, 3, 4), rank)
    parameters = factorization.decompose(weight)
    fewer = FACTORIZATIONS["cp"]((6, 3, 4), 3)
    error = distance(rebuilt(factorization, parameters), weight)
    assert error < distance(rebuilt(fewer, fewer.decompose(weight)), weight)


@pytest.mark.parametrize(
    "rank, pooled_modes",
    [
        ((6, 1, 1, 3), (2, 3)),
        ((6, 5, 4, 3), (2, 3)),
        ((6, 5, 2, 3), (3,)),
        ((6, 2, 4, 3), (2, 2)),  # named twice, it counts once
    ],
)
def test_pooled_modes_are_averaged(rank, pooled_modes):
    shape = (6, 5, 4, 3)
    kept = tuple(size for mode, size in enumerate(shape, 1) if mode not in pooled_modes)
    weight = np.random.standard_normal(kept)
    factorization = Tucker(shape, rank, pooled_modes=pooled_modes)
    parameters = factorization.decompose(weight)
    assert {n: a.shape for n, a in parameters.items()} == factorization.parameter_shapes
    axes = tuple(mode - 1 for mode in set(pooled_modes))
    pooled = prod(shape[axis] for axis in axes)
    expected = np.broadcast_to(np.expand_dims(weight, axes), shape) / pooled
    assert distance(rebuilt(factorization, parameters), expected) < 1e-9
