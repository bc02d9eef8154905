"""From tensors to a call of the kernel for gathered keys; shapes as in `contract.backend`.

No backend offers it yet: `contract.backend.GatheringBackend` needs the gradients too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.cute.arguments import (
    L2_SHARE,
    Call,
    Numbers,
    factors,
    name_of,
    strides_of,
)
from ring_attn_backends.cute.serves import readable, unreadable
from ring_attn_backends.cute.table import Build, Config, chosen
from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_backends.shared.once import once
from ring_attn_backends.shared.worklist import worklist
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.errors import Unsupported

if TYPE_CHECKING:
    from ring_attn_bench.contract.tensors import Gathering
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score


def forward_call(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score,
    *, config: Config | None = None,
) -> Call:  # fmt: skip
    """The contract's `gathered_forward` as a launch that writes out and lse.

    Raises Unsupported where TMA cannot read what lands: a copy would be of what has not landed.
    """
    batch, rows, heads, width = q.shape
    config = config or chosen(width, rows, batch * heads, multiprocessors(q))
    work = once(where, worklist, "rows", config.own, config.block, q.device)
    q, own, key_heads = readable(q), Keys(*map(readable, merged(keys.own))), keys.own.k.shape[2]
    # no tile is asked of landed keys where there are none
    landed = merged(keys.landed) if keys.landed.k.shape[1] else own
    named = zip(("landed k", "landed v", "out"), (*landed, out), strict=True)
    why = next((why for name, x in named if (why := unreadable(name, x)) is not None), None)
    if why is not None:
        raise Unsupported("cute", why)
    words, groups = keys.arrived, keys.head_groups
    if words is None:
        words, groups = once(where, all_landed, q.device), 1
    tensors = (q, *own, *landed, out, lse, work.tiles, work.entries, words)
    strides = (*(strides_of(x.shape, x.stride()) for x in tensors[:7]), (), (), ())
    build = Build(
        config, name_of(q.dtype), name_of(out.dtype), score.softcap > 0, kernel="gathered.forward"
    )
    passed = 2 * width * (own.k.shape[1] + keys.landed.k.shape[1]) * q.element_size()
    together = heads // key_heads * max(1, L2_SHARE // max(1, passed))
    # programs go by groups of heads, as keys arrive
    section = max(1, min(together, heads * batch // groups))
    sizes = batch, rows, heads, key_heads, section, work.count, groups
    told = factors(score.softmax_scale, score.softcap)
    return Call(build, tensors, strides, Numbers(sizes, (), told))


def merged(keys: Keys) -> Keys:
    """(B, N, G, D) as one batch entry of B * G heads, which packed keys are anyway."""
    if keys.k.shape[0] == 1:
        return keys
    return Keys(*(x.transpose(0, 1).flatten(1, 2)[None] for x in keys))


def all_landed(where: Gathered, device: torch.device) -> Tensor:
    """Words that say of each piece that it has landed, of a kernel that always asks."""
    words = torch.ones(1 + where.pieces, dtype=torch.int32, device=device)
    words[0] = 0
    return words
