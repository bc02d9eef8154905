"""Sinks of every size: whatever a logit is, its row is the limit that float64 has for it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.calls import sinks

INF = float("inf")


def right(q, k, v, sink, dout):
    """out, lse and gradients in float64; an infinite sink as its limit."""
    q, k, v, sink = (x.detach().double().requires_grad_() for x in (q, k, v, sink))
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -INF)
    finite = sink.clamp(max=1e300)[None, :, None, None].expand(*scores.shape[:3], 1)
    every = torch.cat([scores, finite], -1)
    out = torch.einsum("bhmn,bnhe->bmhe", every.softmax(-1)[..., :-1], v)
    lse = every.logsumexp(-1).maximum(sink[:, None])
    return [out, lse, *torch.autograd.grad(out, (q, k, v, sink), dout.double())]


def packed(q, k, v, **options):
    starts = torch.tensor([0, q.shape[1]], dtype=torch.int32)
    call = q[0], k[0], v[0], starts, starts, q.shape[1], q.shape[1]
    return [x[None] for x in flash_attn_varlen_func(*call, **options)[:2]]


def found(q, k, v, sink, dout, *, documents, backend):
    q, k, v, sink = (x.detach().requires_grad_() for x in (q, k, v, sink))
    function = packed if documents else flash_attn_func
    options = {"causal": True, "sink": sink, "backend": backend, "return_attn_probs": True}
    out, lse, *_ = function(q, k, v, **options)
    return [out, lse, *torch.autograd.grad(out, (q, k, v, sink), dout)]


def check(value, *, documents, backend, dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = torch.randn(4, 1, 8, 2, 16, generator=generator).to(dtype)
    sink = torch.tensor([value, 0.5], dtype=torch.float64)
    bound = 5e-6 if dtype is torch.float32 else 0.04
    ours = found(q, k, v, sink, dout, documents=documents, backend=backend)
    for got, wanted in zip(ours, right(q, k, v, sink, dout), strict=True):
        # what float32 cannot hold is infinite there
        torch.testing.assert_close(got.float(), wanted.float(), rtol=bound, atol=bound)


@pytest.mark.parametrize("value", [3e38, 3.4e38, 1e30, 300.0, -3e38, -1e300, 1e300, INF, -INF])
@pytest.mark.parametrize("documents", [False, True], ids=["call", "documents"])
@pytest.mark.parametrize("backend", ["reference", "aten", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sink_of_any_size_is_right(value, documents, backend, dtype):
    check(value, documents=documents, backend=backend, dtype=dtype)


@pytest.mark.parametrize("documents", [False, True], ids=["call", "documents"])
def test_a_sink_that_is_no_number_is_not_hidden(documents):
    x = torch.ones(1, 4, 2, 8)
    sink = torch.tensor([float("nan"), 0.5])
    out, lse, *_ = found(x, x, x, sink, x, documents=documents, backend="reference")
    for first, second in ((out[..., 0, :], out[..., 1, :]), (lse[:, 0], lse[:, 1])):
        assert first.isnan().all()
        assert second.isfinite().all()


class Launches(TorchDispatchMode):
    """Counts operators that compute, where views do not."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += not function.is_view
        return function(*arguments, **named or {})


def test_joined_afterwards_a_sink_takes_as_many_launches_as_the_design_says():
    out, lse, sink = torch.randn(2, 1, 4, 8).half(), torch.randn(2, 4, 1), torch.randn(4)

    with Launches() as launches:
        sinks.joined(out, lse, sink)

    assert launches.count == 9
