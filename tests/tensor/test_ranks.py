"""Ranks that are chosen by what they lose of a weight."""

from __future__ import annotations

from math import prod

import mxnet as mx
import numpy as np
import pytest
from pydantic import ValidationError

from trnet import TRL
from trnet.config import TRLHead
from trnet.savings import space_savings
from trnet.tensor.factorizations import CP, TensorTrain, Tucker
from trnet.tensor.ranks import cut_spectra, mode_spectra, truncated

SHAPE = (8, 5, 4, 6)
FORMS = {"tucker": Tucker, "cp": CP, "tensor_train": TensorTrain}


def weight(form: str, rank, noise: float = 1e-3) -> np.ndarray:
    """A weight of a low rank, and a little of everything else."""
    rng = np.random.default_rng(0)
    made = FORMS[form](SHAPE, rank)
    parameters = [rng.standard_normal(shape) for shape in made.parameter_shapes.values()]
    if form == "tucker":
        core, *factors = parameters
        low = np.einsum("abcd,ia,jb,kc,ld->ijkl", core, *factors)
    else:
        low = np.einsum("aib,bjc,ckd,dle->ijkl", *parameters)
    return low + noise * rng.standard_normal(SHAPE)


@pytest.mark.parametrize("form, rank", [("tucker", (3, 2, 2, 4)), ("tensor_train", (3, 4, 2))])
def test_the_rank_that_a_weight_has_is_found(form, rank):
    made = FORMS[form]
    most = made(SHAPE, rank).size
    assert made.truncation(weight(form, rank), lambda r: made(SHAPE, r).size)(most) == rank


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("savings", [0.1, 0.5, 0.8, 0.95])
def test_a_rank_saves_what_was_asked_for_and_not_much_more(form, savings):
    made, most = FORMS[form], int((1 - savings) * prod(SHAPE))
    full = np.random.default_rng(0).standard_normal(SHAPE)
    size = lambda r: made(SHAPE, r).size  # noqa: E731
    rank = made.truncation(full, size)(most)
    assert size(rank) <= most
    larger = (
        [rank + 1]
        if form == "cp"
        else [(*rank[:k], r + 1, *rank[k + 1 :]) for k, r in enumerate(rank)]
    )
    possible = [r for r in larger if is_possible(made, r)]
    assert possible and max(map(size, possible)) > 0.9 * most


def is_possible(form, rank) -> bool:
    try:
        form(SHAPE, rank)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("shape", "most", "rank"),
    [((40, 9), 250, (4, 4)), ((2, 2, 30), 150, (2, 2, 4))],  # (3, 9) would be no more than (3, 3)
)
def test_no_tucker_rank_is_above_the_product_of_the_others(shape, most, rank):
    full = np.random.default_rng(0).standard_normal(shape)
    size = lambda rank: Tucker(shape, rank).size  # noqa: E731
    assert Tucker.truncation(full, size)(most) == rank


@pytest.mark.parametrize("form", FORMS)
def test_too_few_parameters_are_refused(form, refusal):
    made, size = FORMS[form], lambda rank: FORMS[form](SHAPE, rank).size
    lowest = size(1 if form == "cp" else (1,) * (4 if form == "tucker" else 3))
    call = lambda: made.truncation(np.ones(SHAPE), size)(lowest - 1)  # noqa: E731
    refusal(call, f"at least {lowest} parameters", f"got {lowest - 1}")
    assert size(made.truncation(np.ones(SHAPE), size)(lowest)) == lowest


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("savings", [0, 0.3, 0.8, 0.95])
def test_savings_keep_like_shares_of_all_modes(form, savings):
    made = FORMS[form](SHAPE, {"savings": savings})
    assert space_savings(made.size, prod(SHAPE)) >= savings
    if form == "cp":
        assert FORMS[form](SHAPE, made.rank + 1).size > (1 - savings) * prod(SHAPE)
        return
    largest = SHAPE if form == "tucker" else (8, 24, 6)
    shares = [r / most for r, most in zip(made.rank, largest)]
    assert all(
        r == 1 or abs(share - max(shares)) < 1 / most + 1e-6
        for r, share, most in zip(made.rank, shares, largest)
    )
    more = tuple(min(most, r + 1) for r, most in zip(made.rank, largest))
    assert FORMS[form](SHAPE, more).size > (1 - savings) * prod(SHAPE)


def test_savings_of_a_pooled_head_are_of_the_pooled_dense_layer():
    made = Tucker((192, 7, 7, 10), {"savings": 0.4}, pooled_modes=(2, 3))
    assert made.rank == (5, 1, 1, 5) and 0.4 <= space_savings(made.size, 1920) < 0.5


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        ({"savings": 0.999}, ["savings of 0.999: expected at least"]),
        ({"savings": 1}, ["0 to below 1", "{'savings': 1}"]),
        ({"savings": True}, ["0 to below 1"]),
        ({"share": 0.5}, ["{'share': 0.5}"]),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_impossible_savings_are_refused(form, rank, said, refusal):
    refusal(lambda: FORMS[form](SHAPE, rank), "rank: ", *said)


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_and_a_config_take_savings(form):
    layer = TRL(10, {"savings": 0.7}, in_shape=(0, 0, 0), factorization=form)
    layer.initialize()
    assert layer(mx.nd.ones((2, 12, 5, 4))).shape == (2, 10)
    assert layer.rank == FORMS[form]((12, 5, 4, 10), {"savings": 0.7}).rank
    head = TRLHead(type="trl", rank={"savings": 0.7}, factorization=form)
    assert head.rank == {"savings": 0.7}
    with pytest.raises(ValidationError):
        TRLHead(type="trl", rank={"savings": 7}, factorization=form)


def test_spectra_are_those_of_the_unfoldings():
    full = np.random.default_rng(0).standard_normal(SHAPE)
    for mode, spectrum in enumerate(mode_spectra(full)):
        unfolded = np.moveaxis(full, mode, 0).reshape(SHAPE[mode], -1)
        expected = np.linalg.svd(unfolded, compute_uv=False) ** 2
        np.testing.assert_allclose(spectrum, expected, rtol=1e-10, atol=1e-10)
    for cut, spectrum in enumerate(cut_spectra(full), start=1):
        unfolded = full.reshape(prod(SHAPE[:cut]), -1)
        expected = np.linalg.svd(unfolded, compute_uv=False) ** 2
        np.testing.assert_allclose(spectrum, expected, rtol=1e-10, atol=1e-10)


def test_the_mode_that_loses_least_is_lowered():
    spectra = [np.array([4.0, 3.0]), np.array([4.0, 1.0, 0.5])]
    assert truncated(spectra, sum, 4) == (2, 2)
    assert truncated(spectra, sum, 3) == (2, 1)
