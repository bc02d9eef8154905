"""Autograd sees all that a backward reads: a change in place between the passes is an error."""

import pytest
import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func


def leaves():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(1, 6, 2, 8, generator=random).requires_grad_() for _ in range(3)]


def dense(backend, q, k, v, **options):
    return flash_attn_func(q, k, v, causal=True, backend=backend, **options)


def packed(backend, q, k, v, **options):
    starts = options.pop("starts", torch.tensor([0, 3, 6], dtype=torch.int32))
    return flash_attn_varlen_func(
        q[0], k[0], v[0], starts, starts, 6, 6, causal=True, backend=backend, **options
    )


@pytest.mark.parametrize("function", [dense, packed])
@pytest.mark.parametrize("name", ["alibi_slopes", "sink"])
def test_what_is_changed_in_place_between_the_passes_is_an_error(function, name):
    tensor = torch.tensor([0.5, 0.25])
    out = function("reference", *leaves(), **{name: tensor})
    tensor.mul_(2)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_documents_that_move_between_the_passes_are_an_error(backend):
    starts = torch.tensor([0, 3, 6], dtype=torch.int32)
    out = packed(backend, *leaves(), starts=starts)
    starts.copy_(torch.tensor([0, 2, 6]))

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("function", [dense, packed])
def test_slopes_may_change_between_calls(function):
    slopes = torch.tensor([0.5, 0.25])
    first = function("reference", *leaves(), alibi_slopes=slopes)
    slopes.mul_(3)
    second = function("reference", *leaves(), alibi_slopes=slopes)

    assert not torch.allclose(first, second)
    assert torch.equal(second, function("reference", *leaves(), alibi_slopes=slopes.clone()))


@pytest.mark.parametrize("function", [dense, packed])
@pytest.mark.parametrize("backend", ["reference", "aten", "flex"])
def test_results_may_be_changed_in_place_and_give_no_wrong_gradient(backend, function):
    """As torch's own attention does, which keeps its result for the backward too."""
    q, k, v = leaves()
    untouched = function(backend, q, k, v)
    out, lse, _ = function(backend, q, k, v, return_attn_probs=True)
    assert torch.equal(out.mul_(2), 2 * untouched)
    assert torch.isfinite(lse.add_(1)).all()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()

    (function(backend, q, k, v).clone().mul_(2)).sum().backward()
    (expected,) = torch.autograd.grad(2 * untouched.sum(), q)
    assert torch.allclose(q.grad, expected)
