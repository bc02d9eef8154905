"""Tilings as data: for a kernel, a dtype and a head dim, what a program takes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ring_attn_backends.triton.arguments import padded

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.launching import Kernel
    from ring_attn_bench.contract.tensors import Keys


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program's rows x keys at a time, its warps, and how many tiles it loads ahead."""

    rows: int
    keys: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """The row's options for the compiler."""
        return {"num_warps": self.warps, "num_stages": self.stages}

    def __str__(self) -> str:
        return f"{self.rows}x{self.keys} w{self.warps} s{self.stages}"


@dataclass(frozen=True, slots=True)
class Row:
    """A tiling, and the microseconds that it took, full and causal; None where nobody measured.

    As `ring-attn-bench tune triton` measures: 16384 tokens, 16 query and 4 key heads.
    """

    config: Tiling
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
TABLE: dict[Kernel, Table] = {
    "forward": FORWARD,
    "backward_dq": BACKWARD_DQ,
    "backward_dkdv": BACKWARD_DKDV,
}


def _tilings(*numbers: tuple[int, int, int, int]) -> tuple[Tiling, ...]:
    """From rows, keys, warps, stages of each."""
    return tuple(Tiling(*each) for each in numbers)


CANDIDATES: dict[Kernel, dict[Key, tuple[Tiling, ...]]] = {
    "forward": {
        (2, 64): _tilings(
            (64, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3), (128, 32, 4, 3),
            (128, 64, 4, 3),
        ),
        (2, 128): _tilings(
            (64, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 2),
            (128, 32, 8, 3),
        ),
        (2, 256): _tilings(
            (128, 64, 8, 2), (128, 32, 8, 2), (128, 32, 8, 3), (64, 32, 4, 2), (64, 64, 8, 2),
        ),
        (4, 64): _tilings((64, 32, 8, 2), (32, 32, 4, 2), (32, 32, 8, 2)),
        (4, 128): _tilings((32, 16, 8, 2), (32, 32, 8, 2), (64, 16, 8, 2)),
        (4, 256): _tilings((32, 16, 8, 2), (16, 32, 8, 2), (16, 16, 4, 2)),
    },
    "backward_dq": {
        (2, 64): _tilings(
            (64, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 2),
            (128, 32, 4, 3),
        ),
        (2, 128): _tilings(
            (64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2), (128, 32, 8, 3), (64, 32, 4, 2),
            (64, 64, 8, 2),
        ),
        (2, 256): _tilings(
            (64, 32, 4, 2), (128, 32, 8, 2), (128, 32, 8, 1), (64, 32, 8, 2), (64, 64, 8, 2),
        ),
        (4, 64): _tilings((32, 32, 4, 2), (64, 32, 8, 2), (32, 32, 8, 2), (32, 16, 4, 2)),
        (4, 128): _tilings((32, 16, 4, 2), (32, 16, 8, 2), (32, 32, 8, 1)),
        (4, 256): _tilings((16, 16, 4, 1), (16, 16, 8, 2), (32, 16, 8, 1)),
    },
    "backward_dkdv": {
        (2, 64): _tilings(
            (64, 64, 4, 3), (64, 128, 8, 3), (64, 128, 8, 2), (32, 128, 8, 3), (64, 64, 4, 2),
        ),
        (2, 128): _tilings(
            (64, 128, 8, 2), (32, 128, 8, 2), (32, 128, 8, 3), (64, 64, 8, 2), (32, 64, 4, 2),
        ),
        (2, 256): _tilings((32, 64, 8, 2), (16, 64, 8, 2), (16, 64, 8, 3), (32, 32, 4, 1)),
        (4, 64): _tilings((32, 32, 8, 2), (16, 32, 4, 2), (32, 32, 8, 1)),
        (4, 128): _tilings((16, 32, 8, 2), (16, 32, 8, 1), (16, 16, 4, 2)),
        (4, 256): _tilings((16, 16, 8, 1), (16, 16, 8, 2), (16, 16, 4, 1)),
    },
}  # fmt: skip
"""What a tuning run tries. All compile for sm_90 in its shared memory and spill at most 96 bytes a
thread at 16 bits, 224 in float32 (`tests/unit/backends/test_triton_compile.py`, with --full); on
other GPUs some will not fit, and a tuning run says so."""


def rows() -> Iterator[tuple[Kernel, int, int, Tiling, tuple[Tiling, ...]]]:
    """Kernel, bytes of an element, head dim, what serves them, and what a tuning run tries."""
    for kernel, tried in CANDIDATES.items():
        for (size, head_dim), tilings in tried.items():
            yield kernel, size, head_dim, TABLE[kernel][size, head_dim].config, tilings


def chosen(kernel: Kernel, q: Tensor, keys: Keys) -> Tiling:
    """The table's tiling for queries and values of that dtype and those head dims."""
    widest = max(64, *(padded(x.shape[-1]) for x in (q, keys.v)))
    return TABLE[kernel][q.element_size(), widest].config
