"""The contract's gathered calls as kernel calls: Hopper's where they serve, else plain ones.

What was asked for before, but for the addresses, is launched again without looking further.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ring_attn_backends.triton.gathered import launch as plain
from ring_attn_backends.triton.hopper import gathered_launch as hopper
from ring_attn_backends.triton.hopper.served import serves_gathered
from ring_attn_bench.relaunch import Made, Relaunch, relaunch, signature

if TYPE_CHECKING:
    from ring_attn_bench.gathered import Gathered
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Gathering, Keys, Rows

KEPT = 4096
"""Launches that are kept at most: then all are forgotten."""


class Launch(Protocol):
    """What both kinds of kernels are called by."""

    @property
    def scratch(self) -> tuple[Tensor, ...]:
        """Tensors among the arguments that nobody needs afterwards."""
        ...

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """Tensors among the arguments that say what programs do."""
        ...

    def made(self) -> tuple[Made, ...]:
        """Enqueues it, and returns the calls that were made."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """A launch that was made; where: it is told by its identity, so that must stay."""

    where: Gathered
    again: Relaunch
    tables: tuple[Tensor, ...]


_kept: dict[Hashable, _Known] = {}


def forward(q: Tensor, keys: Gathering, where: Gathered, score: Score) -> tuple[Tensor, Tensor]:
    """The contract's `gathered_forward`."""
    batch, rows, heads, _ = q.shape
    out = q.new_empty(batch, rows, heads, keys.own.v.shape[-1])
    lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
    seen = (q, *keys.own, *keys.landed)

    def launch() -> Launch:
        if serves_gathered((q,), keys, score):
            return hopper.forward_launch(q, keys, out, lse, where, score)
        return plain.forward_launch(q, keys, out, lse, where, score)

    _enqueue("forward", (*seen, out, lse), seen, keys, where, score, launch)
    return out, lse


def dq(rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
    """The contract's `gathered_dq`."""
    found = rows.q.new_empty(rows.q.shape)
    seen = _read(rows, keys)

    def launch() -> Launch:
        if serves_gathered((rows.q, rows.dout), keys, score):
            return hopper.dq_launch(rows, keys, found, where, score)
        return plain.dq_launch(rows, keys, found, where, score)

    _enqueue("dq", (*seen, found), seen, keys, where, score, launch)
    return found


def dkdv(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool,
) -> None:  # fmt: skip
    """The contract's `gathered_dkdv`."""
    given = (*_read(rows, keys), *own, *landed)

    def launch() -> Launch:
        if serves_gathered((rows.q, rows.dout), keys, score):
            return hopper.dkdv_launch(rows, keys, own, landed, where, score, own_first=own_first)
        return plain.dkdv_launch(rows, keys, own, landed, where, score, own_first=own_first)

    _enqueue(("dkdv", own_first), given, given, keys, where, score, launch)


def _read(rows: Rows, keys: Gathering) -> tuple[Tensor, ...]:
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    return q, dout, lse, delta, *keys.own, *keys.landed


def _enqueue(
    name: Hashable, given: tuple[Tensor, ...], seen: tuple[Tensor, ...], keys: Gathering,
    where: Gathered, score: Score, launch: Callable[[], Launch],
) -> None:  # fmt: skip
    """Launches what is kept, or the launch, which is then kept.

    seen: of the tensors given those that the others follow from.
    """
    if score.dropout_p or not given[0].is_cuda:  # a seed is a call's own; nothing is compiled
        launch().made()
        return
    waited, slopes = keys.arrived, score.alibi_slopes
    more: tuple[Tensor, ...] = () if waited is None else (waited,)
    if slopes is not None:
        more = *more, slopes
    asked = name, id(where), waited is not None, keys.head_groups
    key = asked, score.softmax_scale, score.softcap, signature((*seen, *more))
    found = _kept.get(key)
    if found is not None and found.where is where:
        found.again.run((*given, *more, *found.tables))
        return
    made = launch()
    calls, tables = made.made(), made.tables
    again = relaunch(calls, (*given, *more, *tables), made.scratch)
    if again is not None:
        if len(_kept) >= KEPT:
            _kept.clear()
        _kept[key] = _Known(where, again, tables)
