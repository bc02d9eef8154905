"""Launches of `cute` carried out in float64 on a CPU, from what they are told and nothing else."""

import math

import torch


def carried_out(call, folder=None):
    """A launch, from its numbers, and its tensors by address and stride alone."""
    if 0 in call.numbers.sizes[1:3]:
        raise AssertionError("nothing is launched without rows or keys")
    if call.build.kernel == "forward":
        _forward(call)
    else:
        _backward(call)


def _views(call, *shapes):
    return [
        x.as_strided(shape, (*strides, 1))
        for x, shape, strides in zip(call.tensors, shapes, call.strides, strict=True)
    ]


def _shapes(call):
    """Of q, of k, of v, of out and of lse."""
    batch, M, N, heads, key_heads, _ = call.numbers.sizes
    width, width_v = call.build.config.width, call.build.config.width_v
    keys, values = ((batch, N, key_heads, x) for x in (width, width_v))
    return (batch, M, heads, width), keys, values, (batch, M, heads, width_v), (batch, heads, M)


def _scores(call, q, k):
    """In base 2, without a mask; whether each is visible; and tanh of the capped, or None."""
    (low, high), (scale, cap, *_) = call.numbers.band, call.numbers.factors
    products = torch.einsum("bihd,bjhd->bhij", q.double(), k) * scale
    tanh = torch.tanh(products) if call.build.capped else None
    distance = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
    scores = products if tanh is None else cap * tanh
    return scores, (distance >= low) & (distance <= high), tanh


def _wide(q, *keys):
    return (x.double().repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in keys)


def _forward(call):
    queries, keys, values, outs, line = _shapes(call)
    q, k, v, acc, out, lse = _views(call, queries, keys, values, outs, outs, line)
    wide_k, wide_v = _wide(q, k, v)
    scores, visible, _ = _scores(call, q, wide_k)
    scores = scores.masked_fill(~visible, -math.inf)
    new = torch.logsumexp(scores * math.log(2), -1)
    before = lse.double() if call.build.carried else torch.full_like(new, -math.inf)
    total = torch.logaddexp(before, new)
    finite = total.masked_fill(total == -math.inf, 0.0)
    p = torch.exp(scores * math.log(2) - finite[..., None])
    result = torch.einsum("bhij,bjhd->bihd", p, wide_v)
    if call.build.carried:
        result += acc.double() * torch.exp(before - finite).transpose(1, 2)[..., None]
    out.copy_(result)
    lse.copy_(total)


def _backward(call):
    queries, keys, values, outs, line = _shapes(call)
    kernel, gradient = call.build.kernel, call.numbers.factors[2]
    made = {"backward_dq": [queries], "backward_adding": [queries, keys, values]}
    q, k, v, dout, lse, delta, *results = _views(
        call, queries, keys, values, outs, line, line, *made.get(kernel, [keys, values])
    )
    wide_k, wide_v = _wide(q, k, v)
    scores, visible, tanh = _scores(call, q, wide_k)
    lse = lse.double()
    lse = lse.masked_fill(lse == -math.inf, 0.0)  # of rows that see nothing
    p = torch.exp2(scores - lse[..., None] * math.log2(math.e)).masked_fill(~visible, 0.0)
    dp = torch.einsum("bihd,bjhd->bhij", dout.double(), wide_v)
    ds = p * (dp - delta.double()[..., None]) * (1.0 if tanh is None else 1 - tanh**2)
    shares = [torch.einsum("bhij,bjhd->bihd", ds, wide_k) * gradient]
    if kernel == "backward_adding":
        results[0] += shares.pop()
        del results[0]
    if kernel != "backward_dq":
        group = q.shape[2] // k.shape[2]
        shares = [
            torch.einsum("bhij,bihd->bjhd", x, y.double()).unflatten(2, (-1, group)).sum(3) * factor
            for x, y, factor in ((ds, q, gradient), (p, dout, 1.0))
        ]
    wanted = {"backward_dk": slice(1), "backward_dv": slice(1, 2)}.get(kernel, slice(None))
    for result, share in list(zip(results, shares, strict=True))[wanted]:
        result.copy_(share + (result.double() if call.build.carried else 0.0))
