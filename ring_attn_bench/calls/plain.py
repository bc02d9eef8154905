"""A caller's numbers as Python's own: what is exact is taken, anything else ends in a sentence.

`1.0 == True == 1` is one key of a cache, and a tensor's value can change after the call: so kinds
are settled here, before anything is remembered.
"""

from __future__ import annotations

from contextlib import suppress
from numbers import Real
from operator import index

import torch
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument, shown


def number(name: str, value: object) -> float:
    """A real number; raises InvalidArgument, for tensors too, whose gradient would be lost."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(Exception):  # too large a one, or a third party's
            return float(value)
    way_out = f": pass {name}.item()" if isinstance(value, Tensor) else ""
    raise InvalidArgument(f"{name} is {shown(value)}; it must be a number{way_out}.")


def integer(name: str, value: object) -> int:
    """A whole number of 64 bits, numpy's and those of 0-d tensors too; raises InvalidArgument."""
    number = _exact(value)
    if number is None or not -(2**63) <= number < 2**63:
        size = "" if number is None else " of at most 64 bits"
        raise InvalidArgument(f"{name} is {shown(value)}; it must be an integer{size}.")
    return number


def flag(name: str, value: object) -> bool:
    """True or False, numpy's too, or 1 or 0; raises InvalidArgument."""
    if isinstance(value, bool):
        return value
    of_numpy = not isinstance(value, Tensor) and getattr(value, "shape", None) == ()
    if of_numpy and str(getattr(value, "dtype", "")) == "bool":
        return bool(value)
    number = None if isinstance(value, Tensor) else _exact(value)
    if number not in (0, 1):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be True or False.")
    return bool(number)


def text(name: str, value: object, example: str) -> str:
    """A name; raises InvalidArgument."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be a name like {example!r}.")
    return value


def pair(name: str, value: object, meaning: str) -> tuple[int, int]:
    """Two integers: a tuple, a list, an array or a tensor of them; raises InvalidArgument."""
    sides = value if isinstance(value, tuple | list) else _elements(value)
    numbers = [_exact(side) for side in sides]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise InvalidArgument(
            f"{name} is {shown(value)}; it must be two integers, {meaning}, -1 for all."
        )
    return numbers[0], numbers[1]


def _exact(value: object) -> int | None:
    """The integer that it is, or None; a bool is none, and a float neither."""
    if isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:
        return None
    try:
        return index(value)  # type: ignore[arg-type]  # what has no __index__ raises
    except Exception:  # a tensor on the meta device, say
        return None


def _elements(value: object) -> list[object]:
    try:
        is_pair = tuple(getattr(value, "shape", ())) == (2,)
        return list(value) if is_pair else []  # type: ignore[call-overload]
    except Exception:  # a nested tensor has no shape, and a fake one no elements
        return []
