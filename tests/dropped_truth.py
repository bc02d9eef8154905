"""Whether the pattern that a call says it dropped is the one that its results are made of."""

import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.truth.tolerance import Deviation, bounds, error, size

LENGTHS = [[(5, 5), (3, 3)], [(4, 7), (0, 3), (6, 2), (1, 1)], [(3, 0), (5, 9)]]
"""By document, its queries and keys."""
SEED = 2**40 + 3


def dense_faults(backend, lengths, dtype, p, device="cpu", **options):
    """What is wrong with out, and with dv, of queries and keys of those lengths."""
    q, k, v, dout = _tensors(2, *lengths, dtype, device)
    v.requires_grad_()
    out, _, pattern = flash_attn_func(
        q, k, v, dropout_p=p, dropout_seed=SEED, return_attn_probs=True, backend=backend, **options
    )
    (dv,) = torch.autograd.grad(out, v, dout)
    v = v.detach()
    right, plain = (
        _recomputed(q, k, v, dout, pattern, p, wide, **options) for wide in (True, False)
    )
    return _faults(out, dv, right, plain)


def documents_faults(backend, lengths, dtype, p, device="cpu", **options):
    """The same of packed documents."""
    rows, keys = ([x[side] for x in lengths] for side in (0, 1))
    ((q,), (k,), (v,), (dout,)) = _tensors(1, sum(rows), sum(keys), dtype, device)
    v.requires_grad_()
    starts = [
        torch.tensor([0, *x], device=device).cumsum(0, dtype=torch.int32) for x in (rows, keys)
    ]
    out, _, pattern = flash_attn_varlen_func(
        q, k, v, *starts, max(rows), max(keys), dropout_p=p, dropout_seed=SEED,
        return_attn_probs=True, backend=backend, **options,
    )  # fmt: skip
    (dv,) = torch.autograd.grad(out, v, dout)
    v, faults = v.detach(), []
    if pattern.shape != (len(lengths), q.shape[1], max(rows), max(keys)):
        return [f"the pattern has shape {tuple(pattern.shape)}"]
    for index, (count, length) in enumerate(lengths):
        at, of = (slice(int(side[index]), int(side[index + 1])) for side in starts)
        own = pattern[index : index + 1]
        inside = own[:, :, :count, :length]
        if own.count_nonzero() != inside.numel():
            faults.append(f"the pattern of document {index} is not of its own tokens alone")
        given = q[None, at], k[None, of], v[None, of], dout[None, at]
        right, plain = (_recomputed(*given, inside, p, wide, **options) for wide in (True, False))
        faults += _faults(out[None, at], dv[None, of], right, plain)
    return faults


def _tensors(batch, rows, keys, dtype, device):
    random = torch.Generator().manual_seed(3)
    shapes = (
        (batch, rows, 4, 16),
        (batch, keys, 2, 16),
        (batch, keys, 2, 16),
        (batch, rows, 4, 16),
    )
    return [torch.randn(shape, generator=random).to(device, dtype) for shape in shapes]


def _recomputed(q, k, v, dout, pattern, p, wide, causal=False, window_size=(-1, -1)):
    """out and dv with the weights that the pattern keeps; wide: in float64, else in q's dtype.

    In a dtype of 16 bits weights and sums are rounded to it, as plain PyTorch does.
    """
    dtype = torch.float64 if wide else q.dtype
    dtype = torch.float32 if not wide and dtype is torch.float64 else dtype
    q, k, v, dout = (x.to("cpu", dtype) for x in (q, k, v, dout))
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
    rows, keys = q.shape[1], k.shape[1]
    distance = torch.arange(rows)[:, None] + keys - rows - torch.arange(keys)
    left, right = window_size
    hidden = (distance < 0) & causal
    hidden |= ((distance > left) & (left >= 0)) | ((distance < -right) & (right >= 0))
    s = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[3] ** -0.5
    weights = s.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num()
    weights = weights * (pattern.cpu() > 0) / (1 - p)
    out = torch.einsum("bhij,bjhd->bihd", weights, v)
    dv = torch.einsum("bhij,bihd->bjhd", weights, dout)
    return out, dv.unflatten(2, (-1, 2)).sum(3)


def _faults(out, dv, right, plain):
    faults = []
    for name, found, true, rough in zip(("out", "dv"), (out, dv), right, plain, strict=True):
        baseline = error(rough, true) if true.numel() else Deviation(0.0, 0.0)
        allowed = bounds(name, found.dtype, baseline, size(true))
        off = error(found.detach().cpu(), true)
        if not off.within(allowed):
            faults.append(f"{name}: {off}; allowed {allowed}")
    return faults
