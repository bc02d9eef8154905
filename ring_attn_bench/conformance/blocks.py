"""A block: one call if a backend can be given it, else calls of the ring's pieces."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ring_attn_bench.calls import kernel
from ring_attn_bench.conformance.cases import BlockCase
from ring_attn_bench.conformance.expected import Expected, answers, expect
from ring_attn_bench.conformance.inputs import CaseTensors, cut, stored
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.contract.backend import Backend, abilities
from ring_attn_bench.contract.tensors import Rows, Sums, part_of
from ring_attn_bench.plan import lower
from ring_attn_bench.plan.lower import Cut
from ring_attn_bench.plan.positions import Range, count


def inputs(case: BlockCase, device: str) -> CaseTensors:
    """Normal random values, the same on every device and in every storage."""
    generator = torch.Generator().manual_seed(1)
    # the mean of k, and but for its sign of q: level = scale * sum over dim of their product
    mean = math.sqrt(abs(case.level) / (case.softmax_scale * case.dim))

    def drawn(tokens: int, heads: int, dim: int, mean: float = 0.0) -> Tensor:
        values = (
            torch.randn(tokens, case.batch, heads, dim, generator=generator, device="cpu") + mean
        )
        return values.transpose(0, 1).to(device, case.torch_dtype)

    rows, keys = count(case.rows), count(case.keys)
    q = drawn(rows, case.heads, case.dim, math.copysign(mean, case.level))
    k = drawn(keys, case.key_heads, case.dim, mean)
    v = drawn(keys, case.key_heads, case.head_dim_v)
    dout = drawn(rows, case.heads, case.head_dim_v)
    if case.storage == "packed":
        return CaseTensors(*_packed(q, k, v), dout.contiguous())
    if case.storage == "expanded":
        k, v = (x[:1].contiguous().expand_as(x) for x in (k, v))
        return CaseTensors(q.contiguous(), k, v, dout[:, :1].contiguous().expand_as(dout))
    q, k, v, dout = (stored(x, case.storage) for x in (q, k, v, dout))
    return CaseTensors(q, k, v, dout)


def positions(case: BlockCase, device: str) -> tuple[Tensor, Tensor]:
    """Of the case's rows, and of its keys."""
    rows, keys = (
        torch.tensor([at for span in spans for at in span.positions()], device=device)
        for spans in (case.rows, case.keys)
    )
    return rows, keys


def expected(case: BlockCase, device: str, keep: Tensor | None) -> Expected:
    """With dropout, of the weights that are kept, (B, H, M, N)."""
    data = inputs(case, device)
    tensors = data.q, data.k, data.v, data.dout, *positions(case, device)
    answered = partial(answers, *tensors, case.mask, case.score(device), keep=keep)
    # without it where lse is large by ALiBi's bias alone: what is right there is so without
    return expect(case.torch_dtype, answered, with_lse=bool(case.level))


def parts(backend: Backend, case: BlockCase) -> tuple[Cut, ...] | str:
    """The blocks that the backend is given for the case, or why there are none."""
    block, able = case.block, abilities(backend, alibi=case.alibi)
    if lower.refusal(block, able) is None:
        return (Cut(Range(0, block.row_count), Range(0, block.key_count), block),)
    return lower.lower(lower.chunks(case.rows), lower.chunks(case.keys), case.mask.band, able)


def two_blocks(case: BlockCase) -> tuple[Cut, ...]:
    """A causal case's keys before the first row, and the rest, whatever the backend can do."""
    return split(case, case.block.key_count - case.block.row_count)


def split(case: BlockCase, at: int) -> tuple[Cut, ...]:
    """The case's first keys and the rest as two blocks, whatever the backend can do."""
    rows, keys = Range(0, case.block.row_count), (Range(0, at), Range(at, case.block.key_count))
    return tuple(
        Cut(rows, part, replace(case, keys=(case.keys[0].part(part),)).block) for part in keys
    )


