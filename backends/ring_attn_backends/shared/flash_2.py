"""Calls of flash-attn 2's kernels, which its package and torch both hold: what they get wrong.

Line numbers are those of flash-attn 2.8.3.post1, csrc/flash_attn; torch's copy has the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ring_attn_backends.shared.calls import FlashCall
from ring_attn_backends.shared.padding import cropped, fitted, rounded
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.problem import Documents

Entry = int | slice
"""Of a batch: one, or all of them."""


@dataclass(frozen=True)
class FlashLaunch:
    """A call in the kernels' words, where -1 is no limit."""

    causal: bool
    left: int
    right: int
    max_rows: int
    max_keys: int
    call: FlashCall


class Kernels(Protocol):
    """Whoever holds the kernels. Tensors come with one head dim, a multiple of 8."""

    def __hash__(self) -> int:
        """What a build lacks is asked of it once."""
        ...

    def launch_forward(self, q: Tensor, keys: Keys, launch: FlashLaunch) -> tuple[Tensor, Tensor]:
        """out and lse."""
        ...

    def launch_backward(
        self, rows: Rows, keys: Keys, launch: FlashLaunch, *, deterministic: bool
    ) -> Sums:
        """dq, dk and dv."""
        ...


def forward(kernels: Kernels, q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
    """out and lse as the contract has them, of a block or of packed documents."""
    dim_v = keys.v.shape[-1]
    if not (q.numel() and keys.k.numel()):  # documents without a token
        lse = q.new_full((q.shape[1], q.shape[0]), float("-inf"), dtype=torch.float32)
        return q.new_zeros(*q.shape[:2], dim_v), lse
    width = rounded(max(q.shape[-1], dim_v), 8)
    q, k, v = (fitted(x, width) for x in (q, *keys))

    def launched(at: Entry, one: FlashCall) -> tuple[Tensor, Tensor]:
        launch = _launch(one, q.shape[-3], k.shape[-3])
        return kernels.launch_forward(q[at], Keys(k[at], v[at]), launch)

    out, lse = _of_parts(_parts(call, q, k), launched)
    if call.documents is not None:
        # of rows that see nothing (softmax.h:180, flash_fwd_kernel.h:125)
        lse = lse.masked_fill(lse == float("inf"), float("-inf"))
    return out[..., :dim_v], lse


def backward(
    kernels: Kernels, rows: Rows, keys: Keys, call: FlashCall, *, deterministic: bool
) -> Sums:
    """dq, dk and dv as the contract has them."""
    (q, dout, out, lse, _), (k, v), dtype = rows, keys, rows.q.dtype
    if not (q.numel() and k.numel()):
        return Sums(torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v))
    width = rounded(max(q.shape[-1], v.shape[-1]), 8)
    dout, q, k, v, out = (fitted(x, width) for x in (dout.to(dtype), q, k, v, out.to(dtype)))
    lse = lse.contiguous()  # read by pointer, whatever its strides

    def launched(at: Entry, one: FlashCall) -> Sums:
        launch = _launch(one, q.shape[-3], k.shape[-3])
        of_entry = Rows(q[at], dout[at], out[at], lse[at])
        return kernels.launch_backward(
            of_entry, Keys(k[at], v[at]), launch, deterministic=deterministic
        )

    return cropped(_of_parts(_parts(call, q, k), launched), keys)


def _launch(call: FlashCall, rows: int, keys: int) -> FlashLaunch:
    left, right = call.left, call.right
    if call.documents is not None:
        # at a longest of 1 query and fewer key heads, queries are regrouped (flash_api.cpp:592)
        # as if every document had one: an error with an empty document among them
        rows = max(2, call.documents.max_seqlen_q)
        # a side of `max_keys` or more is taken for none (:609); beyond all tokens it is none
        keys = call.documents.max_seqlen_k
        keys += call.documents.max_seqlen_q if call.has_window else 0
    if call.score.alibi_slopes is not None and right == 0:
        # Never in causal mode: there the bias is slope * j (alibi.h:48), to which the lse belongs
        # too. At a slope of 0.84 and 8k keys float32 has it to 8e-4 then; as a window, to 2e-7.
        left = keys - 1 if left is None else min(left, keys - 1)
    causal = left is None and right == 0
    return FlashLaunch(
        causal,
        -1 if left is None else left,
        -1 if right is None or causal else right,
        rows, keys, call,
    )  # fmt: skip


def _parts(call: FlashCall, q: Tensor, k: Tensor) -> list[tuple[Entry, FlashCall]]:
    """The call itself; or its batch entries, each as one packed document, where only that is right.

    Dense kernels take a right side of N keys or more for none, and none beside a left side for N
    (flash_api.cpp:141 and :400): wrong with more rows than keys, where row 0 is at N - M. And
    the backward's index of dq's sums, batch * M * H * D, has 32 bits (flash_bwd_kernel.h:120).
    """
    if call.documents is not None or not (_clips(call, q, k) or _overflows(q)):
        return [(slice(None), call)]
    rows, keys = q.shape[1], k.shape[1]
    document = Documents(_ends(rows, q), _ends(keys, k), rows, keys)
    return [(entry, _of_entry(call, entry, document)) for entry in range(q.shape[0])]


def _of_entry(call: FlashCall, entry: int, document: Documents) -> FlashCall:
    slopes = call.score.alibi_slopes
    if slopes is not None and slopes.dim() == 2:
        slopes = slopes[entry]
    score = replace(call.score, alibi_slopes=slopes)
    seed = (call.seed + entry) % 2**63  # else all entries, being the first, would drop alike
    return replace(call, score=score, seed=seed, documents=document)


def _clips(call: FlashCall, q: Tensor, k: Tensor) -> bool:
    rows, keys = q.shape[1], k.shape[1]
    if call.right is None:
        return call.left is not None and rows > keys + 1
    return call.right >= keys


def _overflows(q: Tensor) -> bool:
    batch, rows, heads, dim = q.shape
    return batch > 1 and batch * rounded(rows, 128) * heads * rounded(dim, 64) >= 2**31


def _ends(tokens: int, like: Tensor) -> Tensor:
    """cu_seqlens of one document, made on its device: a copy from the host would wait."""
    return torch.arange(0, tokens + 1, tokens, dtype=torch.int32, device=like.device)


def _of_parts(
    parts: Sequence[tuple[Entry, FlashCall]],
    launched: Callable[[Entry, FlashCall], tuple[Tensor, ...]],
) -> Sequence[Tensor]:
    """The call's results; those of an entry are put in their place as soon as they are there.

    Stacked when all are there they would be in memory twice.
    """
    (at, one), *others = parts
    first = launched(at, one)
    if isinstance(at, slice):
        return first
    whole = [x.new_empty(len(parts), *x.shape) for x in first]
    _put(whole, at, first)
    del first
    for at, one in others:
        _put(whole, at, launched(at, one))
    return whole


def _put(whole: Sequence[Tensor], at: Entry, results: Sequence[Tensor]) -> None:
    for every, result in zip(whole, results, strict=True):
        every[at] = result
