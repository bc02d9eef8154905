"""Tilings as data: for a kernel, a dtype and a head dim, what a program takes at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program's rows x keys at a time, its warps, and how many tiles it loads ahead."""

    rows: int
    keys: int
    warps: int
    stages: int


Table = dict[tuple[int, int], Tiling]
"""(bytes of an element, the wider head dim padded to at least 64) to a tiling."""

# Chosen by what compiles within shared memory and with few spills on sm_80, sm_90 and sm_100 (the
# README has the figures); 8 warps are two warpgroups, each with 64 of wgmma's rows. float32
# products run on the ordinary cores, where big tiles only spill.
FORWARD: Table = {
    (2, 64): Tiling(rows=128, keys=64, warps=8, stages=3),
    (2, 128): Tiling(rows=128, keys=64, warps=8, stages=3),
    (2, 256): Tiling(rows=128, keys=64, warps=8, stages=2),
    (4, 64): Tiling(rows=64, keys=32, warps=8, stages=2),
    (4, 128): Tiling(rows=32, keys=16, warps=8, stages=2),
    (4, 256): Tiling(rows=32, keys=16, warps=8, stages=2),
}
BACKWARD_DQ: Table = {
    (2, 64): Tiling(rows=128, keys=64, warps=8, stages=3),
    (2, 128): Tiling(rows=128, keys=64, warps=8, stages=2),
    (2, 256): Tiling(rows=64, keys=32, warps=8, stages=2),
    (4, 64): Tiling(rows=32, keys=32, warps=4, stages=2),
    (4, 128): Tiling(rows=32, keys=16, warps=4, stages=2),
    (4, 256): Tiling(rows=16, keys=16, warps=4, stages=1),
}
BACKWARD_DKDV: Table = {
    (2, 64): Tiling(rows=64, keys=128, warps=8, stages=3),
    (2, 128): Tiling(rows=64, keys=128, warps=8, stages=2),
    (2, 256): Tiling(rows=16, keys=64, warps=8, stages=2),
    (4, 64): Tiling(rows=32, keys=32, warps=8, stages=2),
    (4, 128): Tiling(rows=16, keys=32, warps=8, stages=2),
    (4, 256): Tiling(rows=16, keys=16, warps=8, stages=1),
}
