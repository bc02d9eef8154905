"""What the CuTe backward's launches are told means the gradients: read as the kernels read it."""

import math

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import launch, serves

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle

ROWS, KEYS, FIRST_ROW, FIRST_KEY = 37, 29, 20, 11


def carried_out(call, folder=None):
    """A launch in float64, from its numbers, and its tensors by address and stride alone."""
    (batch, M, N, heads, key_heads, _), (low, high), (scale, cap, gradient) = call.numbers
    queries, keys, line = (batch, M, heads, 64), (batch, N, key_heads, 64), (batch, heads, M)
    is_dq = call.build.kernel == "backward_dq"
    shapes = (queries, keys, keys, queries, line, line, *([queries] if is_dq else [keys, keys]))
    q, k, v, dout, lse, delta, *results = (
        x.as_strided(shape, (*strides, 1))
        for x, shape, strides in zip(call.tensors, shapes, call.strides, strict=True)
    )
    group = heads // key_heads
    wide_k, wide_v = (x.double().repeat_interleave(group, dim=2) for x in (k, v))
    products = torch.einsum("bihd,bjhd->bhij", q.double(), wide_k)
    tanh = torch.tanh(products * scale) if call.build.capped else None
    scores = products * scale if tanh is None else cap * tanh
    distance = torch.arange(M)[:, None] - torch.arange(N)
    p = torch.exp2(scores - lse.double()[..., None] * math.log2(math.e))
    p = torch.where((distance >= low) & (distance <= high), p, 0.0)
    dp = torch.einsum("bihd,bjhd->bhij", dout.double(), wide_v)
    ds = p * (dp - delta.double()[..., None]) * (1.0 if tanh is None else 1 - tanh**2)
    if is_dq:
        shares = [torch.einsum("bhij,bjhd->bihd", ds, wide_k) * gradient]
    else:
        shares = [
            torch.einsum("bhij,bihd->bjhd", x, y.double()).unflatten(2, (-1, group)).sum(3) * factor
            for x, y, factor in ((ds, q, gradient), (p, dout, 1.0))
        ]
    for result, share in zip(results, shares, strict=True):
        result.copy_(share + (result.double() if call.build.carried else 0.0))


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):  # nothing here compiles, or is launched
        monkeypatch.setattr(serves, lacks, lambda: None)
    monkeypatch.setattr(launch, "enqueue", carried_out)
    return cute.CuteBackend()


@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True), Mask(window_left=9, window_right=3)])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("adds", [False, True], ids=["written", "added"])
def test_the_launches_of_a_block_are_its_gradients(backend, mask, softcap, adds):
    torch.manual_seed(1)
    k, v = torch.randn(2, KEYS, 2, 2, 64).half().unbind(2)
    q = torch.randn(2, ROWS, 6, 64).half()[:, :, 1:5]
    dout = torch.randn(2, 4, ROWS, 64).half().transpose(1, 2)
    score = Score(0.2, softcap)
    rows, keys = Span(FIRST_ROW, ROWS), Span(FIRST_KEY, KEYS)
    places = (torch.arange(x.start, x.start + x.count) for x in (rows, keys))
    asked = oracle.Inquiry(*places, mask, score)
    wide = [x.double() for x in (dout, q, k, v)]
    out, lse = oracle.forward(*wide[1:], asked)
    expected = oracle.backward(*wide, out, lse, asked)
    delta = (wide[0] * out).sum(-1).transpose(1, 2).float().contiguous()
    longer = torch.zeros(2, 4, ROWS + 5)
    longer[..., 2:-3] = lse.float()
    dtype = torch.float32 if adds else torch.float16
    before = [torch.randn(x.shape).to(dtype) for x in (q, k, v)]
    sums = Sums(*(x.clone() for x in before))

    backend.backward_into(
        Rows(q, dout, out.half(), longer[..., 2:-3], delta), Keys(k, v), sums,
        Block((rows,), (keys,), mask.band), score,
        first=not adds, first_keys=not adds, deterministic=True,
    )  # fmt: skip

    for got, there, exact in zip(sums, before, expected, strict=True):
        share = got.double() - (there.double() if adds else 0.0)
        rounding = 1e-5 if adds else 2**-11 * float(exact.abs().max())
        torch.testing.assert_close(share, exact, rtol=0, atol=rounding + 1e-5)
