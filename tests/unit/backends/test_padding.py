"""Head dims widened with zeros, and tensors moved to where kernels can read them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.shared.padding import ended, fitted, rounded

from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score


@given(st.integers(1, 600), st.integers(1, 64))
def test_rounded_is_the_least_multiple(dim, multiple):
    found = rounded(dim, multiple)
    assert found % multiple == 0
    assert found - multiple < dim <= found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_lies_behind_the_last_document_ends_as_zeros(dtype):
    x, y = torch.ones(9, 2, 4, dtype=dtype), torch.ones(1, dtype=dtype).expand(9, 1, 4)
    x[5:] = float("nan")
    for found, given_tensor in zip(ended(torch.tensor([2, 5]), x, y), (x, y), strict=True):
        assert found.dtype is dtype
        assert torch.equal(found[:5], given_tensor[:5])
        assert not found[5:].any()
    assert x[5:].isnan().all()


@pytest.mark.parametrize(("dim", "dim_v", "width"), [(20, 20, 32), (5, 12, 16), (40, 17, 64)])
@pytest.mark.parametrize("softcap", [0.0, 2.5])
def test_zero_columns_change_nothing(dim, dim_v, width, softcap):
    """In the reference's arithmetic, forward and backward, with fewer key heads."""
    generator = torch.Generator().manual_seed(3)

    def drawn(tokens, heads, size):
        return torch.randn(2, tokens, heads, size, generator=generator, dtype=torch.float64)

    q, k = drawn(9, 4, dim), drawn(13, 2, dim)
    v, dout = drawn(13, 2, dim_v), drawn(9, 4, dim_v)
    block, score = Block((Span(4, 9),), (Span(0, 13),), Band(low=0)), Score(0.3, softcap)
    backend = ReferenceBackend()

    def results(q, k, v, dout):
        out, lse = backend.forward(q, Keys(k, v), block, score)
        delta = (dout * out).sum(-1).transpose(1, 2)
        rows = Rows(q, dout, out, lse, delta)
        share = backend.backward(rows, Keys(k, v), block, score, deterministic=True)
        return out, lse, *share

    narrow = results(q, k, v, dout)
    wide = results(*(fitted(x, width) for x in (q, k, v, dout)))
    for mine, other in zip(narrow, wide, strict=True):
        if other.shape != mine.shape:
            assert other.shape[-1] == width
            assert not other[..., mine.shape[-1] :].any(), "gradients of zeros are zeros"
        torch.testing.assert_close(other[..., : mine.shape[-1]], mine, rtol=1e-13, atol=1e-13)


def test_what_a_kernel_can_read_is_handed_over_as_it_is():
    x = torch.randn(3, 9, 2, 2, 16).bfloat16()
    for view in (x[:, :, 0], x[:, 1:-2, 1], x.transpose(0, 1)[2:, :, 0], x[:, :, :, 0], x[:0]):
        assert fitted(view, 16) is view
    lone = x[:, :1, 0]
    assert fitted(lone.as_strided(lone.shape, (*lone.stride()[:1], 3, 16, 1)), 16).stride(1) == 3


@pytest.mark.parametrize(
    "view",
    [
        torch.randn(2, 9, 2, 24).half()[..., 4:20],
        torch.randn(2, 9, 2, 17).half()[..., :16],
        torch.randn(2 * 9 * 2 * 16 + 3).half()[3:].view(2, 9, 2, 16),
        torch.ones((), dtype=torch.half).expand(2, 9, 2, 16),
        torch.randn(1, 9, 2, 16).half().expand(2, 9, 2, 16),
        torch.randn(2, 16, 2, 9).half().transpose(1, 3),
    ],
    ids=["rows begin in between", "rows of 34 bytes", "an odd address", "one number", "one entry",
         "columns apart"],
)  # fmt: skip
def test_what_a_kernel_cannot_read_is_copied(view):
    found = fitted(view, 16)
    assert found.is_contiguous()
    assert found.data_ptr() % 16 == 0
    assert torch.equal(found, view)
    wide = fitted(view, 24)
    assert torch.equal(wide[..., :16], view)
    assert not wide[..., 16:].any()
    assert wide.is_contiguous()
