"""Strides that mean nothing are no mistake, and what kernels read in a row lies in one."""

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

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


APART = {
    "every second column": lambda: torch.randn(1, 5, 2, 16)[..., ::2],
    "heads last": lambda: torch.randn(1, 5, 8, 2).mT,
    "one column for all": lambda: torch.randn(1, 5, 2, 1).expand(1, 5, 2, 8),
    "with a sign bit": lambda: torch._neg_view(torch.randn(1, 5, 8, 2).mT),
}


@BACKENDS
@pytest.mark.parametrize("make", APART.values(), ids=APART)
def test_columns_that_lie_apart_are_copied(backend, make):
    apart = [make().requires_grad_() for _ in "qkv"]
    side_by_side = [x.detach().clone(memory_format=torch.contiguous_format) for x in apart]
    side_by_side = [x.requires_grad_() for x in side_by_side]
    assert all(x.stride(-1) != 1 for x in apart)

    for three in (apart, side_by_side):
        flash_attn_func(*three, causal=True, backend=backend).square().sum().backward()

    assert all(torch.equal(x.grad, y.grad) for x, y in zip(apart, side_by_side, strict=True))
    packed = [
        flash_attn_varlen_func(*(x[0] for x in three), *ends(5), backend=backend)
        for three in (apart, side_by_side)
    ]
    assert torch.equal(*packed)


def test_what_a_kernel_gets_has_contiguous_columns(monkeypatch):
    seen = []
    forward = ReferenceBackend.forward

    def looking(self, q, keys, *rest):
        seen.extend([q, *keys])
        return forward(self, q, keys, *rest)

    monkeypatch.setattr(ReferenceBackend, "forward", looking)
    for make in APART.values():
        flash_attn_func(*[make()] * 3, backend="reference")
        flash_attn_func(*[make()] * 3, softmax_scale=-1.0, backend="reference")

    assert len(seen) == 6 * len(APART)
    assert all(x.stride(-1) == 1 and not x.is_neg() for x in seen)


def test_nothing_is_copied_that_is_refused_for_its_size():
    x = torch.randn(1, 5, 2, 1).expand(1, 5, 2, 2**32)
    with pytest.raises(InvalidArgument, match="too large"):
        flash_attn_func(x, x, x)


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