def forward(
    backend: Backend, case: BlockCase, data: CaseTensors, parts: tuple[Cut, ...]
) -> dict[str, Tensor]:
    """out and lse: a single block's as they are, those of several merged."""
    score, keys = case.score(str(data.q.device.type)), data.keys
    if is_whole(parts, data):
        poison(data.q.device.type, (data.q, data.k, data.dout))
        out, lse = kernel.forward(backend, data.q, keys, parts[0].block, score)
        return {"out": out, "lse": lse}
    out = torch.zeros_like(data.dout, dtype=case.wide_dtype)
    lse = out.new_full((case.batch, case.heads, out.shape[1]), float("-inf"))
    for part in parts:
        rows, q, own = part.rows.slice, part_of(data.q, part.rows), keys.part(part.keys)
        poison(data.q.device.type, (q, own.k, data.dout[:, rows]))
        results = kernel.forward(backend, q, own, part.block, score)
        out[:, rows], lse[..., rows] = _merged((out[:, rows], lse[..., rows]), results)
    return {"out": out, "lse": lse}


def backward(
    backend: Backend,
    case: BlockCase,
    data: CaseTensors,
    out: Tensor,
    lse: Tensor,
    parts: tuple[Cut, ...],
    *,
    deterministic: bool = False,
) -> dict[str, Tensor]:
    """dq, dk, dv from the whole rows' out and lse; lse and delta are cut out of longer rows."""
    score = case.score(str(data.q.device.type))
    whole, all_keys = data.rows(out, lse), data.keys
    total = Sums(
        *(torch.zeros(x.shape, dtype=case.wide_dtype, device=x.device) for x in (data.q, *all_keys))
    )
    for part in parts:
        rows, keys = cut_out(whole.part(part.rows), backend), all_keys.part(part.keys)
        poison(data.q.device.type, (rows.q, *keys))
        sums = kernel.backward(backend, rows, keys, part.block, score, deterministic=deterministic)
        if is_whole(parts, data):
            return named(sums)
        for gradient, share in zip(total.part(part.rows, part.keys), sums, strict=True):
            gradient += share
    return named(total)


def kept(backend: Backend, case: BlockCase, device: str) -> Tensor | None:
    """(B, H, M, N): the weights that the backend's dropout keeps; None without dropout."""
    from ring_attn_bench.conformance import dropout

    return dropout.kept(backend, case, device) if case.dropout_p else None


def kept_faults(backend: Backend, case: BlockCase, device: str, keep: Tensor) -> list[str]:
    """What is wrong with the weights that are kept, whatever comes of them."""
    from ring_attn_bench.conformance import dropout

    return dropout.mask_faults(backend, case, device, keep)


def cut_out(rows: Rows, backend: Backend) -> Rows:
    """The rows with lse, and delta if the backend is given it, cut out of longer ones."""
    delta = cut(rows.delta) if backend.needs_delta and rows.delta is not None else None
    return rows._replace(lse=cut(rows.lse), delta=delta)


def named(sums: Sums) -> dict[str, Tensor]:
    """dq, dk, dv by name; a backend may give a plain tuple."""
    return Sums(*sums)._asdict()


def is_whole(parts: tuple[Cut, ...], data: CaseTensors) -> bool:
    """Whether one block is all: then results are judged as they come, dtypes and strides too."""
    if len(parts) != 1:
        return False
    return len(parts[0].rows) == data.q.shape[1] and len(parts[0].keys) == data.k.shape[1]


def _merged(held: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Plain arithmetic, none of the ring's own."""
    lse = torch.logaddexp(held[1], more[1])
    safe = torch.where(lse.isneginf(), 0.0, lse)
    out = sum(
        torch.exp(own - safe).transpose(1, 2)[..., None] * part.to(lse.dtype)
        for part, own in (held, more)
    )
    assert isinstance(out, Tensor)
    return out, lse


def _packed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if q.shape == k.shape:
        packed = torch.stack([q, k, v], dim=2)
        return packed[:, :, 0], packed[:, :, 1], packed[:, :, 2]
    packed = torch.stack([k, v], dim=2)
    return q.contiguous(), packed[:, :, 0], packed[:, :, 1]
