"""Masks and scores as FlexAttention takes them: functions of indices that look positions up.

Whatever differs from one block to the next is in a tensor: a number would be compiled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import pad

from ring_attn_backends.flex.calls import ScoreMod
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Spans
from ring_attn_bench.plan.problem import Score

TILE = 128
"""Rows, and keys, of a tile; a mask says which to skip and which to compute without it."""
_MAX_TILES = 1024
"""Along a side; from 128k tokens on tiles grow instead. The tables take 16 bytes a tile."""
_FAR = 2**31 - 1
"""For an open side of a band: positions are int32."""


@dataclass(frozen=True, eq=False, slots=True)
class Where:
    """A block on a device: the positions of its rows (M,) and keys (N,), and its mask."""

    rows: Tensor
    keys: Tensor
    mask: BlockMask


@lru_cache(maxsize=32)  # a rank of a ring has one for each step
def where(block: Block, device: torch.device) -> Where:
    """Made once for a block."""
    rows, keys = _positions(block.rows), _positions(block.keys)
    on_device = rows.to(device), keys.to(device)
    return Where(*on_device, _mask(rows, keys, *on_device, block.band))


def score_modification(q: Tensor, here: Where, score: Score) -> ScoreMod | None:
    """Softcap and ALiBi, or None for neither."""
    wide = torch.promote_types(q.dtype, torch.float32)
    cap = q.new_full((), score.softcap, dtype=wide) if score.softcap else None
    slopes = score.alibi_slopes
    if slopes is not None:
        slopes = slopes.to(wide).expand(q.shape[0], q.shape[2]).contiguous()
    if cap is None and slopes is None:
        return None
    rows, keys = here.rows, here.keys

    def modified(s: Tensor, batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        s = s.to(wide)  # on CUDA it is traced in q's dtype
        if cap is not None:
            s = cap * torch.tanh(s / cap)
        if slopes is not None:
            s = s - slopes[batch, head] * (rows[row] - keys[key]).abs()
        return s

    return modified


def _mask(rows: Tensor, keys: Tensor, on_rows: Tensor, on_keys: Tensor, band: Band) -> BlockMask:
    """From positions on the CPU, and on the device."""
    low = -_FAR if band.low is None else band.low
    high = _FAR if band.high is None else band.high
    device, tile = on_rows.device, _tile(max(len(rows), len(keys)))
    lowest, highest = (torch.full((), x, dtype=torch.int32, device=device) for x in (low, high))

    def allowed(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        distance = on_rows[row] - on_keys[key]
        return (distance >= lowest) & (distance <= highest)

    first_row, last_row, whole_rows = _tiles(rows, tile)
    first_key, last_key, whole_keys = _tiles(keys, tile)
    nearest, farthest = first_row[:, None] - last_key, last_row[:, None] - first_key
    seen = (farthest >= low) & (nearest <= high)
    full = (nearest >= low) & (farthest <= high) & whole_rows[:, None] & whole_keys
    partial_counts, partial_keys = _ordered(seen & ~full, device)
    full_counts, full_keys = _ordered(full, device)
    return BlockMask.from_kv_blocks(
        partial_counts, partial_keys, full_counts, full_keys,
        BLOCK_SIZE=tile, mask_mod=allowed, seq_lengths=(len(rows), len(keys)),
    )  # fmt: skip


def _tile(longest: int) -> int:
    tile = TILE
    while tile * _MAX_TILES < longest:
        tile *= 2
    return tile


def _tiles(positions: Tensor, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """The least and greatest position of each tile, and whether it is a full one."""
    parts = positions.long().split(tile)
    first, last = (torch.stack([end(part) for part in parts]) for end in (torch.min, torch.max))
    return first, last, torch.tensor([len(part) == tile for part in parts], device="cpu")


def _ordered(tiles: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many key tiles each row tile has, and which, those first; for all batches and heads."""
    # at least two a side, if need be one that nobody reads: torch compiles sizes of 1 in
    tiles = pad(tiles, (0, max(0, 2 - tiles.shape[1]), 0, max(0, 2 - tiles.shape[0])))
    order = tiles.int().argsort(dim=-1, descending=True, stable=True)
    counts = tiles.sum(-1)
    return counts.int()[None, None].to(device), order.int()[None, None].to(device)


def _positions(spans: Spans) -> Tensor:
    return torch.cat(
        [torch.arange(s.start, s.last + 1, s.step, dtype=torch.int32, device="cpu") for s in spans]
    )
