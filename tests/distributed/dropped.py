"""Which weights a call drops, read off its own results: those of a ring and of one device.

All scores are 0, so no weight that is kept can vanish. Where v holds the unit vectors of some keys,
out is those keys' weights; where dout holds those of some queries, dv is these queries' weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import ring_attn_bench
from ring_attn_bench import flash_attn_func
from tests.distributed.pool import Ring
from tests.distributed.truth import Case, positions


def read(ring: Ring | None, case: Case) -> dict[str, Tensor]:
    """Bool (B, own tokens, H, S): by queries from the forward, by keys from the backward.

    ring: None for the same call over the whole sequence on one device. As many key heads as query
    heads, or dv would be the sum over a group.
    """
    assert case.heads == case.key_heads
    length = case.tokens * case.world_size
    own = torch.arange(length) if ring is None else _own(case, ring.rank)
    shape = case.batch, len(own), case.heads, case.dim
    zeros = torch.zeros(shape, dtype=case.dtype, device=case.device)
    found: dict[str, list[Tensor]] = {"forward": [], "backward": []}
    for start in range(0, length, case.dim):
        units = torch.eye(length)[own, start : start + case.dim].to(zeros)
        units = torch.nn.functional.pad(units, (0, case.dim - units.shape[1]))
        units = units[None, :, None].expand(shape).contiguous()
        v = units.clone().requires_grad_()
        out = _attended(ring, case, zeros, zeros, v)
        (dv,) = torch.autograd.grad(out, v, units)
        found["forward"].append((out != 0).cpu())
        found["backward"].append((dv != 0).cpu())
    return {name: torch.cat(parts, -1)[..., :length] for name, parts in found.items()}


def joined(case: Case, ranks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the ranks read, in the order of the sequence, both as (B, H, queries, keys)."""
    order = torch.cat([_own(case, rank) for rank in range(len(ranks))]).argsort()
    whole = {name: torch.cat([x[name] for x in ranks], 1)[:, order] for name in ranks[0]}
    return as_weights(whole)


def as_weights(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the whole sequence: both as (B, H, queries, keys)."""
    return {
        "forward": found["forward"].transpose(1, 2),
        "backward": found["backward"].permute(0, 2, 3, 1),
    }


def _own(case: Case, rank: int) -> Tensor:
    return positions(case.partition, rank, case.world_size, case.tokens * case.world_size)


def _attended(ring: Ring | None, case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if ring is None:
        return flash_attn_func(q, k, v, **case.options)
    function = getattr(ring_attn_bench, case.function)
    return function(q, k, v, group=ring.group, **case.options)
