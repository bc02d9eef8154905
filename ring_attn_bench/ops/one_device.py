"""Attention on one device as operators: `flash_attn`, of packed documents too, and its backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ring_attn_bench.cached.packed import PackedOverPages, attend_packed
from ring_attn_bench.calls.attend import Call, Given, LocalOutput
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import prepared, seeded
from ring_attn_bench.calls.validate import check_starts
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.one_device.call import OneDevice
from ring_attn_bench.one_device.documents_way import OfDocuments
from ring_attn_bench.one_device.used_keys import with_used_keys
from ring_attn_bench.ops import passes
from ring_attn_bench.ops.asked import SCHEMA, Asked, results, traced
from ring_attn_bench.ops.pair import pair
from ring_attn_bench.ops.registered import own
from ring_attn_bench.plan.problem import Documents

_ONE_DEVICE, _OF_DOCUMENTS = OneDevice(), OfDocuments()
_ASKED = len(Asked._fields)

Four = tuple[Tensor, Tensor, Tensor, Tensor]


class Packed(NamedTuple):
    """Where documents begin, and what else their function takes; nothing of a sequence."""

    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    max_seqlen_q: int | None = None
    max_seqlen_k: int | None = None
    block_table: Tensor | None = None
    seqused_k: Tensor | None = None
    checks: bool = False


_SCHEMA = (
    f"{SCHEMA}, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt? max_seqlen_q, "
    "SymInt? max_seqlen_k, Tensor? block_table, Tensor? seqused_k, bool checks"
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    packed: Packed | None = None,
    *,
    return_attn_probs: bool = False,
) -> LocalOutput:
    """out or (out, lse, None) of a call that is traced; raises InvalidArgument."""
    if return_attn_probs and options.dropout_p:
        raise InvalidArgument(
            "return_attn_probs asks for the pattern of dropout, which is not traced; ask for it "
            "outside of torch.compile and torch.export, or leave one of the two out."
        )
    asked = traced(q, k, v, options)
    packed = Packed() if packed is None else packed
    out, lse = torch.ops.ring_attn_bench.flash_attn(*asked, *packed)
    return (out, lse, None) if return_attn_probs else out


class _Called(NamedTuple):
    """A checked call, its tensors, and k and v as they were given, of which it may take a part."""

    call: Call
    given: Given
    keys: tuple[Tensor, Tensor]


def _called(asked: Asked, packed: Packed) -> _Called:
    asked = asked.as_recorded()
    q, k, v = asked[:3]
    with torch.set_grad_enabled(asked.grad_enabled):
        if packed.cu_seqlens_q is None:
            call, given, options = prepared(q, k, v, asked.options(), _ONE_DEVICE)
            return _Called(seeded(call, options), given, (k, v))
        documents = Documents(*packed[:4])  # type: ignore[arg-type]
        if packed.seqused_k is not None:
            k.requires_grad_(asked.recorded)
            v.requires_grad_(asked.recorded)
            used = packed.seqused_k
            k, v, documents = with_used_keys(q, k, v, documents, used, checks=packed.checks)
        of_documents, given, options = prepared(q, k, v, asked.options(), _OF_DOCUMENTS, documents)
    if packed.checks and given.q.is_cuda:
        check_starts(documents, given.q, given.k)
    return _Called(seeded(of_documents, options), given, asked[1:3])


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - as the schema says
    asked, packed = Asked(*arguments[:_ASKED]), Packed(*arguments[_ASKED:])
    if packed.block_table is None:
        found = _called(asked, packed)
        return passes.forward(found.call, found.given)
    asked, documents = asked.as_recorded(), Documents(*packed[:4])  # type: ignore[arg-type]
    pages = PackedOverPages(*asked[:3], documents, *packed[4:6])  # type: ignore[arg-type]
    with torch.set_grad_enabled(asked.grad_enabled):
        out, lse = attend_packed(pages, asked.options(), checks=packed.checks)
    return own(out), own(lse)


def _results(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    return results(arguments[0], arguments[2])


def _backward(
    dout: Tensor | None,
    dlse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> Four:
    packed = Packed(*arguments[_ASKED:])
    found = _called(Asked(*arguments[:_ASKED]), packed)
    dq, dk, dv, dsink = passes.backward(found.call, found.given, (out, lse), (dout, dlse))
    if packed.seqused_k is not None:  # of the keys that are used: the others' are 0
        dk, dv = torch.autograd.grad(found.given.keys, found.keys, (dk, dv))
    return dq, dk, dv, dsink


pair("flash_attn", _SCHEMA, ("out", "lse"), (_forward, _backward), _results)
