"""Plans of contractions: which modes are contracted together, and in which order.

Pure Python: a plan follows from static shapes. The batch is never part of it. Modes are counted as
in the papers, from 1; the batch is mode 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, combinations, permutations
from math import inf, prod
from operator import mul

# Cost of one element that is read or written, in multiply-adds, measured on two AVX-512 cores. A
# convolution costs more: the library reorders its input and output; one with an image per channel
# is not vectorised.
MATRIX_TRAFFIC = 8
CONVOLUTION_TRAFFIC = 32
COMPONENTWISE_TRAFFIC = 300
OPERATOR = 300_000  # cost of starting one product's operators, which take 10 µs, in the same unit

# Samples per matrix: the batch, typically, while the factors change; all, once they are constant.
TRAINING = 32
CONSTANT = inf


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
        """Elements of the modes before the contracted ones; these modes join the batch."""
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
        """Elements of the modes after the contracted ones: the pixels of a convolution."""
        return prod(self.before[self.last :])

    @property
    def is_whole(self) -> bool:
        """Whether a sample is one row, which the matrix multiplies."""
        return self.leading == self.trailing == 1

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per sample."""
        return prod(self.before) * self.produced

    def traffic(self, batch: int) -> int:
        """Elements that are read and written for a batch, including the matrix of the product."""
        return batch * (prod(self.before) + prod(self.after)) + self.contracted * self.produced

    def cost(self, reuse: float) -> float:
        """Multiply-adds per sample, plus the traffic and the Kronecker product in that unit."""
        traffic = MATRIX_TRAFFIC if self.trailing == 1 else CONVOLUTION_TRAFFIC
        merged = self.contracted * self.produced if self.last > self.first else 0
        return (
            self.multiply_adds
            + traffic * (prod(self.before) + prod(self.after))
            + MATRIX_TRAFFIC * merged / reuse
        )

    def cost_at(self, batch: int, traffic: int) -> float:
        """Multiply-adds for a batch, and all else in that unit, of a product with a constant."""
        per_sample = self.multiply_adds + traffic * (prod(self.before) + prod(self.after))
        return OPERATOR + batch * per_sample + MATRIX_TRAFFIC * self.contracted * self.produced


