"""What a program over a cache takes at a time, and how many of them share the keys of a head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ring_attn_backends.triton.arguments import padded
from ring_attn_backends.triton.hopper.table import multiprocessors
from ring_attn_backends.triton.plain.table import Tiling
from ring_attn_bench.plan.cached import MOST_SPLITS

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_ROWS = 16
"""Of a tile: what tl.dot needs."""
MOST_ROWS = {2: 64, 4: 16}
"""By bytes of an element: more spill beside the keys of a wide head."""

KEYS = {
    (2, 64): (128, 4, 3),
    (2, 128): (64, 4, 3),
    (2, 256): (32, 4, 3),
    (4, 64): (32, 8, 2),
    (4, 128): (32, 8, 2),
    (4, 256): (16, 8, 2),
}
"""By bytes of an element and the wider head dim: keys of a tile, warps, tiles loaded ahead."""
LARGE = 64 * 256
"""Rows x head dim of a tile that takes twice the warps: its float32 sums are half of the registers
of four, and beside the place of each token in a page 280 bytes of a thread would spill."""

MOST_TURNS = 4
"""Splits where even one for each head has no room in one turn: then they only fill the last."""
RESIDENT = 2
"""Programs that a multiprocessor has room for at a time: by the shared memory of the tiles."""


def tiling(q: Tensor, v: Tensor, rows: int) -> Tiling:
    """For that many rows of a key head."""
    widest = max(64, *(padded(x.shape[-1]) for x in (q, v)))
    keys, warps, stages = KEYS[q.element_size(), widest]
    height = min(MOST_ROWS[q.element_size()], max(FEWEST_ROWS, 1 << (rows - 1).bit_length()))
    return Tiling(height, keys, warps * (2 if height * widest >= LARGE else 1), stages)


def splits_for(programs: int, q: Tensor) -> int:
    """By how many programs the keys of a head are to be shared.

    As many as have room in one turn of the multiprocessors. Where not even two have, the fewest
    whose turns are filled to 9/10 of what is best. Not by how many keys there are, or may be:
    lengths are data, and room that nobody uses must change no bit.
    """
    # an interpreter takes programs in turn; two are enough to share something
    slots = RESIDENT * (2 if q.device.type == "cpu" else multiprocessors(q))
    in_one_turn = min(MOST_SPLITS, slots // max(programs, 1))
    if in_one_turn > 1:
        return in_one_turn

    def filled(splits: int) -> float:
        turns = programs * splits / slots
        return turns / math.ceil(turns)

    some = range(1, MOST_TURNS + 1)
    best = max(map(filled, some))
    return next(splits for splits in some if filled(splits) >= 0.9 * best)
