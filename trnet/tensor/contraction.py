"""Contraction of a batch of tensors with factors, product by product.

The matrix of each product is made of the factors alone: for every batch while they are trained,
once where they are constants. ``F`` is ``mxnet.ndarray`` or ``mxnet.symbol``: all functions work
on arrays and on symbols, in legacy operators only, so that layers hybridize and export.

Two operators carry everything, because they need no transposed copy of the batch: a product over
the *last* modes is a product of matrices; one over any other modes is a 1×1 ``Convolution``, with
the modes after them as its pixels. Neighbouring modes may be merged into one product with the
Kronecker product of their factors, which is faster for small modes such as 7×7 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Union

from trnet.tensor.plan import (
    COMPONENTWISE_TRAFFIC,
    CONVOLUTION_TRAFFIC,
    MATRIX_TRAFFIC,
    TRAINING,
    Step,
    plan,
)
from trnet.tensor.views import by_sizes, guarded

# One product in place of several is estimated with its matrix read from memory. Where the matrix is
# in a cache it costs half of that or less, so products have to cost less than this share of it.
_AS_ONE = 0.5
_LARGEST_SAMPLE = 2**15  # elements: larger ones take seconds to become one product
_BLOCK = 2**24  # elements of the unit samples that are contracted at once


@dataclass(frozen=True)
class MatrixProduct:
    """A product over the last modes: (batch, leading …, contracted) -> (…, produced).

    Attributes
    ----------
    step : Step
    matrix : NDArray or Symbol
        (produced, contracted), or ``transposed``: (contracted, *produced modes).
    transposed : bool
        Allowed for a whole step only.
    produced : tuple of int
        The produced modes; their sizes are 1 but for one, where ``transposed``.
    """

    step: Step
    matrix: Any
    transposed: bool
    produced: tuple[int, ...]

    traffic: ClassVar[int] = MATRIX_TRAFFIC

    @property
    def _leading(self) -> tuple[int, ...]:
        return () if self.step.is_whole else self.step.before[: self.step.first - 1]

    @property
    def takes(self) -> tuple[int, ...]:
        """Shape of a sample that :meth:`apply` takes."""
        return (*self._leading, self.step.contracted)

    @property
    def gives(self) -> tuple[int, ...]:
        """Shape of a sample that :meth:`apply` gives."""
        return (*self._leading, *self.produced)

    @property
    def takes_bias(self) -> bool:
        """Whether :meth:`apply` can add a bias (produced,) as well, which saves a pass."""
        return not self.transposed

    def apply(self, F, x, bias=None):
        """The product with a batch, and a bias where :attr:`takes_bias`.

        A whole step takes samples of any number of modes.
        """
        if self.transposed:
            return F.dot(x, self.matrix)
        operands = (x, self.matrix) if bias is None else (x, self.matrix, bias)
        return F.FullyConnected(
            *operands,
            num_hidden=self.step.produced,
            no_bias=bias is None,
            flatten=self.step.is_whole,
        )


@dataclass(frozen=True)
class PixelwiseProduct:
    """A product over any modes as a 1×1 convolution, with the modes after them as its pixels.

    (batch·leading, contracted, height, width) -> (batch·leading, produced, height, width)

    Attributes
    ----------
    step : Step
    matrix : NDArray or Symbol
        (produced, contracted, 1, 1).
    """

    step: Step
    matrix: Any
    takes_bias: ClassVar[bool] = False
    traffic: ClassVar[int] = CONVOLUTION_TRAFFIC

    @property
    def takes(self) -> tuple[int, ...]:
        """Shape of a sample that :meth:`apply` takes."""
        return (self.step.contracted, *_pixels(self.step.before[self.step.last :]))

    @property
    def gives(self) -> tuple[int, ...]:
        """Shape of a sample that :meth:`apply` gives."""
        if self.step.leading > 1:
            return self.step.after
        return (self.step.produced, *_pixels(self.step.before[self.step.last :]))

    def apply(self, F, x):
        """The product with a batch."""
        x = F.Convolution(
            x, self.matrix, num_filter=self.step.produced, kernel=(1, 1), no_bias=True
        )
        return x.reshape((-1, *self.step.after)) if self.step.leading > 1 else x


@dataclass(frozen=True)
class ComponentwiseProduct:
    """Every component of a sample's first mode is contracted with an image of its own.

    (batch, R, height, width) -> (batch, R, 1, 1)

    Attributes
    ----------
    step : Step
    matrix : NDArray or Symbol
        (R, 1, height, width).
    """

    step: Step
    matrix: Any
    takes_bias: ClassVar[bool] = False
    traffic: ClassVar[int] = COMPONENTWISE_TRAFFIC

    @property
    def takes(self) -> tuple[int, ...]:
        """Shape of a sample that :meth:`apply` takes."""
        components, *modes = self.step.before
        return (components, *_pixels(modes))

    @property
    def gives(self) -> tuple[int, ...]:
        """Shape of a sample that :meth:`apply` gives."""
        return (self.step.before[0], 1, 1)

    def apply(self, F, x):
        """The product with a batch."""
        components, *size = self.takes
        return F.Convolution(
            x,
            self.matrix,
            num_filter=components,
            num_group=components,
            kernel=tuple(size),
            no_bias=True,
        )


Product = Union[MatrixProduct, PixelwiseProduct, ComponentwiseProduct]


def contract(
    F, x, products: Sequence[Product], bias=None, *, checks: bool = True, is_viewed: bool = False
):
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
    checks : bool
        Whether the sizes of a symbol are checked where one product takes whole samples; else only
        how many elements these have is, as by a dense layer.
    is_viewed : bool
        Whether samples have the shape that the first product takes, and were checked.

    Returns
    -------
    NDArray or Symbol
        (batch, R1, …, RN) or (batch, O), as the last step's ``after``.
    """
    after = products[-1].step.after
    is_dense = len(products) == len(after) == 1 and products[0].step.is_whole
    if is_dense and products[0].takes_bias and not checks:
        return products[0].apply(F, x, bias)
    if is_viewed:
        shape, view = products[0].takes, by_sizes
    else:
        x, shape, view = guarded(F, x, [product.step for product in products])
    *others, last = products
    for product in others:
        x = product.apply(F, view(x, shape, product.takes))
        shape = product.gives
    x = view(x, shape, last.takes)
    if bias is not None and len(after) == 1 and last.takes_bias:
        return last.apply(F, x, bias)
    x = view(last.apply(F, x), last.gives, after)
    return x if bias is None else F.broadcast_add(x, F.expand_dims(bias, axis=0))


