"""Strides that mean nothing are no mistake, and what kernels read in a row lies in one."""

import pytest
import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.errors import InvalidArgument

BACKENDS = pytest.mark.parametrize("backend", ["reference", "aten", "flex"])


def strided(shape, strides):
    x = torch.empty_strided(shape, strides)
    return x.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(3))).requires_grad_()


@BACKENDS
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((1, 5, 2, 1), (50, 10, 5, 3)), ((1, 0, 2, 8), (1, 7, 5, 3)), ((1, 1, 1, 1), (9, 9, 9, 9))],
    ids=["one column", "no tokens", "one element"],
)
def test_the_stride_of_a_dim_without_neighbours_is_any(backend, shape, strides):
    x = strided(shape, strides)
    y = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    assert x.stride() == strides

    for one in (x, y):
        flash_attn_func(one, one, one, causal=True, backend=backend).square().sum().backward()

    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-6)
    packed = [
        flash_attn_varlen_func(one[0], one[0], one[0], *ends(shape[1]), backend=backend)
        for one in (x, y)
    ]
    torch.testing.assert_close(*packed, rtol=0, atol=1e-6)


def ends(tokens):
    starts = torch.tensor([0, tokens], dtype=torch.int32)
    return starts, starts, tokens, tokens


def test_a_stride_between_neighbours_is_still_refused():
    x = torch.randn(1, 5, 2, 16)[..., ::2]
    with pytest.raises(InvalidArgument, match=r"its stride is 2.*q\.contiguous\(\)"):
        flash_attn_func(x, x, x)
    flash_attn_func(*[x.contiguous()] * 3)


@BACKENDS
def test_starts_of_documents_may_be_a_column_of_something(backend):
    x = torch.randn(6, 2, 8)
    column = torch.tensor([[0, 9], [2, 9], [6, 9]], dtype=torch.int32)[:, 0]

    found = flash_attn_varlen_func(x, x, x, column, column, 4, 4, causal=True, backend=backend)

    starts = column.contiguous()
    right = flash_attn_varlen_func(x, x, x, starts, starts, 4, 4, causal=True, backend=backend)
    assert torch.equal(found, right)


@pytest.mark.parametrize("backend", ["reference", "flex"])
def test_one_slope_may_be_expanded_over_the_heads(backend):
    x = torch.randn(1, 6, 4, 8)
    one = torch.tensor([0.5]).expand(4)
    found, right = (
        flash_attn_func(x, x, x, causal=True, alibi_slopes=slopes, backend=backend)
        for slopes in (one, one.contiguous())
    )
    assert torch.equal(found, right)


@BACKENDS
@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (0, 0), (1, 5), (5, 1)])
def test_sides_without_tokens_or_with_one_have_gradients(backend, queries, keys):
    q, k = torch.randn(queries, 2, 8).requires_grad_(), torch.randn(keys, 2, 8).requires_grad_()
    dense = flash_attn_func(q[None], k[None], k[None], backend=backend)
    dense.sum().backward()
    expected = q.grad, k.grad
    q.grad = k.grad = None
    starts = (torch.tensor([0, n], dtype=torch.int32) for n in (queries, keys))
    out = flash_attn_varlen_func(q, k, k, *starts, queries, keys, backend=backend)
    out.sum().backward()

    torch.testing.assert_close(out, dense[0], rtol=0, atol=1e-6)
    for a, b in zip((q.grad, k.grad), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
