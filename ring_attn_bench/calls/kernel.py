"""Calls a backend on a block: what stands between the two is done here, once for all backends.

A kernel that masks by index is given a window without the rows that see nothing and the keys that
nobody sees: then no side of the window is negative, which kernels read as unlimited. A kernel that
counts ALiBi's distances by index is given slopes and an lse that make its bias the right one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ring_attn_bench.contract.backend import AccumulatingBackend, Backend
from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums, part_of
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.positions import Range, part
from ring_attn_bench.plan.problem import Score


def forward(
    backend: Backend, q: Tensor, keys: Keys, block: Block, score: Score
) -> tuple[Tensor, Tensor]:
    """The contract's `forward`: out (B, M, H, E) and lse (B, H, M) of a block."""
    seen = _seen(backend, block)
    if seen is None:
        return _forward(backend, q, keys, block, score)
    out = q.new_zeros(*q.shape[:3], keys.v.shape[3])
    wide = torch.promote_types(q.dtype, torch.float32)
    lse = q.new_full((q.shape[0], q.shape[2], q.shape[1]), float("-inf"), dtype=wide)
    if len(seen[0]):
        at, of = seen
        inside = _forward(backend, part_of(q, at), keys.part(of), _part(block, at, of), score)
        out[:, at.slice], lse[:, :, at.slice] = inside
    return out, lse


def backward(
    backend: Backend, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
) -> Sums:
    """The contract's `backward`: the block's share of dq, dk, dv."""
    seen = _seen(backend, block)
    if seen is None:
        return _backward(backend, rows, keys, block, score, deterministic)
    whole = Sums(*(torch.zeros_like(x) for x in (rows.q, *keys)))
    if len(seen[0]):
        at, of = seen
        inside = _backward(
            backend, rows.part(at), keys.part(of), _part(block, at, of), score, deterministic
        )
        for total, share in zip(whole.part(at, of), inside, strict=True):
            total.copy_(share)
    return whole


def forward_into(
    backend: AccumulatingBackend,
    q: Tensor,
    keys: Keys,
    running: Running,
    block: Block,
    score: Score,
    *,
    first: bool,
) -> None:
    """The contract's `forward_into`."""
    seen = _seen(backend, block)
    if seen is not None:
        if first:
            running.result.zero_()
            running.lse.fill_(float("-inf"))
        elif running.target is not None:
            running.target.copy_(running.out)
        at, of = seen
        if not len(at):
            return
        q, keys, running = part_of(q, at), keys.part(of), running.part(at)
        block = _part(block, at, of)
    local, shift = _by_index(backend, block, score, q)
    if shift is not None and not first:
        running.lse.sub_(shift)
    backend.forward_into(q, keys, running, block, local, first=first)
    if shift is not None:
        running.lse.add_(shift)


def backward_into(
    backend: AccumulatingBackend,
    rows: Rows,
    keys: Keys,
    sums: Sums,
    block: Block,
    score: Score,
    *,
    first: bool,
    first_keys: bool,
    deterministic: bool,
) -> None:
    """The contract's `backward_into`."""
    seen = _seen(backend, block)
    if seen is not None:
        for gradient, starts in zip(sums, (first, first_keys, first_keys), strict=True):
            if starts:
                gradient.zero_()
        at, of = seen
        if not len(at):
            return
        rows, keys, sums = rows.part(at), keys.part(of), sums.part(at, of)
        block = _part(block, at, of)
    rows, local = _rows_by_index(backend, rows, block, score)
    backend.backward_into(
        rows, keys, sums, block, local,
        first=first, first_keys=first_keys, deterministic=deterministic,
    )  # fmt: skip


def _forward(
    backend: Backend, q: Tensor, keys: Keys, block: Block, score: Score
) -> tuple[Tensor, Tensor]:
    local, shift = _by_index(backend, block, score, q)
    out, lse = backend.forward(q, keys, block, local)
    return out, lse if shift is None else lse + shift


def _backward(
    backend: Backend, rows: Rows, keys: Keys, block: Block, score: Score, deterministic: bool
) -> Sums:
    rows, local = _rows_by_index(backend, rows, block, score)
    return backend.backward(rows, keys, block, local, deterministic=deterministic)


def _seen(backend: Backend, block: Block) -> tuple[Range, Range] | None:
    """The rows and keys to hand over where they are not all: they are in what `lower` makes."""
    if block.form is not Form.WINDOW or Form.GENERAL in backend.forms:
        return None
    band = block.index_band
    if band is None:
        return None
    counts = block.row_count, block.key_count
    rows, keys = band.visible_rows(*counts), band.visible_keys(*counts)
    return None if (len(rows), len(keys)) == counts else (rows, keys)


def _part(block: Block, rows: Range, keys: Range) -> Block:
    return Block(part(block.rows, rows), part(block.keys, keys), block.band)


def _rows_by_index(backend: Backend, rows: Rows, block: Block, score: Score) -> tuple[Rows, Score]:
    local, shift = _by_index(backend, block, score, rows.q)
    return rows if shift is None else rows._replace(lse=rows.lse - shift), local


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
