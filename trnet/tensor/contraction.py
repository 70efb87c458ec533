"""Contraction of a batch of tensors with factors, planned from static shapes.

A contraction is a chain of products. What each needs, a matrix, is made of the factors alone: for
every batch while they are trained, once where they are constants. The functions take ``F``
(``mxnet.ndarray`` or ``mxnet.symbol``) and work alike on arrays and on symbols, in legacy operators
only, so that layers hybridize and export. The batch is never part of a plan: it stays free. Modes
are counted as in the papers, from 1; the batch is mode 0.

Two operators carry everything, because they need no transposed copy of the batch: a product over
the *last* modes is a product of matrices, one over any other is a 1×1 ``Convolution`` with the
modes behind it as its pixels. Neighbouring modes may be merged into one product with the Kronecker
product of their factors, which is the faster way for small modes such as 7×7 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import accumulate, combinations, permutations
from math import inf, prod
from operator import mul
from typing import Any

from trnet.tensor.backend import mx

# What an element read or written costs, in multiply-adds, measured on two AVX-512 cores. A
# convolution costs more: the library reorders its input and output.
_MATRIX_TRAFFIC = 8
_CONVOLUTION_TRAFFIC = 32

TRAINING = 32  # samples that a matrix is made for, typically, while the factors change
CONSTANT = inf  # and where they do not


@dataclass(frozen=True)
class Step:
    """One product of a plan: the modes ``first`` to ``last`` are contracted at once.

    Attributes
    ----------
    first, last : int
        Modes, counted from 1.
    before, after : tuple of int
        Shape of a sample before and after the step.
    """

    first: int
    last: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def leading(self) -> int:
        """Elements of the modes in front, which join the batch."""
        return prod(self.before[: self.first - 1])

    @property
    def contracted(self) -> int:
        """Elements of the contracted modes before the step."""
        return prod(self.before[self.first - 1 : self.last])

    @property
    def produced(self) -> int:
        """Elements of the contracted modes after the step."""
        return prod(self.after) // (self.leading * self.trailing)

    @property
    def trailing(self) -> int:
        """Elements of the modes behind, the pixels of a convolution."""
        return prod(self.before[self.last :])

    @property
    def is_whole(self) -> bool:
        """Whether a sample is one row that is multiplied by the matrix."""
        return self.leading == self.trailing == 1

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds a sample."""
        return prod(self.before) * self.produced

    def traffic(self, batch: int) -> int:
        """Elements read and written for a batch, the matrix of the product among them."""
        return batch * (prod(self.before) + prod(self.after)) + self.contracted * self.produced

    def cost(self, reuse: float) -> float:
        """Multiply-adds a sample, with traffic counted in, and Kronecker products by their use."""
        traffic = _MATRIX_TRAFFIC if self.trailing == 1 else _CONVOLUTION_TRAFFIC
        merged = self.contracted * self.produced if self.last > self.first else 0
        return (
            self.multiply_adds
            + traffic * (prod(self.before) + prod(self.after))
            + _MATRIX_TRAFFIC * merged / reuse
        )


@dataclass(frozen=True)
class Product:
    """A step and its matrix, which does not depend on the batch.

    Attributes
    ----------
    step : Step
    matrix : NDArray or Symbol
        As the operator takes it: (produced, contracted), for a convolution with two modes of 1
        behind. With ``transposed``, which a whole step may be, (contracted, *given). With
        ``by_component`` (components, 1, height, width): every element of a sample's first mode
        meets an image of its own.
    transposed, by_component : bool
    given : tuple of int
        With ``transposed``, the shape of a sample behind the product: ``produced`` among ones.
    """

    step: Step
    matrix: Any
    transposed: bool = False
    by_component: bool = False
    given: tuple[int, ...] = ()


