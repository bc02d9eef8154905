"""The contract's gathered calls, each a launch that is kept (`cute.kept`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from ring_attn_backends.cute import table
from ring_attn_backends.cute.gathered.abreast import abreast
from ring_attn_backends.cute.gathered.gradients import adding_call, dkdv_call, dq_call
from ring_attn_backends.cute.gathered.launch import forward_call
from ring_attn_backends.cute.kept import enqueue
from ring_attn_backends.cute.table import of_keys
from ring_attn_backends.shared.gpus import multiprocessors

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score


def forward(q: Tensor, keys: Gathering, where: Gathered, score: Score) -> tuple[Tensor, Tensor]:
    """The contract's `gathered_forward`."""
    batch, rows, heads, _ = q.shape
    out = q.new_empty(batch, rows, heads, keys.own.v.shape[-1])
    lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
    _enqueue(
        "gathered forward", (q, out, lse), keys, where, score,
        lambda: [forward_call(q, keys, out, lse, where, score)],
    )  # fmt: skip
    return out, lse


def dkdv(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool,
) -> None:  # fmt: skip
    """The contract's `gathered_dkdv`."""
    _enqueue(
        ("gathered dkdv", own_first), (*_read(rows), *own, *landed), keys, where, score,
        lambda: [
            dkdv_call(rows, keys, own, landed, where, score, own_first=own_first, kernel=kernel)
            for kernel in of_keys(rows.q.shape[-1])
        ],
    )  # fmt: skip


def dq(rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
    """The contract's `gathered_dq`."""
    made = rows.q.new_empty(rows.q.shape)
    _enqueue(
        "gathered dq", (*_read(rows), made), keys, where, score,
        lambda: [dq_call(rows, keys, made, where, score)],
    )  # fmt: skip
    return made


def backward(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool, leave: Callable[[], None],
) -> Tensor:  # fmt: skip
    """The contract's `gathered_backward`: by kernels that add to dq where that is faster."""
    if not adds(rows, keys, where):
        dkdv(rows, keys, own, landed, where, score, own_first=own_first)
        leave()
        return dq(rows, keys._replace(arrived=None), where, score)
    wide = rows.q.new_zeros(rows.q.shape, dtype=torch.float32)
    add = partial(_add, rows, wide, own, landed, where, score, own_first)
    abreast(rows.q.device, lambda: add(keys, 0), leave, lambda: add(keys._replace(arrived=None), 1))
    return wide.to(rows.q.dtype)


def adds(rows: Rows, keys: Gathering, where: Gathered) -> bool:
    """Whether what adds to dq is there for them, and faster."""
    tokens = keys.own.k.shape[1] + keys.landed.k.shape[1]
    return where.place is None and table.gathered_adds(
        rows.q.shape[-1], tokens, keys.own.k.shape[0] * keys.own.k.shape[2], multiprocessors(rows.q)
    )


def _add(
    rows: Rows, wide: Tensor, own: Keys, landed: Keys, where: Gathered, score: Score,
    own_first: bool, keys: Gathering, part: Literal[0, 1],
) -> None:  # fmt: skip
    _enqueue(
        ("gathered adding", part, own_first), (*_read(rows), wide, *own, *landed), keys, where,
        score,
        lambda: [
            adding_call(
                rows, keys, wide, own, landed, where, score, own_first=own_first, part=part
            )
        ],
    )  # fmt: skip


def _read(rows: Rows) -> tuple[Tensor, ...]:
    q, dout, _, lse, delta = rows
    return (q, dout, lse) if delta is None else (q, dout, lse, delta)


def _enqueue(
    name: Hashable, given: tuple[Tensor, ...], keys: Gathering, where: Gathered, score: Score,
    calls: Callable[[], list[Call]],
) -> None:  # fmt: skip
    waits = keys.arrived is not None
    asked = name, id(where), waits, keys.head_groups  # to hash `where` takes longer than a launch
    given = (*given, *keys.own, *keys.landed)
    if keys.arrived is not None:
        given = (*given, keys.arrived)
    enqueue(asked, score, given, calls, where, of_batch=where.of_batch)
