"""The planned contraction against NumPy's einsum, and the plans themselves."""

from __future__ import annotations

from functools import cache, reduce
from itertools import combinations_with_replacement
from math import inf, prod

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensor.reference import (
    FORMS,
    contract,
    full_weight,
    generators,
    in_shapes,
    parameter_shapes,
    ranks,
    regress,
    sizes,
)

from trnet.tensor import contraction
from trnet.tensor.factorizations import FACTORIZATIONS
from trnet.tensor.plan import CONSTANT, TRAINING, Plan, Step, plan

reuses = st.sampled_from([TRAINING, CONSTANT])


@pytest.fixture(params=[mx.nd, mx.sym], ids=["NDArray", "Symbol"], scope="module")
def evaluate(request):
    """Run ``function(F, *arrays)``, on arrays or on symbols that are bound to them."""

    def run(function, *arrays: np.ndarray) -> np.ndarray:
        arrays = [mx.nd.array(array, dtype="float64") for array in arrays]
        if request.param is mx.nd:
            return function(mx.nd, *arrays).asnumpy()
        names = [f"array{k}" for k in range(len(arrays))]
        symbol = function(mx.sym, *map(mx.sym.var, names))
        return symbol.bind(mx.cpu(), dict(zip(names, arrays))).forward()[0].asnumpy()

    return run


def assert_equal(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == np.float64 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), generators, sizes, reuses)
def test_multi_mode_dot(evaluate, pairs, rng, batch, reuse):
    in_shape, rank = zip(*pairs)
    x = rng.standard_normal((batch, *in_shape))
    factors = [rng.standard_normal(pair) for pair in zip(rank, in_shape)]
    got = evaluate(
        lambda F, x, *factors: contraction.contract(
            F, x, contraction.tcl_products(F, factors, in_shape, rank, reuse)
        ),
        x,
        *factors,
    )
    assert_equal(got, contract(x, factors))


@pytest.mark.parametrize("form", FORMS)
@given(st.data())
def test_inner(evaluate, form, data):
    shape = (*data.draw(in_shapes), data.draw(sizes))
    rank, rng, reuse = data.draw(ranks(form, shape)), data.draw(generators), data.draw(reuses)
    use_bias = data.draw(st.booleans())
    x = rng.standard_normal((data.draw(sizes), *shape[:-1]))
    parameters = [rng.standard_normal(s) for s in parameter_shapes(form, shape, rank)]
    bias = rng.standard_normal(shape[-1])

    def inner(F, x, *arrays):
        *arrays, b = arrays if use_bias else (*arrays, None)
        factorization = FACTORIZATIONS[form](shape, rank)
        products = factorization.products(F, dict(enumerate(arrays)), reuse)
        return contraction.contract(F, x, products, b)

    got = evaluate(inner, x, *parameters, *([bias] if use_bias else []))
    assert_equal(got, regress(x, full_weight(form, parameters)) + use_bias * bias)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3), generators)
def test_kronecker(evaluate, shapes, rng):
    matrices = [rng.standard_normal(shape) for shape in shapes]
    got = evaluate(lambda F, *ms: contraction.kronecker(F, ms, shapes), *matrices)
    assert_equal(got, reduce(np.kron, matrices))


@given(sizes, st.lists(sizes, min_size=1, max_size=3), generators)
def test_khatri_rao(evaluate, rank, columns, rng):
    shapes = [(rank, size) for size in columns]
    matrices = [rng.standard_normal(shape) for shape in shapes]
    got = evaluate(lambda F, *ms: contraction.khatri_rao(F, ms, shapes), *matrices)
    assert_equal(got, np.stack([reduce(np.kron, rows) for rows in zip(*matrices)]))


def cheapest(in_shape: tuple[int, ...], rank: tuple[int, ...], reuse: float) -> float:
    """Least cost over every order of contracting runs of modes, one run after the other."""
    modes = range(1, len(rank) + 1)

    @cache
    def rest(done: frozenset) -> float:
        if len(done) == len(rank):
            return 0
        before = tuple(rank[m - 1] if m in done else in_shape[m - 1] for m in modes)
        best = inf
        for first, last in combinations_with_replacement(modes, 2):
            run = frozenset(range(first, last + 1))
            if not run & done:
                after = tuple(rank[m - 1] if m in run else before[m - 1] for m in modes)
                cost = Step(first, last, before, after).cost(reuse)
                best = min(best, cost + rest(done | run))
        return best

    return rest(frozenset())


plan_sizes = st.one_of(sizes, st.integers(1, 2048))


@given(st.lists(st.tuples(plan_sizes, plan_sizes), min_size=1, max_size=4), reuses)
def test_plan(pairs, reuse):
    in_shape, rank = zip(*pairs)
    steps = plan(in_shape, rank, reuse)
    contracted = [mode for step in steps for mode in range(step.first, step.last + 1)]
    assert sorted(contracted) == list(range(1, len(rank) + 1))
    assert steps[0].before == in_shape and steps[-1].after == rank
    assert all(step.after == following.before for step, following in zip(steps, steps[1:]))
    for step in steps:
        run = slice(step.first - 1, step.last)
        assert step.after[run] == rank[run]
        assert step.multiply_adds == prod(step.after) * prod(in_shape[run])  # a sum an output
        assert step.leading * step.contracted * step.trailing == prod(step.before)
        assert step.leading * step.produced * step.trailing == prod(step.after)
    cost = sum(step.cost(reuse) for step in steps)
    assert cost == pytest.approx(cheapest(in_shape, rank, reuse))