def explain(steps: Sequence[Step], batch: int = 1, itemsize: int = 4) -> str:
    """Explain a contraction: a line a product, with its shapes, multiply-adds and bytes.

    Parameters
    ----------
    steps : sequence of Step
        Of :func:`plan`, or a layer's ``steps``.
    batch : int
    itemsize : int
        Bytes of an element.

    Returns
    -------
    str
        For a batch: what is contracted, the shapes of a sample before and after, multiply-adds,
        and bytes that are read and written; and the sums.
    """
    lines = [("modes", "before", "after", "multiply-adds", "bytes")]
    lines += [
        (
            str(step.first) if step.first == step.last else f"{step.first}–{step.last}",
            "×".join(map(str, step.before)),
            "×".join(map(str, step.after)),
            f"{batch * step.multiply_adds:,}",
            f"{itemsize * step.traffic(batch):,}",
        )
        for step in steps
    ]
    multiply_adds = batch * sum(step.multiply_adds for step in steps)
    traffic = itemsize * sum(step.traffic(batch) for step in steps)
    lines.append(("all", "", "", f"{multiply_adds:,}", f"{traffic:,}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place > 2 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


@cache
def plan(
    in_shape: tuple[int, ...], rank: tuple[int, ...], reuse: float = TRAINING
) -> tuple[Step, ...]:
    """Cheapest sequence of products that takes a sample from ``in_shape`` to ``rank``.

    Every way of merging neighbouring modes is tried in every order.

    Parameters
    ----------
    in_shape : tuple of int
        (I1, …, IN), without the batch.
    rank : tuple of int
        (R1, …, RN).
    reuse : float
        Samples for which a Kronecker product is made: :data:`TRAINING` or :data:`CONSTANT`.

    Returns
    -------
    tuple of Step
    """
    candidates = (
        _steps(in_shape, rank, order)
        for groups in _neighbouring_groups(len(in_shape))
        for order in permutations(groups)
    )
    return min(candidates, key=lambda steps: sum(step.cost(reuse) for step in steps))


def _neighbouring_groups(length: int) -> Iterator[list[tuple[int, int]]]:
    """All ways of cutting 1 … length into runs, each as (first, last)."""
    for n_cuts in range(length):
        for cuts in combinations(range(1, length), n_cuts):
            edges = (0, *cuts, length)
            yield [(begin + 1, end) for begin, end in zip(edges, edges[1:])]


def _steps(
    in_shape: tuple[int, ...], rank: tuple[int, ...], order: Sequence[tuple[int, int]]
) -> tuple[Step, ...]:
    steps, shape = [], in_shape
    for first, last in order:
        after = (*shape[: first - 1], *rank[first - 1 : last], *shape[last:])
        steps.append(Step(first, last, shape, after))
        shape = after
    return tuple(steps)


@dataclass(frozen=True)
class Chain:
    """Matrices of which each takes up the rank that the one before left, and modes of the input.

    Attributes
    ----------
    modes : tuple of tuple of int
        Sizes of the modes that each link contracts.
    edges : tuple of int
        Link k, from 1, takes the rank ``edges[k - 1]`` to ``edges[k]``.
    """

    modes: tuple[tuple[int, ...], ...]
    edges: tuple[int, ...]

    def step(self, first: int, last: int) -> Step:
        """The product of the links ``first`` to ``last``, multiplied with one another before."""
        contracted = sum(self.modes[first - 1 : last], ())
        behind = sum(self.modes[last:], ())
        before = (self.edges[first - 1] * prod(contracted[:1]), *contracted[1:], *behind)
        return Step(1, max(1, len(contracted)), before, (self.edges[last], *behind))

    def multiplying(self, first: int, last: int) -> int:
        """Multiply-adds of multiplying the links ``first`` to ``last`` with one another."""
        rows = accumulate((prod(modes) for modes in self.modes[first - 1 : last]), mul)
        return self.edges[first - 1] * sum(
            above * prod(self.edges[link : link + 2]) * prod(self.modes[link])
            for link, above in zip(range(first, last), rows)
        )


@cache
def _runs(chain: Chain, reuse: float) -> list[tuple[int, int]]:
    """The cheapest cut of a chain into runs of links that are multiplied with one another first."""

    def cost(runs: Sequence[tuple[int, int]]) -> float:
        return sum(chain.step(*run).cost(reuse) + chain.multiplying(*run) / reuse for run in runs)

    return min(_neighbouring_groups(len(chain.modes)), key=cost)


def _chain_steps(chain: Chain) -> tuple[Step, ...]:
    return tuple(chain.step(*run) for run in _runs(chain, TRAINING))


def contract(F, x, products: Sequence[Product], bias=None):
    """Contract a batch, product by product.

    Parameters
    ----------
    F : module
        ``mxnet.ndarray`` or ``mxnet.symbol``.
    x : NDArray or Symbol
        (batch, I1, …, IN). A symbol's sizes are checked when the graph runs.
    products : sequence of Product
    bias : NDArray or Symbol, optional
        Of the result's shape, without the batch.

    Returns
    -------
    NDArray or Symbol
        (batch, R1, …, RN) or (batch, O), as the last step's ``after``.
    """
    shape, after = products[0].step.before, products[-1].step.after
    view = _view
    if F is not mx.nd and _tell_sizes(products):
        view = partial(_view_by_codes, F)
        x = F.Flatten(x) if len(shape) == 1 else x  # or modes behind it would stay
    elif F is not mx.nd:
        x, shape = _checked(x, shape), ()
    *others, last = products
    for product in others:
        x, shape = _apply(F, x, shape, product, view)
    if bias is not None and len(after) == 1 and not last.transposed:
        return _apply(F, x, shape, last, view, bias)[0]
    x = _view(*_apply(F, x, shape, last, view), after)
    return x if bias is None else F.broadcast_add(x, F.expand_dims(bias, axis=0))


def _apply(F, x, shape: tuple[int, ...], product: Product, view: Callable, bias=None):
    """One product, of samples of a shape: what it gives, and the shape of its samples."""
    step, matrix = product.step, product.matrix
    if product.by_component:
        components, pixels = step.before[0], _pixels(step.before[1:])
        x = view(x, shape, (components, *pixels))
        return _convolve(F, x, matrix, components, pixels, num_group=components), (components, 1, 1)
    if step.trailing > 1:
        pixels = _pixels(step.before[step.last :])
        x = view(x, shape, (step.contracted, *pixels))
        x = _convolve(F, x, matrix, step.produced)
        if step.leading == 1:
            return x, (step.produced, *pixels)
        return x.reshape((-1, *step.after)), step.after
    leading = () if step.is_whole else step.before[: step.first - 1]
    x = view(x, shape, (*leading, step.contracted))
    if product.transposed:
        return F.dot(x, matrix), product.given
    operands = (x, matrix) if bias is None else (x, matrix, bias)
    out = F.FullyConnected(*operands, num_hidden=step.produced, no_bias=bias is None, flatten=False)
    return out, (*leading, step.produced)


def _view(x, shape: tuple[int, ...], target: tuple[int, ...]):
    """Samples of a shape, with their elements taken as samples of another."""
    return x if shape == target else x.reshape((-1, *target))


def _tell_sizes(products: Sequence[Product]) -> bool:
    """Whether the operators themselves refuse an input of other sizes, by those of their matrices.

    A product over several modes compares how many elements they have together. That will do where
    they are to be of one size, as pixels are, and the first mode is contracted by itself.
    """
    first, *others = products[0].step.before
    steps = [product.step for product in products]
    return (
        len(set(others)) <= 1
        and any(step.contracted == first and step.leading == 1 for step in steps)
        and all(step.leading == 1 or step.trailing == 1 for step in steps)
    )


def _view_by_codes(F, x, shape: tuple[int, ...], target: tuple[int, ...]):
    """:func:`_view` of a symbol, by merging and splitting modes and without the sizes.

    Nobody else checks them, and oneDNN's Reshape compares none: from an input that does not fit,
    a reshape by sizes would make samples of another's elements or of foreign memory.
    """
    if len(target) == 1 < len(shape):
        return F.Flatten(x)
    while shape != target:
        codes, shape = _codes(shape, target)
        x = x.reshape((0, *codes))
    return x


def _codes(
    shape: tuple[int, ...], target: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Codes of a reshape that merges pairs of modes, or splits the last one in two; its result."""
    codes, reached, begin = [], [], 0
    for place, size in enumerate(target):
        rest = target[place:]
        if len(rest) > 1 and begin == len(shape) - 1:
            split = (size, prod(rest[1:]))
            return (*codes, -4, *split), (*reached, *split)
        end = begin + 1
        while end < len(shape) and (len(rest) == 1 or prod(shape[begin:end]) < size):
            end += 1
        for at in range(begin, end, 2):
            pair = shape[at : min(at + 2, end)]
            codes.append(-3 if len(pair) == 2 else 0)
            reached.append(prod(pair))
        begin = end
    return tuple(codes), tuple(reached)


def _checked(x, shape: tuple[int, ...]):
    """A symbol whose graph takes samples of a shape only; its elements in their order.

    To split a mode into I × 1 (the code -4) the mode has to have the size I. That is done from the
    last mode on, for as many at a time as oneDNN's six modes hold; it copies nothing.
    """
    n_modes = len(shape)
    at_once = max(1, 5 - n_modes)
    for end in range(n_modes, 0, -at_once):
        begin = max(0, end - at_once)
        split = [code for size in shape[begin:end] for code in (-4, size, 1)]
        merged = min(at_once, n_modes - end)  # those split before, each with its 1
        behind = [-3] * merged + [0] * (n_modes - end - merged)
        x = x.reshape((*[0] * (begin + 1), *split, *behind))
    return x


def _convolve(F, images, kernel, filters: int, size: Sequence[int] = (1, 1), num_group: int = 1):
    return F.Convolution(
        images, kernel, num_filter=filters, num_group=num_group, kernel=tuple(size), no_bias=True
    )


def _pixels(modes: tuple[int, ...]) -> tuple[int, int]:
    """Some modes as the height and width of a convolution's images."""
    return modes[0], prod(modes[1:])


def _product(F, step: Step, matrix, transposed: bool = False, given=()) -> Product:
    """A step with its matrix, (produced, contracted) or ``transposed``, as its operator takes it.

    A whole step takes it as it is: where a matrix is large next to the batch, its transposed copy
    would cost the most. Other matrices are copies, never views of a parameter: oneDNN lays out
    weights anew in place when nothing is recorded.
    """
    if step.is_whole:
        return Product(step, matrix, transposed, given=given or (step.produced,))
    if transposed:
        is_column = step.produced == 1
        matrix = F.reshape(matrix, shape=(1, -1)) if is_column else F.transpose(matrix)
    if step.trailing > 1:
        matrix = F.reshape(matrix, shape=(step.produced, step.contracted, 1, 1))
    return Product(step, matrix)


def _merged(F, factors: Sequence, shapes: Sequence[tuple[int, int]], step: Step):
    """The Kronecker product of the factors whose modes a step contracts."""
    run = slice(step.first - 1, step.last)
    return kronecker(F, factors[run], shapes[run])


def kronecker(F, matrices: Sequence, shapes: Sequence[tuple[int, int]]):
    """V1 ⊗ … ⊗ Vn: matrices (Rk, Ik) to one of shape (R1·…·Rn, I1·…·In)."""
    product, (rows, columns) = matrices[0], shapes[0]
    for matrix, (r, i) in zip(matrices[1:], shapes[1:]):
        # An outer product: far cheaper than a broadcast one, whose backward has to sum.
        if columns == i == 1:
            product = F.dot(product, matrix, transpose_b=True)
        else:
            product = F.dot(F.expand_dims(product, axis=2), F.expand_dims(matrix, axis=0))
            if columns > 1 and r > 1:
                product = F.transpose(product, axes=(0, 2, 1, 3))
        rows, columns = rows * r, columns * i
        product = F.reshape(product, shape=(rows, columns))
    return product


def khatri_rao(F, matrices: Sequence, shapes: Sequence[tuple[int, int]]):
    """Row by row Kronecker product: matrices (R, Ik) to one of shape (R, I1·…·In)."""
    product, (rank, columns) = matrices[0], shapes[0]
    for matrix, (_, i) in zip(matrices[1:], shapes[1:]):
        product = F.broadcast_mul(
            F.reshape(product, shape=(rank, columns, 1)), F.reshape(matrix, shape=(rank, 1, i))
        )
        columns *= i
        product = F.reshape(product, shape=(rank, columns))
    return product


def tcl_products(F, factors: Sequence, in_shape, rank, reuse: float = TRAINING) -> list[Product]:
    """The products of X ×1 V1 ×2 V2 … ×N VN.

    Parameters
    ----------
    F : module
        ``mxnet.ndarray`` or ``mxnet.symbol``.
    factors : sequence of NDArray or Symbol
        Vk of shape (Rk, Ik).
    in_shape, rank : tuple of int
        (I1, …, IN) and (R1, …, RN).
    reuse : float
        Samples that a matrix is made for: :data:`TRAINING` or :data:`CONSTANT`.

    Returns
    -------
    list of Product
    """
    shapes = list(zip(rank, in_shape))
    return [
        _product(F, step, _merged(F, factors, shapes, step)) for step in plan(in_shape, rank, reuse)
    ]


def tucker_products(
    F, core, factors: Sequence, shape, rank, reuse: float = TRAINING
) -> list[Product]:
    """The products of ⟨X, ⟦G; U1, …, UN, U(N+1)⟧⟩_N, which never rebuild the weight.

    Parameters
    ----------
    F, reuse
        As in :func:`tcl_products`.
    core : NDArray or Symbol
        G, (R1, …, RN, R(N+1)).
    factors : sequence of NDArray or Symbol
        Uk of shape (Ik, Rk), then U(N+1) of shape (O, R(N+1)).
    shape : tuple of int
        (I1, …, IN, O), the weight's.
    rank : tuple of int
        (R1, …, RN, R(N+1)).

    Returns
    -------
    list of Product
    """
    *factors, output = factors
    *mode_ranks, out_rank = rank
    steps, link, chain = _tucker_plan(shape, rank, reuse)
    shapes = list(zip(shape, mode_ranks))
    products = [
        _product(F, step, _merged(F, factors, shapes, step), transposed=True) for step in steps
    ]
    ones = tuple(mode_ranks[1:])  # a core that is a matrix but for these needs no copy
    if prod(ones) > 1:
        core, ones = F.reshape(core, shape=(-1, out_rank)), ()
    links = [core] if link is None else [_merged(F, factors, shapes, link), core]
    for first, last in _runs(chain, reuse):
        run, step = links[first - 1 : last], chain.step(first, last)
        if last < len(chain.modes):
            given = (*ones, out_rank) if run[-1] is core else ()
            products.append(_product(F, step, reduce(F.dot, run), transposed=True, given=given))
        elif run:
            weight = F.reshape(reduce(F.dot, run), shape=(-1, out_rank))
            products.append(_product(F, step, F.dot(output, weight, transpose_b=True)))
        else:
            products.append(_product(F, step, output))
    return products


@cache
def _tucker_plan(
    shape: tuple[int, ...], rank: tuple[int, ...], reuse: float
) -> tuple[tuple[Step, ...], Step | None, Chain]:
    """Steps over the input's modes; of these the last, where it can be a link; and the chain.

    Links of the chain are that last step, core and output's factor.
    """
    *mode_ranks, _ = rank
    *steps, last = plan(shape[:-1], tuple(mode_ranks), reuse)
    edges = (prod(mode_ranks), rank[-1], shape[-1])
    if not last.is_whole:
        return (*steps, last), None, Chain(((), ()), edges)
    return tuple(steps), last, Chain((last.before, (), ()), (1, *edges))


def tucker_steps(shape: tuple[int, ...], rank: tuple[int, ...]) -> tuple[Step, ...]:
    """The steps of :func:`tucker_products`: the input's modes, then core and output's factor."""
    steps, _, chain = _tucker_plan(shape, rank, TRAINING)
    return (*steps, *_chain_steps(chain))


def cp_products(F, factors: Sequence, shape, rank: int, reuse: float = TRAINING) -> list[Product]:
    """The products of ⟨X, Σr u1r ∘ … ∘ uNr ∘ u(N+1)r⟩_N.

    Arguments and result as in :func:`tucker_products`, with factors (Ik, R) and one rank.
    """
    first, *others, output = cp_steps(shape, rank)
    products = [_product(F, first, factors[0], transposed=True)]
    for step in others:
        rows = [F.transpose(factor) for factor in factors[1:-1]]
        kernel = khatri_rao(F, rows, [(rank, size) for size in shape[1:-1]])
        kernel = F.reshape(kernel, shape=(rank, 1, *_pixels(shape[1:-1])))
        products.append(Product(step, kernel, by_component=True))
    return [*products, _product(F, output, factors[-1])]


def cp_steps(shape: tuple[int, ...], rank: int) -> tuple[Step, ...]:
    """The steps of :func:`cp_products`: mode 1, all others component by component, the output."""
    first, *others = shape[:-1]
    steps = [Step(1, 1, (first, *others), (rank, *others))]
    if others:
        steps.append(Step(2, len(others) + 1, (rank, *others), (rank,)))
    return (*steps, Step(1, 1, (rank,), (shape[-1],)))


def tensor_train_products(
    F, cores: Sequence, shape, rank: tuple[int, ...], reuse: float = TRAINING
) -> list[Product]:
    """The products of ⟨X, G1 ⋯ GN G(N+1)⟩_N, from the first mode to the last.

    Arguments and result as in :func:`tucker_products`, with cores Gk of shape (r(k-1), Ik, rk) and
    the inner ranks (r1, …, rN).
    """
    chain = _train(shape, rank)
    products = []
    for first, last in _runs(chain, reuse):
        step, matrix, given = chain.step(first, last), reduce(F.dot, cores[first - 1 : last]), ()
        if first == len(cores):
            given = (shape[-1], 1)
        else:
            matrix = F.reshape(matrix, shape=(step.contracted, step.produced))
        products.append(_product(F, step, matrix, transposed=True, given=given))
    return products


def tensor_train_steps(shape: tuple[int, ...], rank: tuple[int, ...]) -> tuple[Step, ...]:
    """The steps of :func:`tensor_train_products`: a run of cores each, the output's the last."""
    return _chain_steps(_train(shape, rank))


def _train(shape: tuple[int, ...], rank: tuple[int, ...]) -> Chain:
    return Chain((*((size,) for size in shape[:-1]), ()), (1, *rank, shape[-1]))
