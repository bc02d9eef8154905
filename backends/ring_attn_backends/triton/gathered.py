"""The contract's gathered calls as kernel calls, of the family that serves them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.triton.choice import gathered_family_for
from ring_attn_backends.triton.kept import enqueue

if TYPE_CHECKING:
    from ring_attn_backends.triton.launching import TritonLaunch
    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score


def forward(q: Tensor, keys: Gathering, where: Gathered, score: Score) -> tuple[Tensor, Tensor]:
    """The contract's `gathered_forward`."""
    batch, rows, heads, _ = q.shape
    out = q.new_empty(batch, rows, heads, keys.own.v.shape[-1])
    lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
    seen = (q, *keys.own, *keys.landed)

    def launch() -> TritonLaunch:
        make = gathered_family_for((q,), keys, score).gathered.forward_launch
        return make(q, keys, out, lse, where, score)

    _enqueue("forward", (*seen, out, lse), seen, keys, where, score, launch)
    return out, lse


def dq(rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
    """The contract's `gathered_dq`."""
    made = rows.q.new_empty(rows.q.shape)
    seen = _read(rows, keys)

    def launch() -> TritonLaunch:
        make = gathered_family_for((rows.q, rows.dout), keys, score).gathered.dq_launch
        return make(rows, keys, made, where, score)

    _enqueue("dq", (*seen, made), seen, keys, where, score, launch)
    return made


def dkdv(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool,
) -> None:  # fmt: skip
    """The contract's `gathered_dkdv`."""
    given = (*_read(rows, keys), *own, *landed)

    def launch() -> TritonLaunch:
        make = gathered_family_for((rows.q, rows.dout), keys, score).gathered.dkdv_launch
        return make(rows, keys, own, landed, where, score, own_first=own_first)

    _enqueue(("dkdv", own_first), given, given, keys, where, score, launch)


def _read(rows: Rows, keys: Gathering) -> tuple[Tensor, ...]:
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    return q, dout, lse, delta, *keys.own, *keys.landed


def _enqueue(
    name: Hashable, given: tuple[Tensor, ...], seen: tuple[Tensor, ...], keys: Gathering,
    where: Gathered, score: Score, launch: Callable[[], TritonLaunch],
) -> None:  # fmt: skip
    waits = keys.arrived is not None
    asked = name, id(where), waits, keys.head_groups  # to hash `where` takes longer than a launch
    more = () if keys.arrived is None else (keys.arrived,)
    enqueue(
        asked, given, seen, more, score, lambda: [launch()], held=where, of_batch=where.of_batch
    )
