"""Tilings as data: for a kernel, a dtype and a head dim, what a program takes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kernel = Literal["forward", "backward_dq", "backward_dkdv"]


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program's rows x keys at a time, its warps, and how many tiles it loads ahead."""

    rows: int
    keys: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.keys} w{self.warps} s{self.stages}"


@dataclass(frozen=True, slots=True)
class Row:
    """A tiling, and the microseconds that it took, full and causal; None where nobody measured.

    As `ring-attn-bench tune triton` measures: 16384 tokens, 16 query and 4 key heads.
    """

    tiling: Tiling
    measured: tuple[int, int] | None = None


Key = tuple[int, int]
"""Bytes of an element, and the wider head dim padded to at least 64."""
Table = dict[Key, Row]

# The fastest on an H200 of what fits into shared memory and spills little on sm_80, sm_90 and
# sm_100 (the README has the figures); 8 warps are two warpgroups, each with 64 of wgmma's rows.
# backward_dq at 256 takes 15905 us in tiles of 128 x 32 for 8 warps and 2 stages, which sm_80 has
# no room for. float32 products run on the ordinary cores, where big tiles only spill.
FORWARD: Table = {
    (2, 64): Row(Tiling(rows=64, keys=64, warps=4, stages=3), (2541, 1335)),
    (2, 128): Row(Tiling(rows=64, keys=64, warps=4, stages=3), (4450, 2202)),
    (2, 256): Row(Tiling(rows=128, keys=64, warps=8, stages=2), (8532, 3783)),
    (4, 64): Row(Tiling(rows=64, keys=32, warps=8, stages=2)),
    (4, 128): Row(Tiling(rows=32, keys=16, warps=8, stages=2)),
    (4, 256): Row(Tiling(rows=32, keys=16, warps=8, stages=2)),
}
BACKWARD_DQ: Table = {
    (2, 64): Row(Tiling(rows=64, keys=64, warps=4, stages=3), (2558, 1352)),
    (2, 128): Row(Tiling(rows=64, keys=64, warps=4, stages=2), (5344, 2639)),
    (2, 256): Row(Tiling(rows=64, keys=32, warps=4, stages=2), (23552, 9749)),
    (4, 64): Row(Tiling(rows=32, keys=32, warps=4, stages=2)),
    (4, 128): Row(Tiling(rows=32, keys=16, warps=4, stages=2)),
    (4, 256): Row(Tiling(rows=16, keys=16, warps=4, stages=1)),
}
BACKWARD_DKDV: Table = {
    (2, 64): Row(Tiling(rows=64, keys=64, warps=4, stages=3), (4886, 2404)),
    (2, 128): Row(Tiling(rows=64, keys=128, warps=8, stages=2), (10053, 4544)),
    (2, 256): Row(Tiling(rows=32, keys=64, warps=8, stages=2), (46843, 20433)),
    (4, 64): Row(Tiling(rows=32, keys=32, warps=8, stages=2)),
    (4, 128): Row(Tiling(rows=16, keys=32, warps=8, stages=2)),
    (4, 256): Row(Tiling(rows=16, keys=16, warps=8, stages=1)),
}
TABLES: dict[Kernel, Table] = {
    "forward": FORWARD,
    "backward_dq": BACKWARD_DQ,
    "backward_dkdv": BACKWARD_DKDV,
}
