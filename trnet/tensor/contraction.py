"""Contraction of a batch of tensors with factors, planned from static shapes.

The functions take ``F`` (``mxnet.ndarray`` or ``mxnet.symbol``) and work alike on arrays and on
symbols, in legacy operators only, so that layers hybridize, export and convert to ONNX. The batch
is never part of a plan: it stays free. Modes are counted as in the papers, from 1; the batch is
mode 0.

Two operators carry everything, because they need no transposed copy of the batch: a product over
the *last* modes is a ``FullyConnected``, a product over any other is a 1×1 ``Convolution`` with
the modes behind it as its pixels. Neighbouring modes may be merged into one product with the
Kronecker product of their factors, which is the faster way for small modes such as 7×7 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from math import prod

# What an element read or written costs, in multiply-adds, measured on two AVX-512 cores. A
# convolution costs more: the library reorders its input and output.
_FULLY_CONNECTED_TRAFFIC = 8
_CONVOLUTION_TRAFFIC = 32
# The batch over which the building of a Kronecker product is spread when costs are compared.
_TYPICAL_BATCH = 32


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
    def multiply_adds(self) -> int:
        """Multiply-adds a sample."""
        return prod(self.before) * self.produced

    def traffic(self, batch: int) -> int:
        """Elements read and written for a batch, the matrix of the product among them."""
        return batch * (prod(self.before) + prod(self.after)) + self.contracted * self.produced

    @property
    def cost(self) -> float:
        """Multiply-adds a sample, with the traffic and the Kronecker product counted in."""
        traffic = _FULLY_CONNECTED_TRAFFIC if self.trailing == 1 else _CONVOLUTION_TRAFFIC
        merged = self.contracted * self.produced if self.last > self.first else 0
        return (
            self.multiply_adds
            + traffic * (prod(self.before) + prod(self.after))
            + _FULLY_CONNECTED_TRAFFIC * merged / _TYPICAL_BATCH
        )


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
def plan(in_shape: tuple[int, ...], rank: tuple[int, ...]) -> tuple[Step, ...]:
    """Cheapest sequence of products that takes a sample from ``in_shape`` to ``rank``.

    Every way of merging neighbouring modes is tried in every order.

    Parameters
    ----------
    in_shape : tuple of int
        (I1, …, IN), without the batch.
    rank : tuple of int
        (R1, …, RN).

    Returns
    -------
    tuple of Step
    """
    candidates = (
        _steps(in_shape, rank, order)
        for groups in _neighbouring_groups(len(in_shape))
        for order in permutations(groups)
    )
    return min(candidates, key=lambda steps: sum(step.cost for step in steps))


def _neighbouring_groups(n_modes: int) -> Iterator[list[tuple[int, int]]]:
    """All ways of cutting the modes 1 … n into runs, each as (first, last)."""
    for n_cuts in range(n_modes):
        for cuts in combinations(range(1, n_modes), n_cuts):
            edges = (0, *cuts, n_modes)
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


def multi_mode_dot(F, x, factors: Sequence, in_shape, rank, transpose: bool = False):
    """X ×1 V1 ×2 V2 … ×N VN for a batch, as ``tensorly.tenalg.multi_mode_dot`` does it.

    Parameters
    ----------
    F : module
        ``mxnet.ndarray`` or ``mxnet.symbol``.
    x : NDArray or Symbol
        (batch, I1, …, IN).
    factors : sequence of NDArray or Symbol
        Vk of shape (Rk, Ik); with ``transpose`` Uk of shape (Ik, Rk), for X ×k Ukᵀ.
    in_shape, rank : sequence of int
        (I1, …, IN) and (R1, …, RN).

    Returns
    -------
    NDArray or Symbol
        (batch, R1, …, RN).
    """
    for step in plan(tuple(in_shape), tuple(rank)):
        x = _mode_product(F, x, factors[step.first - 1 : step.last], step, transpose)
    return F.Reshape(x, shape=(-1, *rank))


def _mode_product(F, x, factors: Sequence, step: Step, transpose: bool):
    if transpose and len(factors) == 1:
        return apply_transposed(F, x, factors[0], step)
    if transpose:
        factors = [F.transpose(factor) for factor in factors]
    sizes = zip(step.after[step.first - 1 : step.last], step.before[step.first - 1 : step.last])
    return apply_matrix(F, x, kronecker(F, factors, tuple(sizes)), step)


def apply_matrix(F, x, matrix, step: Step):
    """Contract the modes of a step with a matrix (produced, contracted).

    The result has the elements of ``step.after`` in their order, not its shape.
    """
    if step.trailing == 1:
        rows = F.Reshape(x, shape=(-1, step.contracted))
        return F.FullyConnected(rows, matrix, num_hidden=step.produced, no_bias=True)
    images = F.Reshape(x, shape=(-1, step.contracted, step.trailing, 1))
    kernel = F.Reshape(matrix, shape=(step.produced, step.contracted, 1, 1))
    return F.Convolution(images, kernel, num_filter=step.produced, kernel=(1, 1), no_bias=True)


def apply_transposed(F, x, matrix, step: Step):
    """:func:`apply_matrix` for a matrix (contracted, produced)."""
    if step.leading == step.trailing == 1:
        # Where a matrix is large next to the batch, its transposed copy would cost the most.
        return F.dot(F.Reshape(x, shape=(-1, step.contracted)), matrix)
    return apply_matrix(F, x, F.transpose(matrix), step)


def kronecker(F, matrices: Sequence, shapes: Sequence[tuple[int, int]]):
    """V1 ⊗ … ⊗ Vn: matrices (Rk, Ik) to one of shape (R1·…·Rn, I1·…·In)."""
    product, (rows, columns) = matrices[0], shapes[0]
    for matrix, (r, i) in zip(matrices[1:], shapes[1:]):
        product = F.broadcast_mul(
            F.Reshape(product, shape=(rows, 1, columns, 1)), F.Reshape(matrix, shape=(1, r, 1, i))
        )
        rows, columns = rows * r, columns * i
        product = F.Reshape(product, shape=(rows, columns))
    return product


def khatri_rao(F, matrices: Sequence, shapes: Sequence[tuple[int, int]]):
    """Row by row Kronecker product: matrices (R, Ik) to one of shape (R, I1·…·In)."""
    product, (rank, columns) = matrices[0], shapes[0]
    for matrix, (_, i) in zip(matrices[1:], shapes[1:]):
        product = F.broadcast_mul(
            F.Reshape(product, shape=(rank, columns, 1)), F.Reshape(matrix, shape=(rank, 1, i))
        )
        columns *= i
        product = F.Reshape(product, shape=(rank, columns))
    return product


def tucker_inner(F, x, core, factors: Sequence, shape, rank, bias=None):
    """⟨X, ⟦G; U1, …, UN, U(N+1)⟧⟩_N + b, by projecting X and not by rebuilding the weight.

    Parameters
    ----------
    x : NDArray or Symbol
        (batch, I1, …, IN).
    core : NDArray or Symbol
        G, (R1, …, RN, R(N+1)).
    factors : sequence of NDArray or Symbol
        Uk of shape (Ik, Rk), then U(N+1) of shape (O, R(N+1)).
    shape : tuple of int
        (I1, …, IN, O), the weight's.
    rank : tuple of int
        (R1, …, RN, R(N+1)).
    bias : NDArray or Symbol, optional
        (O,).

    Returns
    -------
    NDArray or Symbol
        (batch, O).
    """
    *mode_ranks, out_rank = rank
    latent = multi_mode_dot(F, x, factors[:-1], shape[:-1], mode_ranks, transpose=True)
    latent = F.Reshape(latent, shape=(-1, prod(mode_ranks)))
    core = F.Reshape(core, shape=(-1, out_rank))
    if _folds_core(shape, rank):
        weight = F.dot(factors[-1], core, transpose_b=True)
        return dense(F, latent, weight, bias, shape[-1])
    return dense(F, F.dot(latent, core), factors[-1], bias, shape[-1])


def tucker_steps(shape: tuple[int, ...], rank: tuple[int, ...]) -> tuple[Step, ...]:
    """The products of :func:`tucker_inner`: the input's modes, then core and output's factor."""
    *mode_ranks, out_rank = rank
    latent, n_modes = tuple(mode_ranks), len(mode_ranks)
    if _folds_core(shape, rank):
        behind = (Step(1, n_modes, latent, (shape[-1],)),)
    else:
        behind = (Step(1, n_modes, latent, (out_rank,)), Step(1, 1, (out_rank,), (shape[-1],)))
    return (*plan(tuple(shape[:-1]), latent), *behind)


def _folds_core(shape: tuple[int, ...], rank: tuple[int, ...]) -> bool:
    """Whether core and output's factor are multiplied first: where the latent space is small."""
    *mode_ranks, out_rank = rank
    latent, outputs = prod(mode_ranks), shape[-1]
    folding = latent * out_rank * outputs / _TYPICAL_BATCH
    return folding + latent * outputs < latent * out_rank + out_rank * outputs


