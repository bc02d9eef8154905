"""What is wrong with results, in sentences; none where all is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ring_attn_bench.conformance.expected import Expected
from ring_attn_bench.truth import tolerance

LOG2E = 1.4426950408889634


def faults(right: Expected, results: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with these results."""
    each = (_fault(right, name, result) for name, result in results.items())
    return [fault for fault in each if fault]


def unlike(first: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """The results that are not the same bit for bit each time."""
    return [
        f"{name} has other bits when it is computed again"
        for name, result in first.items()
        if not all(torch.equal(result, again[name]) for again in others)
    ]


def wider(results: Mapping[str, Tensor], dtype: torch.dtype) -> list[str]:
    """The gradients of a kernel that says it rounds them which are not in the inputs' dtype."""
    return [
        f"{name} is {result.dtype}, not {dtype}, which `rounds_gradients` says"
        for name, result in results.items()
        if result.dtype != dtype
    ]


def changed(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> list[str]:
    """The inputs that are not what they were."""
    return [
        f"{name}, an input, was written to"
        for name, tensor in now.items()
        if not torch.equal(tensor, before[name])
    ]


def _fault(right: Expected, name: str, result: Tensor) -> str | None:
    wanted, bounds = right.results[name], right.bounds[name]
    allowed = {right.wide_dtype} | ({right.dtype} if name != "lse" else set())
    if result.shape != wanted.shape:
        return f"{name} has shape {tuple(result.shape)}, not {tuple(wanted.shape)}"
    if result.dtype not in allowed:
        return f"{name} is {result.dtype}, not {' or '.join(sorted(map(str, allowed)))}"
    if result.device.type != wanted.device.type:
        return f"{name} is on {result.device}, not on {wanted.device}"
    if result.shape[-1] > 1 and result.stride(-1) != 1:
        return f"{name}'s last dim has a stride of {result.stride(-1)}, not 1"
    error = tolerance.error(result, wanted)
    if error.within(bounds):
        return None
    in_base_2 = name == "lse" and tolerance.error(result / LOG2E, wanted).within(bounds)
    hint = " (it would be right as a logarithm of base 2)" if in_base_2 else ""
    return f"{name} is out by {error}; allowed are {bounds}{hint}"
