"""Views of a batch: reshapes without a copy, and guards against inputs of another shape.

Arrays are reshaped by their sizes. A symbol's sizes are not known while a graph is made, and
oneDNN's Reshape compares none when it runs: from an input of another shape, a reshape by sizes
would make samples of other samples' elements, or of foreign memory. So a symbol is reshaped by
codes that merge and split modes, where the operators check the sizes, or its sizes are checked
first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from trnet.tensor.plan import Step

# Codes of MXNet's Reshape.
KEEP = 0  # a mode as it is
MERGE = -3  # two neighbouring modes into one
SPLIT = -4  # a mode into two, whose sizes follow

_MOST_MODES = 6  # of the tensors that oneDNN reshapes

# The modes of a volume (channels, depth, height, width). Conv3D leaves it in oneDNN's layout, which
# oneDNN can reshape once only in a graph. Two operators that oneDNN does not have restore MXNet's
# layout; where it is that already, they copy nothing.
_VOLUME = 4

Shape = tuple  # of int: a sample's, without the batch
View = Callable  # (x, shape, target) -> x


def guarded(F, x, steps: Sequence[Step]) -> tuple[object, Shape, View]:
    """A batch whose shape is checked, its samples' shape, and the function that views it.

    Parameters
    ----------
    F : module
        ``mxnet.ndarray`` or ``mxnet.symbol``.
    x : NDArray or Symbol
        (batch, I1, …, IN). An array's sizes are the caller's to check; a symbol's are checked when
        the graph runs.
    steps : sequence of Step
        What the batch is contracted by.

    Returns
    -------
    x : NDArray or Symbol
    shape : tuple of int
        What ``view`` takes as the present shape.
    view : callable
        ``view(x, shape, target)``: samples of a shape, with their elements taken as samples of
        another.
    """
    shape = steps[0].before
    if not is_symbolic(F):
        return x, shape, by_sizes
    if len(shape) == _VOLUME:
        x = F.squeeze(F.expand_dims(x, axis=1), axis=1)
    if _operators_check(steps):
        x = F.Flatten(x) if len(shape) == 1 else x  # or further modes would stay
        return x, shape, partial(_by_codes, F)
    first, *others = shape
    if steps[0].is_whole and len(set(others)) == 1 and len(shape) <= _MOST_MODES - 2:
        # The matrix compares how many elements there are; the first mode's size is all it lacks.
        x = x.reshape((KEEP, SPLIT, first, 1, *[KEEP] * len(others)))
        return x, shape, partial(_by_codes, F)
    return _require(x, shape), (), by_sizes


def is_symbolic(F) -> bool:
    """Whether ``F`` is ``mxnet.symbol``; said by its name, since trnet.tensor imports no MXNet."""
    return F.__name__ == "mxnet.symbol"


def by_sizes(x, shape: Shape, target: Shape):
    """Samples of a shape with their elements taken as samples of another, unchecked."""
    return x if shape == target else x.reshape((-1, *target))


def _operators_check(steps: Sequence[Step]) -> bool:
    """Whether the operators themselves refuse an input of other sizes, by those of their matrices.

    A product over several modes compares only how many elements these have together. That is enough
    where their sizes are equal, as those of pixels are, and the first mode is contracted alone.
    """
    first, *others = steps[0].before
    return (
        len(set(others)) <= 1
        and any(step.contracted == first and step.leading == 1 for step in steps)
        and all(step.leading == 1 or step.trailing == 1 for step in steps)
    )


def _by_codes(F, x, shape: Shape, target: Shape):
    if len(target) == 1 < len(shape):
        return F.Flatten(x)
    if len(shape) > 1 and shape[0] > target[0]:  # only a last mode can be split
        x, shape = F.Flatten(x), (prod(shape),)
    while shape != target:
        codes, shape = _codes(shape, target)
        x = x.reshape((KEEP, *codes))
    return x


def _codes(shape: Shape, target: Shape) -> tuple[tuple[int, ...], Shape]:
    """Codes of a reshape that merges pairs of modes, or splits the last one in two; its result."""
    codes, reached, begin = [], [], 0
    for place, size in enumerate(target):
        rest = target[place:]
        if len(rest) > 1 and begin == len(shape) - 1:
            split = (size, prod(rest[1:]))
            return (*codes, SPLIT, *split), (*reached, *split)
        end = begin + 1
        while end < len(shape) and (len(rest) == 1 or prod(shape[begin:end]) < size):
            end += 1
        for at in range(begin, end, 2):
            pair = shape[at : min(at + 2, end)]
            codes.append(MERGE if len(pair) == 2 else KEEP)
            reached.append(prod(pair))
        begin = end
    return tuple(codes), tuple(reached)


def _require(x, shape: Shape):
    """A symbol whose graph takes samples of one shape only, with their elements in the same order.

    A mode can be split into I × 1 only where it has the size I. That is done from the last mode on,
    for as many modes at a time as oneDNN takes; it copies nothing.
    """
    n_modes = len(shape)
    at_once = max(1, _MOST_MODES - 1 - n_modes)
    for end in range(n_modes, 0, -at_once):
        begin = max(0, end - at_once)
        split = [code for size in shape[begin:end] for code in (SPLIT, size, 1)]
        merged = min(at_once, n_modes - end)  # those split before, each with its 1
        trailing = [MERGE] * merged + [KEEP] * (n_modes - end - merged)
        x = x.reshape((*[KEEP] * (begin + 1), *split, *trailing))
    return x