def cp_steps(shape: tuple[int, ...], rank: int) -> tuple[Step, ...]:
    """The products of :func:`cp_inner`: mode 1, all others component by component, the output."""
    first, *others = shape[:-1]
    steps = [Step(1, 1, (first, *others), (rank, *others))]
    if others:
        steps.append(Step(2, len(others) + 1, (rank, *others), (rank,)))
    return (*steps, Step(1, 1, (rank,), (shape[-1],)))


@cache
def tensor_train_steps(shape: tuple[int, ...], rank: tuple[int, ...]) -> tuple[Step, ...]:
    """The products of :func:`tensor_train_inner`: the cheapest way to group neighbouring cores.

    The cores of a group are multiplied first, which does not depend on the batch, and contract
    their modes at once.
    """
    edges = (1, *rank)

    def steps(groups: Sequence[tuple[int, int]]) -> list[Step]:
        return [
            Step(
                1,
                last - first + 1,
                (edges[first - 1] * shape[first - 1], *shape[first:-1]),
                (edges[last], *shape[last:-1]),
            )
            for first, last in groups
        ]

    def cost(groups: Sequence[tuple[int, int]]) -> float:
        multiplied = sum(
            edges[first - 1] * prod(shape[first - 1 : mode]) * edges[mode - 1] * edges[mode]
            for first, last in groups
            for mode in range(first + 1, last + 1)
        )
        return sum(step.cost for step in steps(groups)) + multiplied / _TYPICAL_BATCH

    cheapest = min(_neighbouring_groups(len(rank)), key=cost)
    return (*steps(cheapest), Step(1, 1, (rank[-1],), (shape[-1],)))


