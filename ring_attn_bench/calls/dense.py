"""Tensors whose numbers lie in memory: what kernels and copies can read, and everything else."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ring_attn_bench.errors import InvalidArgument, shown

INT32_MAX = 2**31 - 1
"""The most tokens, heads, ... that kernels count."""
MOST_ELEMENTS = 2**40
"""Of one tensor, which would be 2 TiB in 16 bits: only an expanded one can look so large."""


def check_dense(name: str, x: object, what: str = "a tensor") -> None:
    """Raises InvalidArgument unless x is a strided tensor of numbers, of a size that can be.

    what: it must be, in words.
    """
    if not isinstance(x, Tensor):
        raise InvalidArgument(f"{name} must be {what}, got {type(x).__name__}.")
    if type(x) not in (Tensor, torch.nn.Parameter):
        _check_subclass(name, x)
    if x.layout is not torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else x.layout
        way_out = "" if x.is_nested else f"; pass {_of(name, 'to_dense()')}"
        raise InvalidArgument(f"{name} must be a dense tensor, got a {kind} one{way_out}.")
    if x.is_quantized:
        raise InvalidArgument(f"{name} is quantized ({x.dtype}); pass {_of(name, 'dequantize()')}.")
    if x.numel() > MOST_ELEMENTS or any(size > INT32_MAX for size in x.shape):
        raise InvalidArgument(
            f"{name} has shape {tuple(x.shape)}, which is too large: at most {INT32_MAX} in a dim "
            f"and 2**40 elements in all."
        )


def check_can_be_sent(name: str, x: Tensor) -> None:
    """Raises InvalidArgument for a FakeTensor, whatever is traced: no rank gets its numbers."""
    if type(x).__name__ == "FakeTensor":
        raise InvalidArgument(
            f"{name} is a FakeTensor, which holds no numbers that another rank could be sent; call "
            "a ring outside of FakeTensorMode, or leave it out of what is traced."
        )


def device_of(x: object) -> torch.device:
    """The device of a tensor; the CPU of anything else, and of what raises at every look at it."""
    with suppress(Exception):
        return x.device if isinstance(x, Tensor) else torch.device("cpu")
    return torch.device("cpu")


def checked_device(device: object) -> torch.device:
    """The device, on which there can be a tensor; raises InvalidArgument."""
    try:
        return torch.empty(0, device=device).device  # type: ignore[call-overload, no-any-return]
    except Exception as error:  # of every kind, by what is wrong with it
        why = (str(error).strip().splitlines() or ["it is none"])[0][:120]
        raise InvalidArgument(
            f"device is {shown(device)}; it must be a device that is there, or None: {why}"
        ) from None


def _of(name: str, method: str) -> str:
    """A method of what may be no argument: of a gradient, say."""
    return f"{name}.{method}" if name.isidentifier() else f"its {method}"


def _check_subclass(name: str, x: Tensor) -> None:
    # by name: importing them takes a second
    kind = type(x).__name__
    if kind == "DTensor":
        raise InvalidArgument(
            f"{name} is a DTensor; pass {_of(name, 'to_local()')}, which holds this rank's own "
            "tokens."
        )
    if kind == "MaskedTensor":
        raise InvalidArgument(
            f"{name} is a MaskedTensor, whose mask no kernel reads; pass {_of(name, 'get_data()')}."
        )
    if kind in ("UninitializedParameter", "UninitializedBuffer"):
        raise InvalidArgument(
            f"{name} is an {kind}, which has no shape and no numbers yet; pass a tensor that has, "
            f"as {_of(name, 'materialize(shape)')} makes it."
        )
    if kind == "FakeTensor":
        _check_fake(name, x)


def _check_fake(name: str, x: Tensor) -> None:
    if torch.compiler.is_exporting():
        raise InvalidArgument(
            "torch.export cannot see the kernels that this call launches; leave the call out of "
            "what is exported, or use torch.compile."
        )
    if any(type(size) is not int for size in x.shape):
        raise InvalidArgument(
            f"{name} has shape {tuple(x.shape)}, with sizes that are no numbers yet, and a call is "
            "planned by numbers; trace with real shapes, or use torch.compile."
        )
    if not _traced():
        raise InvalidArgument(
            f"{name} is a FakeTensor, which holds no numbers, and no FakeTensorMode is active; "
            "pass a real tensor."
        )


def _traced() -> bool:
    return any(type(x).__name__ == "FakeTensorMode" for x in _get_current_dispatch_mode_stack())
