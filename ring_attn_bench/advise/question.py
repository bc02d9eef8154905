"""What advice is asked for, and the numbers as people write them: 32:8, 128k, 40GB."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ring_attn_bench.errors import InvalidArgument, UnknownName, shown
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.values import MIB, MOST

_BYTES = {"gb": 1e9, "gib": 2**30, "mb": 1e6, "mib": 2**20, "tb": 1e12, "tib": 2**40}
_DIRECTIONS = (Direction.FORWARD, Direction.FORWARD_BACKWARD)
"""Directions of which there are records."""
MOST_GPUS = 64
"""The records are of one host, and no host has more."""
MOST_TOKENS = MOST * MOST_GPUS


@dataclass(frozen=True, slots=True)
class Question:
    """tokens: of the whole sequence, all GPUs together. memory: MiB of each GPU that there are for
    inputs, a call and what stays; None for no limit. gpu: by its name, or a part of it."""

    heads_q: int
    heads_kv: int
    head_dim: int
    tokens: int
    gpus: int
    causal: bool = True
    backward: bool = True
    dtype: str = "bfloat16"
    batch: int = 1
    memory: float | None = None
    gpu: str | None = None

    def __post_init__(self) -> None:
        if self.gpus > MOST_GPUS:
            raise InvalidArgument(
                f"gpus is {self.gpus}, and records are of one host: take at most {MOST_GPUS}."
            )
        if self.gpu is not None and not self.gpu.strip():
            raise InvalidArgument(
                "gpu is empty; give a GPU's name or a part of it, or leave it out."
            )

    @property
    def seqlen_per_gpu(self) -> int:
        """Raises InvalidArgument for a length that zigzag cannot deal."""
        unit = 2 * self.gpus if self.gpus > 1 else 1
        if self.tokens % unit:
            below = self.tokens // unit * unit
            nearest = f"{below} or {below + unit}" if below else str(unit)
            raise InvalidArgument(
                f"{self.tokens} tokens cannot be dealt to {self.gpus} GPUs evenly: take a multiple "
                f"of {unit}, as {nearest}."
            )
        return self.tokens // self.gpus


def with_backward(text: str) -> bool:
    """forward_backward is with it, forward without; raises UnknownName."""
    if text not in _DIRECTIONS:
        raise UnknownName("direction", text, [each.value for each in _DIRECTIONS])
    return text == Direction.FORWARD_BACKWARD


def heads(text: str) -> tuple[int, int]:
    """32:8, or 32 for as many key heads; raises InvalidArgument."""
    written = re.fullmatch(r"([1-9]\d{0,5})(?::([1-9]\d{0,5}))?", text.strip())
    if written is None:
        raise InvalidArgument(f"heads are {shown(text)}; write query:key heads, as 32:8, or 32.")
    query = int(written[1])
    key = int(written[2] or query)
    if query % key:
        raise InvalidArgument(f"{query} query heads cannot share {key} key heads; take a divisor.")
    return query, key


def mebibytes(text: str) -> float:
    """40GB is 40 x 10^9 bytes, 40GiB 40 x 2^30; raises InvalidArgument."""
    written = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kmgt]i?b)", text.strip().lower())
    if written is None or written[2] not in _BYTES or not float(written[1]):
        raise InvalidArgument(f"memory is {shown(text)}; write it with its unit: 40GB, 512MiB.")
    return float(written[1]) * _BYTES[written[2]] / MIB
