"""The worklist of tiles of keys in two parts, for the backward that adds to dq.

One launch makes all gradients there: what is left to do while the others' travel home is a second
part, of own keys alone. Before the others' keys have landed own ones are needed too: then every
other tile of them is left for later, so that both parts have long and short ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ring_attn_backends.shared.worklist import TILE, Worklist, numbers_of
from ring_attn_bench.plan.gathered import OWN

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ring_attn_bench.plan.gathered import Gathered

PIECE, START = 4, 5
"""Columns: of a tile its piece, of an entry where `start, before, whole, edges` begin."""


def parts(
    where: Gathered, own: int, block: int, device: torch.device, own_first: bool
) -> tuple[Worklist, Worklist]:
    """What comes first, with all landed keys, and what comes under the gradients' way home."""
    tiles, entries = numbers_of(where, True, own, block, own_first)
    _all_edges(tiles, entries, own)
    late = tiles[:, PIECE] == OWN
    if own_first:
        late &= late.cumsum(0) % 2 == 0
    entries = entries.to(device)
    return Worklist(tiles[~late].to(device), entries), Worklist(tiles[late].to(device), entries)


def _all_edges(tiles: Tensor, entries: Tensor, own: int) -> None:
    """Has every visit masked of a tile that is cut off, as `programs.all_edges` does."""
    first, stop, begin, end, _ = tiles.view(-1, TILE).unbind(1)
    for tile in (first + own > stop).nonzero().flatten().tolist():
        of_tile = entries[begin[tile] : end[tile]]
        of_tile[:, START + 3] += of_tile[:, START + 2]
        of_tile[:, START + 2] = 0
