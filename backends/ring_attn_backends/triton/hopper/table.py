"""Configurations as data: for a kernel and a head dim, what a program takes at a time.

A configuration is chosen by kernel and head dim, of queries or values the wider. What it needs was
found by compiling it, and is held against the compiler by
`tests/unit/backends/test_triton_hopper_compile.py`. What it takes was measured on an H200 with
Triton 3.6.0 by `ring-attn-bench tune triton --dtype bfloat16`: 16384 tokens, 16 query and 4 key
heads, without a mask and with a causal one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ring_attn_backends.shared.gpus import SMS, multiprocessors
from ring_attn_backends.triton.arguments import padded

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.launching import Kernel
    from ring_attn_bench.contract.tensors import Keys


@dataclass(frozen=True, slots=True)
class Config:
    """What a program takes: 64 * groups of its own tokens, `block` at a time of the other side's.

    stages: how many tiles are on their way or in use.
    tma: warps are not specialised (`forward_tma`); all `warps` do everything.
    apart: dk and dv are a launch each, because a warpgroup's registers do not hold both.
    """

    block: int
    stages: int
    groups: int = 2
    tma: bool = False
    warps: int = 4
    apart: bool = False

    @property
    def own(self) -> int:
        """The tokens of a program's own: rows, or in backward_dkdv keys."""
        return 64 * self.groups

    @property
    def options(self) -> dict[str, int]:
        """For the compiler: a Gluon kernel begins with four warps, and takes more itself."""
        if not self.tma:
            return {"num_warps": 4}
        return {"num_warps": self.warps, "num_stages": self.stages}

    def __str__(self) -> str:
        marks = (" tma" if self.tma else "") + (" apart" if self.apart else "")
        return f"{self.own}x{self.block} w{self.warps} s{self.stages}{marks}"


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration; bytes spilled by each thread, of shared memory, microseconds (see above)."""

    config: Config
    spilled: int
    shared: int
    measured: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MeasuredShape:
    """What the rows' microseconds are of."""

    tokens: int
    heads: int


MEASURED = MeasuredShape(tokens=16384, heads=16)

TABLE: dict[tuple[Kernel, int], Row] = {
    ("forward", 128): Row(Config(block=128, stages=2), 0, 164160, (3343, 1693)),
    ("backward_dq", 128): Row(Config(block=64, stages=2, groups=3), 8, 164216, (4332, 2152)),
    ("backward_dkdv", 128): Row(Config(block=64, stages=3), 0, 165856, (6111, 3035)),
    ("forward", 64): Row(Config(block=64, stages=3, groups=1, tma=True), 0, 49208, (2371, 1168)),
    ("backward_dq", 64): Row(Config(block=64, stages=3, groups=3), 0, 98744, (2627, 1316)),
    ("backward_dkdv", 64): Row(Config(block=128, stages=2), 8, 100768, (3509, 1754)),
    ("forward", 256): Row(Config(block=64, stages=2), 0, 196928, (5867, 2963)),
    ("backward_dq", 256): Row(Config(block=32, stages=2), 8, 196976, (10197, 5038)),
    ("backward_dkdv", 256): Row(Config(block=32, stages=3, apart=True), 8, 230608, (19292, 9609)),
}

FEW: dict[tuple[Kernel, int], Row] = {
    ("backward_dq", 128): Row(Config(block=64, stages=2), 0, 131440, (4692, 2351)),
    ("backward_dq", 64): Row(Config(block=128, stages=2), 0, 98672, (2729, 1383)),
}
"""What serves instead where larger tiles would leave multiprocessors idle (`chosen`): with
2048 tokens and head dim 128, 192 x 64 takes 104 us (full) and 55 (causal), this 80 and 50."""

CANDIDATES: dict[tuple[Kernel, int], tuple[Config, ...]] = {
    ("forward", 128): (
        Config(128, 2),
        Config(64, 3),
        Config(64, 4),
        Config(64, 3, groups=3),
        Config(64, 2, groups=1, tma=True),
        Config(128, 2, tma=True, warps=8),
    ),
    ("backward_dq", 128): (
        Config(64, 2, groups=3),
        Config(64, 2),
        Config(64, 3),
        Config(128, 2),
        Config(32, 4),
    ),
    ("backward_dkdv", 128): (Config(64, 3), Config(64, 2), Config(32, 4), Config(32, 3)),
    ("forward", 256): (Config(64, 2), Config(32, 2), Config(32, 4), Config(64, 1)),
    ("backward_dq", 256): (Config(32, 2), Config(64, 1), Config(32, 3)),
    ("backward_dkdv", 256): (
        Config(32, 3, apart=True),
        Config(32, 2, apart=True),
        Config(32, 1, apart=True),
    ),
    ("forward", 64): (
        Config(64, 3, groups=1, tma=True),
        Config(64, 2, groups=1, tma=True),
        Config(64, 4, groups=1, tma=True),
        Config(128, 2, groups=1, tma=True),
        Config(128, 3, groups=1, tma=True),
        Config(64, 3, tma=True),
        Config(64, 3, tma=True, warps=8),
        Config(128, 2, tma=True, warps=8),
        Config(128, 2),
        Config(128, 3),
        Config(64, 3, groups=3),
        Config(128, 2, groups=3),
    ),
    ("backward_dq", 64): (
        Config(64, 3, groups=3),
        Config(128, 2),
        Config(128, 3),
        Config(64, 3),
        Config(64, 4),
    ),
    ("backward_dkdv", 64): (
        Config(128, 2),
        Config(128, 3),
        Config(64, 2),
        Config(64, 3),
        Config(64, 3, groups=3),
    ),
}
"""What a tuning run tries. Left out for what a thread spills: 192 x 128 for forward at head dim 128
(504 bytes) and backward_dq at 64 (456), 192 x 64 for backward_dkdv at 128 (624)."""


def rows() -> Iterator[tuple[Kernel, int, int, Config, tuple[Config, ...]]]:
    """Kernel, bytes of an element, head dim, what serves them, and what a tuning run tries."""
    for (kernel, head_dim), configs in CANDIDATES.items():
        yield kernel, 2, head_dim, TABLE[kernel, head_dim].config, configs


def chosen(kernel: Kernel, q: Tensor, keys: Keys) -> Config:
    """The table's configuration for these head dims; the one for few programs where that is faster.

    By the time of a whole turn of the multiprocessors, as it was measured, and how many turns it
    takes to serve all tiles.
    """
    key = kernel, max(width(q), width(keys.v))
    rows = [TABLE[key], *([FEW[key]] if key in FEW else [])]
    own = keys.k if kernel == "backward_dkdv" else q
    batch, tokens, heads, _ = own.shape

    def took(row: Row) -> float:
        turns = math.ceil(-(-tokens // row.config.own) * heads * batch / multiprocessors(q))
        measured_turns = math.ceil(-(-MEASURED.tokens // row.config.own) * MEASURED.heads / SMS)
        return turns * row.measured[0] / measured_turns

    return min(rows, key=took).config


def width(tensor: Tensor) -> int:
    """Of the tiles for its head dim: what wgmma and TMA's swizzle take, a power of two."""
    return max(64, padded(tensor.shape[-1]))