@dataclass(frozen=True)
class Plan:
    """The products of a contraction, for a batch; ``print`` shows it as a table.

    Attributes
    ----------
    steps : tuple of Step
    batch : int
    itemsize : int
        Bytes per element.
    """

    steps: tuple[Step, ...]
    batch: int = 1
    itemsize: int = 4

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for the batch."""
        return self.batch * sum(step.multiply_adds for step in self.steps)

    @property
    def traffic(self) -> int:
        """Bytes that are read and written for the batch."""
        return self.itemsize * sum(step.traffic(self.batch) for step in self.steps)

    @property
    def largest_intermediate(self) -> int:
        """Elements of the largest tensor between two products, for the batch; 0 for one product."""
        return self.batch * max((prod(step.after) for step in self.steps[:-1]), default=0)

    def __str__(self) -> str:
        lines = [("modes", "before", "after", "multiply-adds", "bytes")]
        lines += [
            (
                str(step.first) if step.first == step.last else f"{step.first}–{step.last}",
                "×".join(map(str, step.before)),
                "×".join(map(str, step.after)),
                f"{self.batch * step.multiply_adds:,}",
                f"{self.itemsize * step.traffic(self.batch):,}",
            )
            for step in self.steps
        ]
        lines.append(("all", "", "", f"{self.multiply_adds:,}", f"{self.traffic:,}"))
        widths = [max(map(len, column)) for column in zip(*lines)]
        table = [
            "  ".join(
                cell.rjust(width) if place > 2 else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths))
            )
            for line in lines
        ]
        largest = f"largest intermediate: {self.largest_intermediate:,} elements"
        return "\n".join([f"batch of {self.batch}", *table, largest])


@cache
def plan(
    in_shape: tuple[int, ...], rank: tuple[int, ...], reuse: float = TRAINING
) -> tuple[Step, ...]:
    """Cheapest sequence of products that takes a sample from ``in_shape`` to ``rank``.

    Of all :func:`candidates`.

    Parameters
    ----------
    in_shape : tuple of int
        (I1, …, IN), without the batch.
    rank : tuple of int
        (R1, …, RN).
    reuse : float
        Samples per Kronecker product: :data:`TRAINING` or :data:`CONSTANT`.

    Returns
    -------
    tuple of Step
    """
    return min(
        candidates(in_shape, rank), key=lambda steps: sum(step.cost(reuse) for step in steps)
    )


def candidates(in_shape: tuple[int, ...], rank: tuple[int, ...]) -> Iterator[tuple[Step, ...]]:
    """All sequences of products: every way of merging neighbouring modes, in every order."""
    for groups in _neighbouring_groups(len(in_shape)):
        for order in permutations(groups):
            yield _steps(in_shape, rank, order)


def _steps(
    in_shape: tuple[int, ...], rank: tuple[int, ...], order: Sequence[tuple[int, int]]
) -> tuple[Step, ...]:
    steps, shape = [], in_shape
    for first, last in order:
        after = (*shape[: first - 1], *rank[first - 1 : last], *shape[last:])
        steps.append(Step(first, last, shape, after))
        shape = after
    return tuple(steps)


def _neighbouring_groups(length: int) -> Iterator[list[tuple[int, int]]]:
    """All ways of cutting 1 … length into runs, each as (first, last)."""
    for n_cuts in range(length):
        for cuts in combinations(range(1, length), n_cuts):
            edges = (0, *cuts, length)
            yield [(begin + 1, end) for begin, end in zip(edges, edges[1:])]


@dataclass(frozen=True)
class Chain:
    """A chain of matrices with bond dimensions ``edges``; each link also contracts input modes.

    Attributes
    ----------
    modes : tuple of tuple of int
        Sizes of the input modes that each link contracts.
    edges : tuple of int
        Bond dimensions: link k, counted from 1, leads from ``edges[k - 1]`` to ``edges[k]``.
    """

    modes: tuple[tuple[int, ...], ...]
    edges: tuple[int, ...]

    def step(self, first: int, last: int) -> Step:
        """The product with the links ``first`` to ``last``, multiplied with one another before."""
        contracted = sum(self.modes[first - 1 : last], ())
        trailing = sum(self.modes[last:], ())
        # The bond dimension is merged with the first contracted mode:
        # (edge·I1, I2, …, trailing …) -> (next edge, trailing …)
        before = (self.edges[first - 1] * prod(contracted[:1]), *contracted[1:], *trailing)
        return Step(1, max(1, len(contracted)), before, (self.edges[last], *trailing))

    def multiplying(self, first: int, last: int) -> int:
        """Multiply-adds of multiplying the links ``first`` to ``last`` with one another."""
        rows = accumulate((prod(modes) for modes in self.modes[first - 1 : last]), mul)
        return self.edges[first - 1] * sum(
            above * prod(self.edges[link : link + 2]) * prod(self.modes[link])
            for link, above in zip(range(first, last), rows)
        )

    def runs(self, reuse: float) -> list[tuple[int, int]]:
        """The cheapest cut into runs of links that are multiplied with one another first."""
        return _cheapest_runs(self, reuse)

    def steps(self, reuse: float = TRAINING) -> tuple[Step, ...]:
        """The steps of the cheapest cut."""
        return tuple(self.step(*run) for run in self.runs(reuse))


@cache
def _cheapest_runs(chain: Chain, reuse: float) -> list[tuple[int, int]]:
    def cost(runs: Sequence[tuple[int, int]]) -> float:
        return sum(chain.step(*run).cost(reuse) + chain.multiplying(*run) / reuse for run in runs)

    return min(_neighbouring_groups(len(chain.modes)), key=cost)
