"""Any finite scale is right, by kernels that were written for positive ones too."""

import pytest
import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.errors import InvalidArgument
from tests.dense_truth import truth

SCALES = [0.0, -0.0, -0.3, -2.0, 1e-8, -1e-8, 30.0, -30.0]
BACKENDS = pytest.mark.parametrize("backend", ["reference", "aten", "flex"])


def leaves():
    random = torch.Generator().manual_seed(5)
    shapes = [(1, 7, 2, 16), (1, 7, 1, 16), (1, 7, 1, 16)]
    return [torch.randn(x, generator=random, dtype=torch.float64).requires_grad_() for x in shapes]


def assert_true(found, tensors, scale):
    q, k, v = tensors
    out, lse = truth(q * (scale * 16**0.5), k, v, causal=True)
    for a, b in ((found[0], out), (found[1], lse)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(found[0].square().sum() + found[1].sum(), tensors)
    right = torch.autograd.grad(out.square().sum() + lse.sum(), tensors)
    for a, b in zip(gradients, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@BACKENDS
@pytest.mark.parametrize("scale", SCALES)
def test_any_scale_is_right(backend, scale):
    tensors = leaves()
    found = flash_attn_func(
        *tensors, softmax_scale=scale, causal=True, backend=backend, return_attn_probs=True
    )
    assert_true(found, tensors, scale)


@BACKENDS
@pytest.mark.parametrize("scale", [0.0, -0.3])
def test_any_scale_is_right_in_documents(backend, scale):
    tensors = leaves()
    starts = torch.tensor([0, 7], dtype=torch.int32)
    out, lse, _ = flash_attn_varlen_func(
        *(x[0] for x in tensors), starts, starts, 7, 7, softmax_scale=scale, causal=True,
        backend=backend, return_attn_probs=True,
    )  # fmt: skip
    assert_true((out[None], lse[None]), tensors, scale)


def test_of_scale_0_out_is_the_mean_of_what_is_seen():
    q, k, v = leaves()
    out = flash_attn_func(q, k, v, softmax_scale=0.0, causal=True, backend="aten")
    mean = v.cumsum(1) / torch.arange(1, 8)[None, :, None, None]
    torch.testing.assert_close(out, mean.expand_as(out), rtol=0, atol=1e-12)


def test_a_scale_that_is_not_positive_takes_every_layout():
    x = torch.randn(1, 2, 16, 1).transpose(1, 2)
    out = flash_attn_func(x, x, x, softmax_scale=-1.0, backend="reference")
    y = x.contiguous()
    assert torch.equal(out, flash_attn_func(y, y, y, softmax_scale=-1.0, backend="reference"))
    nothing = torch.empty(1, 2, 8, 0).permute(0, 3, 1, 2)
    assert flash_attn_func(nothing, *[nothing] * 2, softmax_scale=0.0).shape == nothing.shape


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64])
def test_a_wrong_dtype_is_a_sentence_whatever_the_scale(dtype):
    x = torch.zeros(1, 4, 2, 8)
    with pytest.raises(InvalidArgument, match=r"q is .*; allowed are"):
        flash_attn_func(x.to(dtype), x, x, softmax_scale=-1.0)


def test_an_infinite_scale_is_named_as_it_was_given():
    x = torch.zeros(1, 4, 2, 8)
    with pytest.raises(InvalidArgument, match="softmax_scale is -inf"):
        flash_attn_func(x, x, x, softmax_scale=float("-inf"))
