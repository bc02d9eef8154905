"""Ranks compare what they are about to compute, so that a mismatch is a sentence and not a hang."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.ring.broken import broken

_REFUSED, _FORWARD, _BACKWARD = -1, 1, 2
"""What a rank's message is about: its first number."""


class Gradients(IntEnum):
    """What a rank's call has to do with gradients."""

    UNNEEDED = 0
    """No input needs a gradient."""
    WANTED = 1
    OFF = 2
    """Autograd is off: torch.no_grad or inference_mode."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything about a call that all ranks must share: numbers as they are, texts by checksum.

    gradients: may differ, but for WANTED beside OFF.
    """

    numbers: tuple[tuple[str, int], ...]
    texts: tuple[tuple[str, int], ...]
    gradients: Gradients = Gradients.UNNEEDED

    @classmethod
    def of(
        cls,
        numbers: dict[str, int],
        texts: dict[str, str],
        gradients: Gradients = Gradients.UNNEEDED,
    ) -> Signature:
        """A signature from named numbers and named texts."""
        hashed = {name: zlib.crc32(text.encode()) for name, text in texts.items()}
        return cls(tuple(numbers.items()), tuple(hashed.items()), gradients)

    def with_text(self, name: str, text: str) -> Signature:
        """The same with one more text, which may change from call to call."""
        return replace(self, texts=(*self.texts, (name, zlib.crc32(text.encode()))))


SINK = "sink"
"""The number that is 1 of a call with a sink, and else 0."""
_WIDTH = 32
"""Numbers in one message; a signature has fewer."""


def agree(group: dist.ProcessGroup, device: torch.device, signature: Signature) -> bool:
    """Whether ranks that want gradients met some that need none: then they must agree once more,
    when the latter have made calls that take part in the backward.

    Raises InvalidArgument on every rank if the ranks' signatures differ or a rank refused.
    """
    fields = signature.numbers + signature.texts
    everyone = _exchange(
        group, device, [_FORWARD, signature.gradients, *(value for _, value in fields)]
    )
    _check_kind(_FORWARD, everyone)
    mixed = _check_gradients([Gradients(theirs[1]) for theirs in everyone])
    for rank, theirs in enumerate(everyone):
        for (name, value), other in zip(fields, theirs[2:], strict=False):
            # `auto` may take another backend where no gradients are needed
            if value != other and not (mixed and name == "backend"):
                raise InvalidArgument(_difference(signature, name, value, rank, other))
    return mixed


def agree_on_backward(group: dist.ProcessGroup, device: torch.device, number: int) -> None:
    """Raises InvalidArgument on every rank unless all are in the backward of that forward pass."""
    everyone = _exchange(group, device, [_BACKWARD, number])
    _check_kind(_BACKWARD, everyone)
    for rank, (_, other, *_) in enumerate(everyone):
        if other != number:
            raise InvalidArgument(
                f"rank {rank} of the ring is in the backward of its call {other}, this rank in "
                f"that of its call {number}; every rank must run the backward passes in one order."
            )


def refuse(group: dist.ProcessGroup, device: torch.device) -> None:
    """Tells the ranks that wait in `agree` that this one raised."""
    # by real numbers, whatever mode it is that this one cannot be called in
    with _disable_current_modes() if _get_current_dispatch_mode_stack() else nullcontext():
        _exchange(group, device, [_REFUSED])


def _check_kind(kind: int, everyone: list[list[int]]) -> None:
    for rank, (theirs, *_) in enumerate(everyone):
        if theirs == _REFUSED:
            raise InvalidArgument(
                f"rank {rank} of the ring refused its arguments, so this call cannot run on any "
                "rank; that rank's own error says why."
            )
    for rank, (theirs, *_) in enumerate(everyone):
        if theirs != kind:
            names = {_FORWARD: "forward", _BACKWARD: "backward"}
            raise InvalidArgument(
                f"rank {rank} of the ring is in a {names[theirs]} pass, this rank in a "
                f"{names[kind]} one; every rank must make the same calls in one order."
            )


def _check_gradients(everyone: list[Gradients]) -> bool:
    """Whether some want gradients and some need none; raises where others could not take part."""
    if Gradients.WANTED in everyone and Gradients.OFF in everyone:
        wants, off = everyone.index(Gradients.WANTED), everyone.index(Gradients.OFF)
        raise InvalidArgument(
            f"rank {wants} of the ring wants gradients, and rank {off} runs under torch.no_grad or "
            "inference_mode, where it cannot take part in the backward; run all ranks alike."
        )
    return Gradients.WANTED in everyone and Gradients.UNNEEDED in everyone


def _difference(signature: Signature, name: str, mine: int, rank: int, theirs: int) -> str:
    if name in dict(signature.texts):
        return (
            f"rank {rank} of the ring was called with another {name} than this rank; every rank "
            "must make the same call."
        )
    if name == SINK:
        given = {0: "without a sink", 1: "with a sink"}
        return (
            f"rank {rank} of the ring was called {given[theirs]}, this rank {given[mine]}; pass "
            "sink= on every rank, or on none."
        )
    return (
        f"rank {rank} of the ring was called with {name} {theirs}, this rank with {mine}; every "
        "rank must bring a shard of the same shape."
    )


def _exchange(
    group: dist.ProcessGroup, device: torch.device, numbers: Sequence[int]
) -> list[list[int]]:
    assert len(numbers) <= _WIDTH
    padded = [*numbers, *[0] * (_WIDTH - len(numbers))]
    mine = torch.tensor(padded, dtype=torch.int64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    try:
        dist.all_gather(everyone, mine, group=group)
    except RuntimeError as error:
        raise broken("the arguments of the others", group, error) from error
    return [theirs.tolist() for theirs in everyone]