def test_published_tcl_merges_the_spatial_modes():
    spatial = [step for step in plan((512, 7, 7), (384, 5, 5)) if step.first > 1]
    assert [(step.first, step.last) for step in spatial] == [(2, 3)]


def test_published_trl_projects_space_first():
    steps = plan((2048, 7, 7), (200, 1, 1))
    assert [(step.first, step.last) for step in steps] == [(2, 3), (1, 1)]
    assert sum(step.multiply_adds for step in steps) == 2048 * 49 + 2048 * 200


@pytest.mark.parametrize("form", FORMS)
@given(st.data())
def test_steps_lead_from_the_input_to_the_output(form, data):
    """Each takes up the elements that the one before left, and none grows a full weight."""
    shape = (*data.draw(in_shapes), data.draw(sizes))
    rank = data.draw(ranks(form, shape))
    steps = FACTORIZATIONS[form](shape, rank).steps()
    assert prod(steps[0].before) == prod(shape[:-1]) and steps[-1].after == (shape[-1],)
    for step, following in zip(steps, steps[1:]):
        assert prod(step.after) == prod(following.before)


def test_a_plan_counts_by_hand():
    """ResNet-101's TRL (200, 1, 1, 200) for a batch of 32: pixels, channels, core, classes."""
    steps = FACTORIZATIONS["tucker"]((2048, 7, 7, 1000), (200, 1, 1, 200)).steps()
    printed = Plan(steps, batch=32)
    heading, *table, largest = str(printed).splitlines()
    lines = [line.split() for line in table]
    assert heading == "batch of 32" and largest == "largest intermediate: 65,536 elements"
    assert printed.largest_intermediate == 32 * 2048
    b, c, p, r, o = 32, 2048, 49, 200, 1000
    assert [line[0] for line in lines] == ["modes", "2–3", "1–3", "1", "1", "all"]
    multiply_adds = [b * c * p, b * c * r, b * r * r, b * r * o]
    assert [int(line[3].replace(",", "")) for line in lines[1:5]] == multiply_adds
    elements = [
        b * (c * p + c) + p,
        b * (c + r) + c * r,
        b * (r + r) + r * r,
        b * (r + o) + r * o,
    ]
    assert [int(line[4].replace(",", "")) for line in lines[1:5]] == [4 * n for n in elements]
    sums = [int(cell.replace(",", "")) for cell in lines[5][1:]]
    assert sums == [sum(multiply_adds), 4 * sum(elements)]
    assert sums == [printed.multiply_adds, printed.traffic]


def test_a_plan_counts_what_is_done_component_by_component():
    steps = FACTORIZATIONS["cp"]((5, 3, 2, 7), 4).steps()
    assert [step.multiply_adds for step in steps] == [5 * 6 * 4, 4 * 6, 4 * 7]


def test_cores_of_a_train_are_joined_where_that_is_cheaper():
    """Where a small rank stands between large ones, those are multiplied away."""
    steps = FACTORIZATIONS["tensor_train"]((2048, 7, 7, 1000), (254, 2, 125)).steps()
    assert [(step.before, step.after) for step in steps] == [
        ((2048, 7, 7), (2, 7)),
        ((14,), (1000,)),
    ]
    steps = FACTORIZATIONS["tensor_train"]((2048, 7, 7, 1000), (4, 60, 60)).steps()
    assert [step.after for step in steps] == [(4, 7, 7), (60,), (1000,)]


@pytest.mark.parametrize("in_shape", [(64, 3, 2), (6, 40, 3, 2), (3, 64, 5, 2)])
def test_joined_cores_contract_as_the_train_does(evaluate, in_shape):
    """Also where a group ends before the last mode, forward and backward."""
    shape, rank = (*in_shape, 9), (*(30,) * (len(in_shape) - 2), 1, 2)
    rank = tuple(min(r, prod(shape[:k])) for k, r in enumerate(rank, start=1))
    steps = FACTORIZATIONS["tensor_train"](shape, rank).steps()
    assert 1 < steps[0].last < len(in_shape) or len(steps) < len(rank) + 1
    factorization = FACTORIZATIONS["tensor_train"](shape, rank)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, *in_shape))
    cores = [rng.standard_normal(s) for s in parameter_shapes("tensor_train", shape, rank)]
    got = evaluate(
        lambda F, x, *cores: contraction.contract(
            F, x, factorization.products(F, dict(enumerate(cores)))
        ),
        x,
        *cores,
    )
    assert_equal(got, regress(x, full_weight("tensor_train", cores)))


def test_the_core_is_folded_where_the_latent_space_is_small():
    small = FACTORIZATIONS["tucker"]((20, 7, 7, 1000), (10, 1, 1, 121)).steps()
    large = FACTORIZATIONS["tucker"]((2048, 7, 7, 1000), (200, 1, 1, 200)).steps()
    assert [step.after for step in small][-2:] == [(10,), (1000,)]
    assert [step.after for step in large][-2:] == [(200,), (1000,)]
