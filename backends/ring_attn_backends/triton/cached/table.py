"""What a program over a cache takes at a time, and how many of them share the keys of a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_backends.triton.arguments import padded
from ring_attn_backends.triton.cached import latent
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
SMALL_PAGES = {(2, 128): (32, 2, 3)}
"""The same where a tile's keys lie in several pages, and programs are so many that four of a
multiprocessor are faster than two: they load as much ahead, of half as many keys. 64 entries of 8k
tokens in pages of 16 take 478 us; by tiles of 64 keys that load one less ahead 629, and in rows
470 (`scripts/decode_speed.py --page 16 --sweep` on an H200)."""
LARGE = 64 * 256
"""Rows x head dim of a tile that takes twice the warps: its float32 sums are half of the registers
of four, and beside the place of each token in a page 280 bytes of a thread would spill."""

RESIDENT = 2
"""Programs that a multiprocessor has room for at a time: by the shared memory of the tiles."""


def tiling(q: Tensor, v: Tensor, rows: int, heads: int, page: int | None = None) -> Tiling:
    """For that many rows of a key head; heads: key heads of all entries; page: tokens of one."""
    widest = max(64, *(padded(x.shape[-1]) for x in (q, v)))
    kind = q.element_size(), widest
    keys, warps, stages = KEYS[kind]
    height = min(MOST_ROWS[q.element_size()], max(FEWEST_ROWS, 1 << (rows - 1).bit_length()))
    if _more_are_faster(heads * -(-rows // height) / _slots(q)):
        if page is not None and page < keys and height == FEWEST_ROWS and kind in SMALL_PAGES:
            keys, warps, stages = SMALL_PAGES[kind]
        else:
            stages = min(stages, 2)
    return Tiling(height, keys, warps * (2 if height * widest >= LARGE else 1), stages)


def splits_for(programs: int, q: Tensor) -> int:
    """By how many programs the keys of a head are to be shared.

    As many as have room in one turn of the multiprocessors; two where one leaves a tenth of them
    idle. Not by how many keys there are, or may be: lengths are data, and room that nobody uses
    must change no bit.
    """
    slots = _slots(q)
    in_one_turn = min(MOST_SPLITS, slots // max(programs, 1))
    if in_one_turn > 1:
        return in_one_turn
    return 2 if programs < 0.9 * slots else 1


def _more_are_faster(turns: float) -> bool:
    """Whether four programs of a multiprocessor, each loading a tile less ahead, beat two.

    turns: of two. By `scripts/decode_speed.py --sweep` on an H200, 8 key heads: two turns that are
    almost full are slow, whoever takes them. 40 entries of 8k tokens take 317 us of four and 309
    of two, 64 (1.9 turns of two) 470 and 564, 96 (2.9, and 1.5 of four) 714 and 811; of 4k tokens
    32 take 129 and 122, and 128 take 471 and more.
    """
    return 1.5 < turns <= 2 or turns > 3


def _slots(q: Tensor) -> int:
    # an interpreter takes programs in turn; two are enough to share something
    resident = latent.RESIDENT if latent.is_wide(q.shape[-1]) else RESIDENT
    return resident * (2 if q.device.type == "cpu" else multiprocessors(q))
