"""A ring by hand: two calls below autograd, each over half of the keys, merged by their lse."""

import torch

from ring_attn_bench.flash_attn import _flash_attn_backward, _flash_attn_forward
from ring_attn_bench.truth.tolerance import bounds, error, size
from tests.dense_truth import truth

NAMES = ("out", "dq", "dk", "dv")


def half_passes_faults(backend, dtype, causal, rows=12, dim=16, device="cpu"):
    """What is wrong with out and the gradients; the causal half is the later one."""
    random = torch.Generator().manual_seed(1)
    shapes = (2, rows, 4, dim), (2, 2 * rows, 2, dim), (2, 2 * rows, 2, dim), (2, rows, 4, dim)
    q, k, v, dout = (torch.randn(shape, generator=random).to(device, dtype) for shape in shapes)
    halves = [((k[:, :rows], v[:, :rows]), False), ((k[:, rows:], v[:, rows:]), causal)]

    def how(causal):
        return 0.0, None, causal, -1, -1, 0.0, None

    parts = [
        _flash_attn_forward(q, *keys, *how(masked), False, backend=backend)[:2]
        for keys, masked in halves
    ]
    wide = parts[0][1].dtype
    lse = torch.logaddexp(*(lse for _, lse in parts))
    shares = (torch.exp(own - lse).transpose(1, 2)[..., None] for _, own in parts)
    out = sum(share * x.to(wide) for share, (x, _) in zip(shares, parts, strict=True)).to(dtype)
    dq, dk, dv = torch.zeros_like(q, dtype=wide), torch.empty_like(k), torch.empty_like(v)
    for index, (keys, masked) in enumerate(halves):
        at = slice(index * rows, (index + 1) * rows)
        share = torch.empty_like(q)
        _flash_attn_backward(
            dout, q, *keys, out, lse, share, dk[:, at], dv[:, at], *how(masked), False,
            backend=backend,
        )  # fmt: skip
        dq += share
    return _faults(
        dict(zip(NAMES, (out, dq.to(dtype), dk, dv), strict=True)), q, k, v, dout, causal
    )


def _faults(found, q, k, v, dout, causal):
    right, plain = (
        _with_gradients(*(x.to("cpu", wide) for x in (q, k, v, dout)), causal)
        for wide in (torch.float64, torch.float32 if q.dtype is torch.float64 else q.dtype)
    )
    faults = []
    for name, x in found.items():
        off, allowed = (
            error(x.cpu(), right[name]),
            bounds(name, x.dtype, error(plain[name], right[name]), size(right[name])),
        )
        if not off.within(allowed):
            faults.append(f"{name}: {off}; allowed {allowed}")
    return faults


def _with_gradients(q, k, v, dout, causal):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out, _ = truth(*leaves, causal=causal)
    return dict(zip(NAMES, (out.detach(), *torch.autograd.grad(out, leaves, dout)), strict=True))