def shortened(F, products: Sequence[Product], batch: int) -> list[Product]:
    """The same products of constants: the last ones as one where that is faster, none transposed.

    Parameters
    ----------
    F : module
        ``mxnet.ndarray``.
    products : sequence of Product
        Of constant arrays.
    batch : int
        Samples at a time.

    Returns
    -------
    list of Product
    """
    costs = [product.step.cost_at(batch, product.traffic) for product in products]
    choices = {len(products): sum(costs)}
    for first, product in enumerate(products[:-1]):
        if prod(product.step.before) <= _LARGEST_SAMPLE:
            one = _merged_step(products[first:]).cost_at(batch, MATRIX_TRAFFIC)
            choices[first] = sum(costs[:first]) + _AS_ONE * one
    first = min(choices, key=choices.get)
    kept, replaced = products[:first], products[first:]
    one = [make_product(F, *_multiplied(F, replaced))] if replaced else []
    return [*map(_untransposed, kept), *one]


def _multiplied(F, products: Sequence[Product]) -> tuple[Step, Any]:
    """Some products as one whole step and its matrix, (produced, contracted)."""
    step, like = _merged_step(products), products[0].matrix
    # What the products make of unit samples: (block, I1, …, IN) -> (block, R1, …, RN)
    size = max(1, _BLOCK // step.contracted)
    rows = []
    for begin in range(0, step.contracted, size):
        places = F.arange(begin, min(begin + size, step.contracted), ctx=like.context)
        units = F.one_hot(places, step.contracted).astype(like.dtype)
        rows.append(contract(F, units.reshape((-1, *step.before)), products))
    matrix = F.concat(*rows, dim=0).reshape((step.contracted, step.produced))
    return step, matrix.T


def _untransposed(product: Product) -> Product:
    """A product whose matrix is not transposed: MXNet multiplies with it faster.

    While the matrix is trained, it would have to be transposed for every batch.
    """
    if not (isinstance(product, MatrixProduct) and product.transposed):
        return product
    matrix = product.matrix.reshape((product.step.contracted, product.step.produced)).T
    return MatrixProduct(product.step, matrix, False, (product.step.produced,))


def _merged_step(products: Sequence[Product]) -> Step:
    before = products[0].step.before
    return Step(1, len(before), before, products[-1].step.after)


def make_product(
    F, step: Step, matrix, transposed: bool = False, produced: tuple[int, ...] = ()
) -> Product:
    """A step and its matrix, in the form that the operator takes.

    Parameters
    ----------
    F : module
        ``mxnet.ndarray`` or ``mxnet.symbol``.
    step : Step
    matrix : NDArray or Symbol
        (produced, contracted), or ``transposed``: (contracted, produced).
    transposed : bool
    produced : tuple of int
        The matrix's modes after the first, where it is ``transposed`` and has several.

    Returns
    -------
    Product
    """
    # A whole step takes the matrix as it is: where that is large next to the batch, its transposed
    # copy would cost the most.
    if step.is_whole:
        return MatrixProduct(step, matrix, transposed, produced or (step.produced,))
    # Other matrices are copies, never views of a parameter: oneDNN changes the layout of weights in
    # place when nothing is recorded.
    if transposed:
        is_column = step.produced == 1
        matrix = F.reshape(matrix, shape=(1, -1)) if is_column else F.transpose(matrix)
    if step.trailing > 1:
        matrix = F.reshape(matrix, shape=(step.produced, step.contracted, 1, 1))
        return PixelwiseProduct(step, matrix)
    return MatrixProduct(step, matrix, False, (step.produced,))


def componentwise_product(F, step: Step, images) -> Product:
    """A step over all modes after the first, with ``images`` (components, I2·…·IN)."""
    components, *modes = step.before
    kernel = F.reshape(images, shape=(components, 1, *_pixels(modes)))
    return ComponentwiseProduct(step, kernel)


def tcl_products(F, factors: Sequence, in_shape, rank, reuse: float = TRAINING) -> list[Product]:
    """The products of X ×1 V1 ×2 V2 … ×N VN: (B, I1, …, IN) -> (B, R1, …, RN).

    Parameters
    ----------
    F : module
        ``mxnet.ndarray`` or ``mxnet.symbol``.
    factors : sequence of NDArray or Symbol
        Vk of shape (Rk, Ik).
    in_shape, rank : tuple of int
        (I1, …, IN) and (R1, …, RN).
    reuse : float
        Samples per matrix: :data:`~trnet.tensor.plan.TRAINING` or
        :data:`~trnet.tensor.plan.CONSTANT`.

    Returns
    -------
    list of Product
    """
    shapes = list(zip(rank, in_shape))
    return [
        make_product(F, step, merged(F, factors, shapes, step))
        for step in plan(in_shape, rank, reuse)
    ]


def merged(F, factors: Sequence, shapes: Sequence[tuple[int, int]], step: Step):
    """The Kronecker product of the factors whose modes a step contracts."""
    run = slice(step.first - 1, step.last)
    return kronecker(F, factors[run], shapes[run])


def kronecker(F, matrices: Sequence, shapes: Sequence[tuple[int, int]]):
    """V1 ⊗ … ⊗ Vn: matrices (Rk, Ik) -> (R1·…·Rn, I1·…·In)."""
    product, (rows, columns) = matrices[0], shapes[0]
    for matrix, (r, i) in zip(matrices[1:], shapes[1:]):
        # An outer product: far cheaper than a broadcast one, whose backward pass has to sum.
        if columns == i == 1:
            product = F.dot(product, matrix, transpose_b=True)  # (rows, r)
        else:
            # (rows, columns, 1) · (1, r, i) -> (rows, columns, r, i) -> (rows, r, columns, i)
            product = F.dot(F.expand_dims(product, axis=2), F.expand_dims(matrix, axis=0))
            if columns > 1 and r > 1:
                product = F.transpose(product, axes=(0, 2, 1, 3))
        rows, columns = rows * r, columns * i
        product = F.reshape(product, shape=(rows, columns))
    return product


def khatri_rao(F, matrices: Sequence, shapes: Sequence[tuple[int, int]]):
    """Row by row Kronecker product: matrices (R, Ik) -> (R, I1·…·In)."""
    product, (rank, columns) = matrices[0], shapes[0]
    for matrix, (_, i) in zip(matrices[1:], shapes[1:]):
        # (R, columns, 1) ∘ (R, 1, Ik) -> (R, columns·Ik)
        product = F.broadcast_mul(
            F.reshape(product, shape=(rank, columns, 1)), F.reshape(matrix, shape=(rank, 1, i))
        )
        columns *= i
        product = F.reshape(product, shape=(rank, columns))
    return product


def _pixels(modes: Sequence[int]) -> tuple[int, int]:
    """Some modes as the height and width of a convolution's images."""
    return modes[0], prod(modes[1:])
