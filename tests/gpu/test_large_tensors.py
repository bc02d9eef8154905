"""On a GPU: tensors of more than 2^31 elements, whose offsets do not fit into 32 bits.

A window makes a million tokens a matter of milliseconds; the last of them, which lie beyond 2^31
elements, see only each other, so that float64 can judge them by themselves.
"""

from __future__ import annotations

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask, Score

HEADS, KEY_HEADS, DIM, WINDOW = 16, 4, 128, 500
TOKENS = 2**31 // (HEADS * DIM) + 5000
TAIL = 2048
"""Tokens at the end that are computed in float64; of the second half all neighbours are in it."""
LIMIT = 0.01
"""Of the rms error, relative to the values': bfloat16 makes 0.003, a wrong offset about 1."""
GIB = 2**30

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]


def room() -> float:
    return (
        torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else 0
    )


def attend(q, k, v, form, backend):
    """The public call of one sequence, or of two documents of which the second is the longer."""
    window = (WINDOW, 0)
    if form != "documents":
        slopes = torch.full((HEADS,), 0.01, device=q.device) if form == "ALiBi" else None
        return flash_attn_func(
            q, k, v, causal=True, window_size=window, alibi_slopes=slopes, backend=backend
        )
    tokens = q.shape[1]
    starts = torch.tensor([0, tokens // 3, tokens], dtype=torch.int32, device=q.device)
    longest = tokens - tokens // 3
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return flash_attn_varlen_func(
        q, k, v, starts, starts, longest, longest, causal=True, window_size=window, backend=backend
    )[None]


def true_tail(q, k, v, dout, form):
    """out, dq, dk, dv of the last tokens in float64, from these alone."""
    q, k, v, dout = (x.detach()[:, -TAIL:].double() for x in (q, k, v, dout))
    spans = (Span(0, TAIL),)
    block = Block(spans, spans, Mask.from_window_size(True, (WINDOW, 0)).band)
    slopes = torch.full((HEADS,), 0.01, device=q.device) if form == "ALiBi" else None
    score = Score(DIM**-0.5, alibi_slopes=slopes)
    backend = ReferenceBackend()
    out, lse = backend.forward(q, Keys(k, v), block, score)
    rows = Rows(q, dout, out, lse, (dout * out).sum(-1).transpose(1, 2))
    return out, *backend.backward(rows, Keys(k, v), block, score, deterministic=True)


def worst_error(form, tokens, *, backend="triton", device="cuda", dtype=torch.bfloat16):
    """Of out, dq, dk, dv: the rms error of the last tokens, relative to their rms."""

    def normal(heads):
        return torch.randn(1, tokens, heads, DIM, device=device, dtype=dtype)

    q, k, v = (normal(heads).requires_grad_() for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    dout = normal(HEADS)
    out = attend(q, k, v, form, backend)
    gradients = torch.autograd.grad(out, (q, k, v), dout)
    errors = []
    for got, true in zip((out, *gradients), true_tail(q, k, v, dout, form), strict=True):
        mine, theirs = (x.detach()[:, -TAIL // 2 :].double() for x in (got, true))
        errors.append(float((mine - theirs).norm() / theirs.norm()))
    return max(errors)


@pytest.mark.skipif(room() < 60, reason="needs a GPU with 60 GiB")
@pytest.mark.parametrize("form", ["one sequence", "ALiBi", "documents"])
def test_tokens_beyond_32_bits_of_elements_are_right(form):
    """ALiBi is for the plain kernels, the others are for Hopper's, if it is one."""
    assert worst_error(form, TOKENS) < LIMIT
