"""The contract's calls as kernel calls: a block of many chunks takes several, most take one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.triton.arguments import needs_positions
from ring_attn_backends.triton.choice import family_for
from ring_attn_backends.triton.kept import enqueue
from ring_attn_backends.triton.lines import pieces
from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums, part_of
from ring_attn_bench.plan.problem import Documents

if TYPE_CHECKING:
    from ring_attn_backends.triton.launching import TritonLaunch
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import Score

_pieces = lru_cache(maxsize=1024)(pieces)  # it takes the host 20 us


def whole_forward(q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
    """The contract's `forward`, out in q's dtype."""
    batch, rows, heads, _ = q.shape
    out = q.new_empty(batch, rows, heads, keys.v.shape[-1])
    lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
    pieces = _pieces(block, positions=needs_positions(score))
    if len(pieces) == 1:
        _forward(q, keys, Running(out, lse), pieces[0].block, score, first=True, fresh=True)
    else:
        forward_into(q, keys, Running(out, lse, out), block, score, first=True)
    return out, lse


def whole_backward(rows: Rows, keys: Keys, block: Block, score: Score) -> Sums:
    """The contract's `backward`: accumulated in float32, and rounded once to q's dtype."""
    sums = Sums(*(x.new_empty(x.shape) for x in (rows.q, *keys)))
    pieces = _pieces(block, positions=needs_positions(score))
    if len(pieces) == 1:
        where = pieces[0].block
        _backward(rows, keys, sums, where, score, add=False, add_keys=False, fresh=True)
    else:
        backward_into(rows, keys, sums, block, score, first=True, first_keys=True)
    return sums


def forward_into(
    q: Tensor, keys: Keys, running: Running, block: Block, score: Score, *, first: bool
) -> None:
    """The contract's `forward_into`: a kernel call for each pair of two chunks at most."""
    pieces = _pieces(block, positions=needs_positions(score))
    if len(pieces) == 1:
        _forward(q, keys, running, pieces[0].block, score, first=first)
        return
    if running.out.dtype is not torch.float32:  # it is the target, and `first`
        running = running._replace(out=torch.empty_like(running.out, dtype=torch.float32))
    for index, piece in enumerate(pieces):
        begins = index == 0 or pieces[index - 1].rows != piece.rows
        ends = index + 1 == len(pieces) or pieces[index + 1].rows != piece.rows
        own = running.part(piece.rows) if ends else running._replace(target=None).part(piece.rows)
        _forward(
            part_of(q, piece.rows), keys.part(piece.keys), own, piece.block, score,
            first=first and begins,
        )  # fmt: skip


def backward_into(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score,
    *, first: bool, first_keys: bool,
) -> None:  # fmt: skip
    """The contract's `backward_into`: one kernel for dq, one for dk and dv, both deterministic."""
    pieces = _pieces(block, positions=needs_positions(score))
    if len(pieces) == 1:
        where = pieces[0].block
        _backward(rows, keys, sums, where, score, add=not first, add_keys=not first_keys)
        return
    one_line_of_rows = pieces[0].rows == pieces[-1].rows
    wide = sums
    if sums.dq.dtype is not torch.float32:  # `first`, and written at the end
        wide = wide._replace(dq=_like(sums.dq))
    if not one_line_of_rows:
        # shares of several lines of rows are added up in float32, whatever dtype is wanted
        wide = wide._replace(dk=_like(sums.dk), dv=_like(sums.dv))
    for index, piece in enumerate(pieces):
        begins = index == 0 or pieces[index - 1].rows != piece.rows
        _backward(
            rows.part(piece.rows), keys.part(piece.keys), wide.part(piece.rows, piece.keys),
            piece.block, score,
            add=not (first and begins),
            add_keys=piece.rows != pieces[0].rows or (one_line_of_rows and not first_keys),
        )  # fmt: skip
    for wanted, total, starts in zip(sums, wide, (True, first_keys, first_keys), strict=True):
        if total is not wanted:
            wanted.copy_(total) if starts else wanted.add_(total)


def packed_forward(
    q: Tensor, keys: Keys, documents: Documents, score: Score
) -> tuple[Tensor, Tensor]:
    """The contract's `packed_forward`."""
    out = q.new_empty(*q.shape[:2], keys.v.shape[-1])
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    packed_forward_into(q, keys, out, lse, documents, score)
    return out, lse


def packed_forward_into(
    q: Tensor, keys: Keys, out: Tensor, lse: Tensor, documents: Documents, score: Score
) -> None:
    """The contract's own: one kernel, a program for each document, head and tile."""
    _forward(
        q[None], Keys(keys.k[None], keys.v[None]), Running(out[None], lse[None]), documents, score,
        first=True, fresh=_as_if_fresh(out, lse),
    )  # fmt: skip


def packed_backward(rows: Rows, keys: Keys, documents: Documents, score: Score) -> Sums:
    """The contract's `packed_backward`."""
    sums = Sums(*(x.new_empty(x.shape) for x in (rows.q, *keys)))
    packed_backward_into(rows, keys, sums, documents, score)
    return sums


def packed_backward_into(
    rows: Rows, keys: Keys, sums: Sums, documents: Documents, score: Score
) -> None:
    """The contract's `packed_backward_into`."""
    q, dout, out, lse, delta = rows
    assert delta is not None  # needs_delta
    _backward(
        Rows(q[None], dout[None], out, lse[None], delta[None]),  # no kernel reads out
        Keys(keys.k[None], keys.v[None]), Sums(*(x[None] for x in sums)), documents, score,
        add=False, add_keys=False, fresh=_as_if_fresh(*sums),
    )  # fmt: skip


def _as_if_fresh(*results: Tensor) -> bool:
    """Whether they lie as those that were just made do: to see that is less than a look at all."""
    return all(x.is_contiguous() and not x.data_ptr() % 16 for x in results)


def _like(x: Tensor) -> Tensor:
    """Float32, empty, of the tensor's shape: where shares of several launches are added up."""
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


def _forward(
    q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
    *, first: bool, fresh: bool = False,
) -> None:  # fmt: skip
    """Enqueues `forward_launch`; fresh: what is running was just made, which spares a look."""
    given = (q, *keys, running.out, running.result, running.lse)

    def launches() -> Sequence[TritonLaunch]:
        make = family_for(given[:3], where, score).launch.forward_launch
        return [make(q, keys, running, where, score, first=first)]

    place, more = _place(where)
    asked = "forward", first, fresh, place
    enqueue(asked, given, given[:3] if fresh else given, more, score, launches)


def _backward(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, add_keys: bool, fresh: bool = False,
) -> None:  # fmt: skip
    """Enqueues both backward launches; fresh: the sums were just made."""
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    read = (dout, q, *keys, lse, delta)
    given = (*read, *sums)

    def launches() -> Sequence[TritonLaunch]:
        launch, groups = family_for((q, *keys, dout), where, score).launch, (rows, keys, sums)
        return [
            launch.backward_dq_launch(*groups, where, score, add=add),
            launch.backward_dkdv_launch(*groups, where, score, add=add_keys),
        ]

    place, more = _place(where)
    asked = "backward", add, add_keys, fresh, place
    enqueue(asked, given, read if fresh else given, more, score, launches)


def _place(where: Block | Documents) -> tuple[Hashable, tuple[Tensor, ...]]:
    """What tells a block, or documents, from others; and the tensors that documents hold."""
    if isinstance(where, Documents):
        told = where.mask, where.max_seqlen_q, where.max_seqlen_k
        return told, (where.cu_seqlens_q, where.cu_seqlens_k)
    return where, ()
