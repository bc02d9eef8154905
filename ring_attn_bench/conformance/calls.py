"""From a case to calls of a backend: one if it can be given all, else of the ring's pieces."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ring_attn_bench.calls import kernel
from ring_attn_bench.conformance.cases import BlockCase
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.conformance.inputs import CaseTensors, cut
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.contract.backend import Backend, PackedBackend, abilities
from ring_attn_bench.contract.tensors import Keys, Rows, Sums, part_of
from ring_attn_bench.plan import lower
from ring_attn_bench.plan.lower import Piece
from ring_attn_bench.plan.positions import Range


def pieces(backend: Backend, case: BlockCase) -> tuple[Piece, ...] | str:
    """The blocks that the backend is given for the case, or why there are none."""
    block, able = case.block, abilities(backend, alibi=case.alibi)
    if lower.refusal(block, able) is None:
        return (Piece(Range(0, block.row_count), Range(0, block.key_count), block),)
    return lower.lower(lower.chunks(case.rows), lower.chunks(case.keys), case.mask.band, able)


def split(case: BlockCase, at: int) -> tuple[Piece, ...]:
    """The case's first keys and the rest as two blocks, whatever the backend can do."""
    rows, keys = Range(0, case.block.row_count), (Range(0, at), Range(at, case.block.key_count))
    return tuple(
        Piece(rows, part, replace(case, keys=(case.keys[0].part(part),)).block) for part in keys
    )


def forward(
    backend: Backend, case: BlockCase, data: CaseTensors, parts: tuple[Piece, ...]
) -> tuple[Tensor, Tensor]:
    """out and lse: a single block's as they are, those of several merged."""
    score, keys = case.score(str(data.q.device.type)), Keys(data.k, data.v)
    if _is_whole(parts, data):
        poison(data.q.device.type, (data.q, data.k, data.dout))
        return kernel.forward(backend, data.q, keys, parts[0].block, score)
    out = torch.zeros_like(data.dout, dtype=case.wide_dtype)
    lse = out.new_full((case.batch, case.heads, out.shape[1]), float("-inf"))
    for part in parts:
        rows, q, own = part.rows.slice, part_of(data.q, part.rows), keys.part(part.keys)
        poison(data.q.device.type, (q, own.k, data.dout[:, rows]))
        found = kernel.forward(backend, q, own, part.block, score)
        out[:, rows], lse[..., rows] = _merged((out[:, rows], lse[..., rows]), found)
    return out, lse


def backward(
    backend: Backend,
    case: BlockCase,
    data: CaseTensors,
    out: Tensor,
    lse: Tensor,
    parts: tuple[Piece, ...],
    *,
    deterministic: bool = False,
) -> dict[str, Tensor]:
    """dq, dk, dv from the whole rows' out and lse; lse and delta are cut out of longer rows."""
    score = case.score(str(data.q.device.type))
    delta = (data.dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).transpose(1, 2)
    whole, all_keys = Rows(data.q, data.dout, out, lse, delta), Keys(data.k, data.v)
    total = Sums(
        *(torch.zeros(x.shape, dtype=case.wide_dtype, device=x.device) for x in (data.q, *all_keys))
    )
    for part in parts:
        rows, keys = cut_out(whole.part(part.rows), backend), all_keys.part(part.keys)
        poison(data.q.device.type, (rows.q, *keys))
        found = kernel.backward(backend, rows, keys, part.block, score, deterministic=deterministic)
        if _is_whole(parts, data):
            return named(found)
        for gradient, share in zip(total.part(part.rows, part.keys), found, strict=True):
            gradient += share
    return named(total)


def packed_forward(backend: Backend, case: PackedCase, data: CaseTensors) -> tuple[Tensor, Tensor]:
    """out and lse of all documents in one call."""
    assert isinstance(backend, PackedBackend)  # the case's `refusal` asks
    device = data.q.device.type
    poison(device, (data.q, data.k))
    documents, score = case.documents(device), case.score(device)
    return backend.packed_forward(data.q, Keys(data.k, data.v), documents, score)


def packed_backward(
    backend: Backend,
    case: PackedCase,
    data: CaseTensors,
    out: Tensor,
    lse: Tensor,
    *,
    deterministic: bool,
) -> dict[str, Tensor]:
    """dq, dk, dv of all documents in one call."""
    assert isinstance(backend, PackedBackend)  # the case's `refusal` asks
    device = data.q.device.type
    delta = (data.dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).T
    rows, keys = Rows(data.q, data.dout, out, lse, delta), Keys(data.k, data.v)
    poison(device, (data.q, *keys))
    found = backend.packed_backward(
        cut_out(rows, backend), keys, case.documents(device), case.score(device),
        deterministic=deterministic,
    )  # fmt: skip
    return named(found)


def cut_out(rows: Rows, backend: Backend) -> Rows:
    """The rows with lse, and delta if the backend is given it, cut out of longer ones."""
    delta = cut(rows.delta) if backend.needs_delta and rows.delta is not None else None
    return rows._replace(lse=cut(rows.lse), delta=delta)


def named(sums: Sums) -> dict[str, Tensor]:
    """dq, dk, dv by name; a backend may give a plain tuple."""
    return Sums(*sums)._asdict()


def _is_whole(parts: tuple[Piece, ...], data: CaseTensors) -> bool:
    """Whether one block is all: then results are judged as they come, dtypes and strides too."""
    if len(parts) != 1:
        return False
    return len(parts[0].rows) == data.q.shape[1] and len(parts[0].keys) == data.k.shape[1]


def _merged(held: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Plain arithmetic, none of the ring's own."""
    lse = torch.logaddexp(held[1], found[1])
    safe = torch.where(lse.isneginf(), 0.0, lse)
    out = sum(
        torch.exp(own - safe).transpose(1, 2)[..., None] * part.to(lse.dtype)
        for part, own in (held, found)
    )
    assert isinstance(out, Tensor)
    return out, lse
