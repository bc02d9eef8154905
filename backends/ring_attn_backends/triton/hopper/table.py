"""What is served by the kernels of this folder, and with which configuration: data, and a question.

A configuration is chosen by kernel and head dim. What it needs was found by compiling it, and is
held against the compiler by `tests/unit/test_triton_hopper_compile.py`. What it takes was
measured on an H200 with Triton 3.6.0: medians over interleaved runs of single launches, 16384
tokens, 16 query and 4 key heads, bfloat16, without a mask and with a causal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kernel = Literal["forward", "backward_dq", "backward_dkdv"]

CAPABILITY = (9, 0)
"""Of the GPUs that have what these kernels use: wgmma, and TMA as Hopper has it."""
TRITON_VERSIONS = ("3.6.", "3.7.")
"""Gluon is experimental and changes; these are the versions that the kernels were compiled with."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a program takes: 64 * groups of its own tokens, `block` at a time of the other side's.

    stages: how many tiles are on their way or in use.
    tma: warps are not specialised (`forward_tma`); all `warps` do everything.
    """

    block: int
    stages: int
    groups: int = 2
    tma: bool = False
    warps: int = 4

    @property
    def own(self) -> int:
        """The tokens of a program's own: rows, or in backward_dkdv keys."""
        return 64 * self.groups

    def __str__(self) -> str:
        return f"{self.own}x{self.block} w{self.warps} s{self.stages}{' tma' if self.tma else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration; bytes spilled by each thread, of shared memory, microseconds (see above)."""

    config: Config
    spilled: int
    shared: int
    measured: tuple[int, int]


TABLE: dict[tuple[Kernel, int], Row] = {
    ("forward", 128): Row(Config(block=128, stages=2), 0, 164160, (3336, 1670)),
    ("backward_dq", 128): Row(Config(block=64, stages=2), 0, 131440, (4345, 2168)),
    ("backward_dkdv", 128): Row(Config(block=64, stages=3), 0, 165856, (5881, 2921)),
    ("forward", 64): Row(Config(block=64, stages=3, groups=1, tma=True), 0, 49208, (2348, 1139)),
    ("backward_dq", 64): Row(Config(block=128, stages=2), 0, 98672, (2588, 1293)),
    ("backward_dkdv", 64): Row(Config(block=128, stages=2), 8, 100768, (3321, 1650)),
}

HEAD_DIMS = tuple(sorted({head_dim for _, head_dim in TABLE}))
"""That are served; of values also."""

CANDIDATES: dict[tuple[Kernel, int], tuple[Config, ...]] = {
    ("forward", 128): (Config(128, 2), Config(64, 4)),
    ("backward_dq", 128): (Config(64, 2), Config(64, 3)),
    ("backward_dkdv", 128): (Config(64, 2), Config(64, 3)),
    ("forward", 64): (
        Config(64, 3, groups=1, tma=True),
        Config(128, 3, groups=1, tma=True),
        Config(128, 2),
    ),
    ("backward_dq", 64): (Config(128, 2), Config(64, 3, groups=3)),
    ("backward_dkdv", 64): (Config(128, 2), Config(64, 2)),
}
"""What a tuning run tries."""


def refusal(capability: tuple[int, int] | None, triton: str, interpreted: bool) -> str | None:
    """Why nothing is served here, or None. capability: the GPU's, or None if there is none."""
    if interpreted:
        return "Triton interprets"
    if capability != CAPABILITY:
        return "no Hopper" if capability is None else "no Hopper, but sm_{}{}".format(*capability)
    if not triton.startswith(TRITON_VERSIONS):
        return f"not tried with Triton {triton}"
    return None
