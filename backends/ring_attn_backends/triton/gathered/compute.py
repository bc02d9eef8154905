"""The contract's gathered calls as kernel calls, and which kernels they get.

What was asked for before, but for the addresses, is launched again without looking further.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.triton.gathered import launch as plain
from ring_attn_bench.relaunch import Kept, relaunch, signature

if TYPE_CHECKING:
    from ring_attn_backends.triton.gathered.worklist import Worklist
    from ring_attn_backends.triton.launch import Launch
    from ring_attn_bench.gathered import Gathered
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Gathering

_kept = Kept()


def forward(q: Tensor, keys: Gathering, where: Gathered, score: Score) -> tuple[Tensor, Tensor]:
    """The contract's `gathered_forward`."""
    batch, rows, heads, _ = q.shape
    out = q.new_empty(batch, rows, heads, keys.own.v.shape[-1])
    lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
    seen = (q, *keys.own, *keys.landed)
    work = plain.worklist_of("forward", q, keys, where)

    def launch() -> Launch:
        return plain.forward_launch(q, keys, out, lse, where, score)

    _enqueue("forward", (*seen, out, lse), seen, keys, work, where, score, launch)
    return out, lse


def _enqueue(
    name: Hashable, given: tuple[Tensor, ...], seen: tuple[Tensor, ...], keys: Gathering,
    work: Worklist, where: Gathered, score: Score, launch: Callable[[], Launch],
) -> None:  # fmt: skip
    """Launches what is kept, or the launch, which is then kept.

    seen: of the tensors given those that the others follow from.
    """
    if score.dropout_p or not given[0].is_cuda:  # a seed is a call's own; nothing is compiled
        launch().run()
        return
    waited, slopes = keys.arrived, score.alibi_slopes
    more = tuple(x for x in (waited, slopes) if x is not None)
    asked = name, waited is not None, work.tiles, where.step, score.softmax_scale, score.softcap
    key = asked, signature((*seen, *more))
    tensors = (*given, *more, work.table)  # whose tiles are counted, and the rest is read there
    found = _kept.get(key)
    if found is not None:
        found.run(tensors)
        return
    _kept[key] = relaunch(launch().made(), tensors)
