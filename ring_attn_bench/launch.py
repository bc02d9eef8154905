"""Calls a backend on a block: what stands between the two is done here, once for all backends.

A kernel that masks by index is given a window without the rows that see nothing and the keys that
nobody sees: then no side of the window is negative, which kernels read as unlimited. A kernel that
counts ALiBi's distances by index is given slopes and an lse that make its bias the right one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ring_attn_bench.backend import AccumulatingBackend, Backend
from ring_attn_bench.block import Alibi, Block, Form
from ring_attn_bench.positions import Range, part
from ring_attn_bench.problem import Score


def forward(
    backend: Backend, q: Tensor, k: Tensor, v: Tensor, block: Block, score: Score
) -> tuple[Tensor, Tensor]:
    """The contract's `forward`: out (B, M, H, E) and lse (B, H, M) of a block."""
    rows, keys = _seen(backend, block, q.shape[1], k.shape[1])
    if len(rows) == q.shape[1] and len(keys) == k.shape[1]:
        return _forward(backend, q, k, v, block, score)
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    wide = torch.promote_types(q.dtype, torch.float32)
    lse = q.new_full((q.shape[0], q.shape[2], q.shape[1]), float("-inf"), dtype=wide)
    if len(rows):
        inside = _forward(
            backend, q[:, rows.slice], k[:, keys.slice], v[:, keys.slice],
            _part(block, rows, keys), score,
        )  # fmt: skip
        out[:, rows.slice], lse[:, :, rows.slice] = inside
    return out, lse


def backward(
    backend: Backend,
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    delta: Tensor | None,
    block: Block,
    score: Score,
    *,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The contract's `backward`: the block's share of dq, dk, dv."""
    tensors = (dout, q, k, v, out, lse, delta)
    rows, keys = _seen(backend, block, q.shape[1], k.shape[1])
    if len(rows) == q.shape[1] and len(keys) == k.shape[1]:
        return _backward(backend, tensors, block, score, deterministic)
    whole = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    if len(rows):
        at, of = rows.slice, keys.slice
        inside = (
            dout[:, at], q[:, at], k[:, of], v[:, of], out[:, at], lse[:, :, at],
            None if delta is None else delta[:, :, at],
        )  # fmt: skip
        dq, dk, dv = _backward(backend, inside, _part(block, rows, keys), score, deterministic)
        whole[0][:, at], whole[1][:, of], whole[2][:, of] = dq, dk, dv
    return whole


def forward_into(
    backend: AccumulatingBackend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out_acc: Tensor,
    lse_acc: Tensor,
    target: Tensor | None,
    block: Block,
    score: Score,
    *,
    first: bool,
) -> None:
    """The contract's `forward_into`."""
    rows, keys = _seen(backend, block, q.shape[1], k.shape[1])
    if len(rows) < q.shape[1] or len(keys) < k.shape[1]:
        if first:
            (out_acc if target is None else target).zero_()
            lse_acc.fill_(float("-inf"))
        elif target is not None:
            target.copy_(out_acc)
        if not len(rows):
            return
        block, at, of = _part(block, rows, keys), rows.slice, keys.slice
        q, k, v, out_acc, lse_acc = q[:, at], k[:, of], v[:, of], out_acc[:, at], lse_acc[:, :, at]
        target = None if target is None else target[:, at]
    local, shift = _by_index(backend, block, score, q)
    if shift is not None and not first:
        lse_acc.sub_(shift)
    backend.forward_into(q, k, v, out_acc, lse_acc, target, block, local, first=first)
    if shift is not None:
        lse_acc.add_(shift)


def backward_into(
    backend: AccumulatingBackend,
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    delta: Tensor | None,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    block: Block,
    score: Score,
    *,
    first: bool,
    first_keys: bool,
    deterministic: bool,
) -> None:
    """The contract's `backward_into`."""
    rows, keys = _seen(backend, block, q.shape[1], k.shape[1])
    if len(rows) < q.shape[1] or len(keys) < k.shape[1]:
        for gradient, starts in ((dq, first), (dk, first_keys), (dv, first_keys)):
            if starts:
                gradient.zero_()
        if not len(rows):
            return
        block, at, of = _part(block, rows, keys), rows.slice, keys.slice
        dout, q, out, dq, lse = dout[:, at], q[:, at], out[:, at], dq[:, at], lse[:, :, at]
        delta = None if delta is None else delta[:, :, at]
        k, v, dk, dv = k[:, of], v[:, of], dk[:, of], dv[:, of]
    local, shift = _by_index(backend, block, score, q)
    backend.backward_into(
        dout, q, k, v, out, lse if shift is None else lse - shift, delta, dq, dk, dv, block, local,
        first=first, first_keys=first_keys, deterministic=deterministic,
    )  # fmt: skip


def _forward(
    backend: Backend, q: Tensor, k: Tensor, v: Tensor, block: Block, score: Score
) -> tuple[Tensor, Tensor]:
    local, shift = _by_index(backend, block, score, q)
    out, lse = backend.forward(q, k, v, block, local)
    return out, lse if shift is None else lse + shift


def _backward(
    backend: Backend,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    block: Block,
    score: Score,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dout, q, k, v, out, lse, delta = tensors
    local, shift = _by_index(backend, block, score, q)
    return backend.backward(
        dout, q, k, v, out, lse if shift is None else lse - shift, delta, block, local,
        deterministic=deterministic,
    )  # fmt: skip


def _seen(backend: Backend, block: Block, rows: int, keys: int) -> tuple[Range, Range]:
    """The rows and keys to hand over: all of them in any block that `lower` makes."""
    band = block.index_band
    if Form.GENERAL in backend.forms or block.form is not Form.WINDOW or band is None:
        return Range(0, rows), Range(0, keys)
    return band.visible_rows(rows, keys), band.visible_keys(rows, keys)


def _part(block: Block, rows: Range, keys: Range) -> Block:
    return Block(part(block.rows, rows), part(block.keys, keys), block.band)


def _by_index(
    backend: Backend, block: Block, score: Score, like: Tensor
) -> tuple[Score, Tensor | None]:
    """The score for a kernel that counts inside the block, and what its lse then lacks, (B, H, 1).

    The whole bias is -slope * (step * (i + N - M - j) + offset); a constant for each head moves
    lse by as much and leaves everything else as it is.
    """
    slopes = score.alibi_slopes
    if slopes is None or backend.alibi is not Alibi.INDEX:
        return score, None
    bias = block.index_alibi
    assert bias is not None  # lower would have refused
    if bias.step != 1:
        score = replace(score, alibi_slopes=slopes * bias.step)
    if bias.offset == 0:
        return score, None
    return score, -bias.offset * slopes.expand(like.shape[0], like.shape[2])[..., None]