def cp_inner(F, x, factors: Sequence, shape, rank: int, bias=None):
    """⟨X, Σr u1r ∘ … ∘ uNr ∘ u(N+1)r⟩_N + b, one matrix product and one depthwise one.

    Arguments and result as in :func:`tucker_inner`, with a single rank.
    """
    in_shape = shape[:-1]
    latent = apply_transposed(F, x, factors[0], cp_steps(shape, rank)[0])
    if len(in_shape) > 1:
        pixels = prod(in_shape[1:])
        others = [F.transpose(factor) for factor in factors[1:-1]]
        kernel = khatri_rao(F, others, [(rank, size) for size in in_shape[1:]])
        latent = F.Convolution(
            F.Reshape(latent, shape=(-1, rank, pixels, 1)),
            F.Reshape(kernel, shape=(rank, 1, pixels, 1)),
            num_filter=rank,
            num_group=rank,
            kernel=(pixels, 1),
            no_bias=True,
        )
    return dense(F, F.Reshape(latent, shape=(-1, rank)), factors[-1], bias, shape[-1])


def tensor_train_inner(F, x, cores: Sequence, shape, rank: tuple[int, ...], bias=None):
    """⟨X, G1 ⋯ GN G(N+1)⟩_N + b: a core at a time, from the first mode to the last.

    Arguments and result as in :func:`tucker_inner`, with cores Gk of shape (rk-1, Ik, rk) and the
    inner ranks (r1, …, rN).
    """
    *steps, output = tensor_train_steps(tuple(shape), tuple(rank))
    begin = 0
    for step in steps:
        end = begin + step.last
        x = apply_transposed(F, x, _joined(F, cores[begin:end], rank[begin:end]), step)
        begin = end
    last = F.transpose(F.Reshape(cores[-1], shape=(output.contracted, output.produced)))
    return dense(F, F.Reshape(x, shape=(-1, output.contracted)), last, bias, shape[-1])


def _joined(F, cores: Sequence, ranks: tuple[int, ...]):
    """Neighbouring cores Gk (r(k-1), Ik, rk) as a matrix, all but the last rank its rows."""
    matrix = F.Reshape(cores[0], shape=(-1, ranks[0]))
    for core, before, after in zip(cores[1:], ranks, ranks[1:]):
        product = F.dot(matrix, F.Reshape(core, shape=(before, -1)))
        matrix = F.Reshape(product, shape=(-1, after))
    return matrix


def dense(F, x, weight, bias, units: int):
    """Dense layer x Wᵀ + b, for a weight of shape (units, inputs); no bias where it is None."""
    if bias is None:
        return F.FullyConnected(x, weight, num_hidden=units, no_bias=True)
    return F.FullyConnected(x, weight, bias, num_hidden=units)
