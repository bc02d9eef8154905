"""The tilings that a tuning run tries for each row of `tables`; `hopper/table.py` has its own.

All of them compile for sm_90 within its shared memory, and spill at most 96 bytes a thread at 16
bits, 224 in float32 (`tests/unit/test_triton_compile.py`, with --full); on other GPUs some will not
fit, and a tuning run says so.
"""

from __future__ import annotations

from ring_attn_backends.triton.tables import Kernel, Key, Tiling


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
