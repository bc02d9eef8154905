"""Ranks compare what they are about to compute, so that a mismatch is a sentence and not a hang."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ring_attn_bench.errors import InvalidArgument

_REFUSED = -1


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything about a call that all ranks must share: numbers as they are, texts by checksum."""

    numbers: tuple[tuple[str, int], ...]
    texts: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, numbers: dict[str, int], texts: dict[str, str]) -> Signature:
        """A signature from named numbers and named texts."""
        hashed = {name: zlib.crc32(text.encode()) for name, text in texts.items()}
        return cls(tuple(numbers.items()), tuple(hashed.items()))

    def with_text(self, name: str, text: str) -> Signature:
        """The same with one more text, which may change from call to call."""
        return Signature(self.numbers, (*self.texts, (name, zlib.crc32(text.encode()))))


_WIDTH = 32
"""Numbers in one message; a signature has fewer."""


def agree(group: dist.ProcessGroup, device: torch.device, signature: Signature) -> None:
    """Raises InvalidArgument on every rank if the ranks' signatures differ or a rank refused."""
    fields = signature.numbers + signature.texts
    mine = [value for _, value in fields]
    everyone = _exchange(group, device, mine)
    refused = [rank for rank, theirs in enumerate(everyone) if theirs[0] == _REFUSED]
    if refused:
        raise InvalidArgument(
            f"rank {refused[0]} of the ring refused its arguments, so this call cannot run on any "
            "rank; that rank's own error says why."
        )
    for rank, theirs in enumerate(everyone):
        for (name, value), other in zip(fields, theirs, strict=False):
            if value != other:
                raise InvalidArgument(_difference(signature, name, value, rank, other))


def refuse(group: dist.ProcessGroup, device: torch.device) -> None:
    """Tells the ranks that wait in `agree` that this one raised."""
    _exchange(group, device, [_REFUSED])


def _difference(signature: Signature, name: str, mine: int, rank: int, theirs: int) -> str:
    if name in dict(signature.texts):
        return (
            f"rank {rank} of the ring was called with another {name} than this rank; every rank "
            "must make the same call."
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
    dist.all_gather(everyone, mine, group=group)
    return [theirs.tolist() for theirs in everyone]
