"""The contract's calls as kernel calls: a block of many chunks takes several, most take one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.triton.arguments import needs_positions
from ring_attn_backends.triton.choice import backward, forward
from ring_attn_backends.triton.lines import pieces

if TYPE_CHECKING:
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Documents, Score

_pieces = lru_cache(maxsize=1024)(pieces)  # it takes the host 20 us


def whole_forward(
    q: Tensor, k: Tensor, v: Tensor, block: Block, score: Score
) -> tuple[Tensor, Tensor]:
    """The contract's `forward`, out in q's dtype."""
    batch, rows, heads, _ = q.shape
    out = q.new_empty(batch, rows, heads, v.shape[-1])
    lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
    found = _pieces(block, positions=needs_positions(score))
    if len(found) == 1:
        forward(q, k, v, out, out, lse, found[0].block, score, first=True, fresh=True)
    else:
        forward_into(q, k, v, out, lse, out, block, score, first=True)
    return out, lse


def whole_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    block: Block, score: Score,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The contract's `backward`: accumulated in float32, and rounded once to q's dtype."""
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    found = _pieces(block, positions=needs_positions(score))
    if len(found) == 1:
        backward(
            dout, q, k, v, lse, delta, dq, dk, dv, found[0].block, score,
            add=False, add_keys=False, fresh=True,
        )  # fmt: skip
    else:
        backward_into(
            dout, q, k, v, lse, delta, dq, dk, dv, block, score, first=True, first_keys=True
        )
    return dq, dk, dv


def forward_into(
    q: Tensor, k: Tensor, v: Tensor, out_acc: Tensor, lse_acc: Tensor, target: Tensor | None,
    block: Block, score: Score, *, first: bool,
) -> None:  # fmt: skip
    """The contract's `forward_into`: a kernel call for each pair of two chunks at most."""
    found = _pieces(block, positions=needs_positions(score))
    if len(found) == 1:
        acc, out = out_acc, out_acc if target is None else target
        forward(q, k, v, acc, out, lse_acc, found[0].block, score, first=first)
        return
    if out_acc.dtype is not torch.float32:  # it is target, and `first`
        out_acc = torch.empty_like(out_acc, dtype=torch.float32)
    for index, piece in enumerate(found):
        begins = index == 0 or found[index - 1].rows != piece.rows
        ends = index + 1 == len(found) or found[index + 1].rows != piece.rows
        rows, keys = piece.rows.slice, piece.keys.slice
        acc = out_acc[:, rows]
        out = target[:, rows] if ends and target is not None else acc
        forward(
            q[:, rows], k[:, keys], v[:, keys], acc, out, lse_acc[:, :, rows], piece.block, score,
            first=first and begins,
        )  # fmt: skip


def backward_into(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dq: Tensor, dk: Tensor, dv: Tensor, block: Block, score: Score,
    *, first: bool, first_keys: bool,
) -> None:  # fmt: skip
    """The contract's `backward_into`: one kernel for dq, one for dk and dv, both deterministic."""
    found = _pieces(block, positions=needs_positions(score))
    if len(found) == 1:
        backward(
            dout, q, k, v, lse, delta, dq, dk, dv, found[0].block, score,
            add=not first, add_keys=not first_keys,
        )  # fmt: skip
        return
    total_dq = dq
    if dq.dtype is not torch.float32:  # `first`, and written at the end
        (dq,) = _sums(dq)
    one_line_of_rows = found[0].rows == found[-1].rows
    # shares of several lines of rows are added up in float32, whatever dtype is wanted
    sums = (dk, dv) if one_line_of_rows else _sums(dk, dv)
    for index, piece in enumerate(found):
        begins = index == 0 or found[index - 1].rows != piece.rows
        rows, keys = piece.rows.slice, piece.keys.slice
        dk_part, dv_part = (x[:, keys] for x in sums)
        backward(
            dout[:, rows], q[:, rows], k[:, keys], v[:, keys], lse[:, :, rows], delta[:, :, rows],
            dq[:, rows], dk_part, dv_part, piece.block, score,
            add=not (first and begins),
            add_keys=piece.rows != found[0].rows or (one_line_of_rows and not first_keys),
        )  # fmt: skip
    if not one_line_of_rows:
        for x, total in zip((dk, dv), sums, strict=True):
            x.copy_(total) if first_keys else x.add_(total)
    if total_dq is not dq:
        total_dq.copy_(dq)


def packed_forward(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, score: Score
) -> tuple[Tensor, Tensor]:
    """The contract's `packed_forward`: one kernel, a program for each document, head and tile."""
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    forward(
        q[None], k[None], v[None], out[None], out[None], lse[None], documents, score, first=True
    )
    return out, lse


def packed_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    documents: Documents, score: Score,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The contract's `packed_backward`."""
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    given = dout[None], q[None], k[None], v[None], lse[None], delta[None]
    backward(*given, dq[None], dk[None], dv[None], documents, score, add=False, add_keys=False)
    return dq, dk, dv


def _sums(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Float32, empty, of the tensors' shapes: where shares of several launches are added up."""
    return tuple(torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in tensors)
