"""flash-attn's functions in plain torch, so that peers written for it run on a CPU.

With its conventions: masks are aligned at the bottom right, lse is natural and (B, H, M), a window
side of -1 is unlimited.
"""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import torch
from ring_attn_backends.peers.flash_attn_kernels import as_flash_attn
from ring_attn_backends.peers.stand_ins import flash_attn_modules


def attend(q, k, v, scale, causal, left, right):
    """out (B, M, H, D) and lse (B, H, M), in float32 or wider."""
    q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    rows, keys = q.shape[1], k.shape[1]
    distance = torch.arange(rows)[:, None] + keys - rows - torch.arange(keys)
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        allowed &= distance <= left
    if causal or right >= 0:
        allowed &= distance >= (0 if causal else -right)
    scores = scale * torch.einsum("bmhd,bnhd->bhmn", q, k)
    scores = scores.masked_fill(~allowed, float("-inf"))
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.nan_to_num(neginf=0.0)[..., None])
    return torch.einsum("bhmn,bnhd->bmhd", weights, v), lse, scores


def gradients(dout, q, k, v, out, lse, scale, causal, left, right):
    """The block's share of dq, dk, dv, from the out and lse of whole rows."""
    _, _, scores = attend(q, k, v, scale, causal, left, right)
    group, wide = q.shape[2] // k.shape[2], scores.dtype
    dout, out, qs = (x.to(wide) for x in (dout, out, q))
    ks, vs = (x.to(wide).repeat_interleave(group, 2) for x in (k, v))
    p = torch.exp(scores - lse[..., None])
    delta = (dout * out).sum(-1).transpose(1, 2)
    ds = scale * p * (torch.einsum("bmhd,bnhd->bhmn", dout, vs) - delta[..., None])
    dq = torch.einsum("bhmn,bnhd->bmhd", ds, ks)
    dk = torch.einsum("bhmn,bmhd->bnhd", ds, qs)
    dv = torch.einsum("bhmn,bmhd->bnhd", p, dout)
    dk, dv = (x.unflatten(2, (k.shape[2], group)).sum(3) for x in (dk, dv))
    return tuple(x.to(q.dtype) for x in (dq, dk, dv))


class Autograd(torch.autograd.Function):
    """flash_attn_func, with the package's way of saving out and lse."""

    @staticmethod
    def forward(ctx, q, k, v, *how):
        out, lse, _ = attend(q, k, v, *how)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.how = how
        return out, lse

    @staticmethod
    def backward(ctx, dout, _):
        return *gradients(dout, *ctx.saved_tensors, *ctx.how), None, None, None, None


def forward(
    q, k, v, dropout_p, softmax_scale, causal, window_size_left=-1, window_size_right=-1,
    softcap=0.0, alibi_slopes=None, return_softmax=False,
):  # fmt: skip
    out, lse, _ = attend(q, k, v, softmax_scale, causal, window_size_left, window_size_right)
    return out.to(q.dtype), lse, None, None


def backward(
    dout, q, k, v, out, softmax_lse, dq, dk, dv, dropout_p, softmax_scale, causal,
    window_size_left=-1, window_size_right=-1, softcap=0.0, alibi_slopes=None,
    deterministic=False, rng_state=None,
):  # fmt: skip
    how = softmax_scale, causal, window_size_left, window_size_right
    found = gradients(dout, q, k, v, out, softmax_lse, *how)
    for buffer, gradient in zip((dq, dk, dv), found, strict=True):
        buffer.copy_(gradient)


def function(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    alibi_slopes=None, deterministic=False, return_attn_probs=False,
):  # fmt: skip
    return Autograd.apply(q, k, v, softmax_scale, causal, *window_size)[0]


class PlainFlashAttn:
    """In the place of flash-attn 2."""

    name = "reference"

    def stand_ins(self):
        return flash_attn_modules(forward, backward, function)

    def unsupported(self, problem):
        return None

    def version(self):
        return "plain"


class PlainFlashAttn4(PlainFlashAttn):
    """In the place of flash-attn-4: behind its names, and what puts it behind flash-attn's."""

    def stand_ins(self):
        package = SimpleNamespace(
            _flash_attn_fwd=cute_forward, _flash_attn_bwd=cute_backward, flash_attn_func=cute
        )
        return as_flash_attn(package)


def cute_forward(
    q, k, v, *, softmax_scale=None, causal=False, softcap=None, window_size_left=None,
    window_size_right=None, return_lse=False, cu_seqlens_q=None, cu_seqlens_k=None,
    max_seqlen_q=None, max_seqlen_k=None,
):  # fmt: skip
    how = softmax_scale, causal, *sides(window_size_left, window_size_right)
    if cu_seqlens_q is not None:
        each = [
            attend(q[None, rows], k[None, keys], v[None, keys], *how)[:2]
            for rows, keys in documents(cu_seqlens_q, cu_seqlens_k)
        ]
        out, lse = (torch.cat([one[n][0] for one in each], n) for n in (0, 1))
        return out.to(q.dtype), lse, None, None, None
    out, lse, _ = attend(q, k, v, *how)
    return out.to(q.dtype), lse if return_lse else None, None, None, None


def cute_backward(
    q, k, v, out, dout, lse, *, softmax_scale=None, causal=False, softcap=0.0,
    window_size_left=None, window_size_right=None, deterministic=False, dq=None, dk=None, dv=None,
    cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
):  # fmt: skip
    assert lse.is_contiguous()
    assert all(buffer is None or buffer.is_contiguous() for buffer in (dq, dk, dv))
    how = softmax_scale, causal, *sides(window_size_left, window_size_right)
    if cu_seqlens_q is None:
        found = gradients(dout, q, k, v, out, lse, *how)
    else:
        found = [torch.zeros_like(x) for x in (q, k, v)]
        for rows, keys in documents(cu_seqlens_q, cu_seqlens_k):
            of_rows = (x[None, rows] for x in (dout, q))
            of_keys = (x[None, keys] for x in (k, v))
            one = gradients(*of_rows, *of_keys, out[None, rows], lse[None, :, rows], *how)
            for x, of, share in zip(found, (rows, keys, keys), one, strict=True):
                x[of] = share[0]
    buffers = (dq, dk, dv)
    pairs = zip(buffers, found, strict=True)
    return tuple(x if buffer is None else buffer.copy_(x) for buffer, x in pairs)


def documents(cu_seqlens_q, cu_seqlens_k):
    """The rows and the keys of each."""
    pairs = (pairwise(x.tolist()) for x in (cu_seqlens_q, cu_seqlens_k))
    return [tuple(slice(*one) for one in both) for both in zip(*pairs, strict=True)]


def cute(
    q, k, v, *, softmax_scale=None, causal=False, softcap=0.0, window_size=(None, None),
    deterministic=False,
):  # fmt: skip
    return Autograd.apply(q, k, v, softmax_scale, causal, *sides(*window_size))


def sides(left, right):
    return tuple(-1 if side is None else side for side in (left, right))
