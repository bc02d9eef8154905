"""Which tensors of a call lie in one memory: what is appended overwrites what is read there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from torch import Tensor

_REMEMBERED = 64
"""Distances and shapes: a model has a few, the same in every step."""


def overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two caches have an element in common: halves of one buffer have none.

    Exact for views of one buffer with the same strides; of others that lie in between each other
    nobody looks.
    """
    first, behind = _bounds(x)
    start, stop = _bounds(y)
    return _overlap(x, y) if first < stop and start < behind else False


def overwritten(read: Iterable[Tensor | None], caches: Sequence[Tensor]) -> bool:
    """Whether what is read lies, from its first element to its last, where a cache does."""
    where = [_bounds(cache) for cache in caches]
    for x in read:  # in each step of decoding that appends
        if x is None:
            continue
        first, behind = _bounds(x)
        for start, stop in where:
            if first < stop and start < behind:
                return True
    return False


def kept_apart(x: Tensor, caches: Sequence[Tensor]) -> Tensor:
    """x, or a copy if it is, or may be, part of caches that are written while it is read."""
    return x.clone() if overwritten([x], caches) else x


def _bounds(x: Tensor) -> tuple[int, int]:
    """The addresses of its first byte, and of that behind its last; one twice of nothing."""
    first = x.data_ptr()
    elements = x.numel() if x.is_contiguous() else _reach(x.shape, x.stride())
    return first, first + elements * x.element_size()


@lru_cache(_REMEMBERED)
def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last, both counted."""
    steps: int = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    return steps + 1 if all(shape) else 0


def _overlap(x: Tensor, y: Tensor) -> bool:
    apart, rest = divmod(y.data_ptr() - x.data_ptr(), x.element_size())
    if rest or (x.stride() != y.stride() and _differ(x, y)):
        return False
    return _meets(apart, x.stride(), x.shape, y.shape)


def _differ(x: Tensor, y: Tensor) -> bool:
    """Whether their strides do, but for dims of one element: `unsqueeze` makes them of widths."""
    sides = zip(x.shape, y.shape, x.stride(), y.stride(), strict=True)
    return any(step != other for size, count, step, other in sides if (size, count) != (1, 1))


@lru_cache(_REMEMBERED)
def _meets(
    apart: int, strides: tuple[int, ...], x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> bool:
    sides = zip(strides, x_shape, y_shape, strict=True)
    steps = (side for side in sides if side[0] and side[1:] != (1, 1))
    return _meet(apart, sorted(steps, reverse=True))


def _meet(apart: int, sides: Sequence[tuple[int, int, int]]) -> bool:
    """Whether steps, of each fewer than either tensor has elements, make the distance."""
    if not sides:
        return apart == 0
    (step, x_size, y_size), *inner = sides
    least = apart // step
    return any(
        -y_size < count < x_size and _meet(apart - count * step, inner)
        for count in (least, least + 1)
    )
