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
    from ring_attn_bench.tensors import Gathering, Keys, Rows

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


def dq(rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
    """The contract's `gathered_dq`."""
    found = rows.q.new_empty(rows.q.shape)
    seen = _read(rows, keys)
    work = plain.worklist_of("backward_dq", rows.q, keys, where)

    def launch() -> Launch:
        return plain.dq_launch(rows, keys, found, where, score)

    _enqueue("dq", (*seen, found), seen, keys, work, where, score, launch)
    return found


def dkdv(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool,
) -> None:  # fmt: skip
    """The contract's `gathered_dkdv`."""
    given = (*_read(rows, keys), *own, *landed)
    work = plain.worklist_of("backward_dkdv", rows.q, keys, where, own_first=own_first)

    def launch() -> Launch:
        return plain.dkdv_launch(rows, keys, own, landed, where, score, own_first=own_first)

    _enqueue("dkdv", given, given, keys, work, where, score, launch)


def _read(rows: Rows, keys: Gathering) -> tuple[Tensor, ...]:
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    return q, dout, lse, delta, *keys.own, *keys.landed


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
