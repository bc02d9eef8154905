"""Softcaps of any size: a large one leaves scores as they are."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import flash_attn_func

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("softcap", [900.0, 1e4, 1e6, 1e8, 1e20, 1e30, 3e38])
def test_a_softcap_far_above_the_scores_changes_nothing(dtype, softcap):
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (
        torch.randn(1, 8, 2, 16, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(4)
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    right = flash_attn_func(*exact, causal=True, backend="reference")
    out = flash_attn_func(*leaves, causal=True, softcap=softcap, backend="triton")

    gradients = torch.autograd.grad(out, leaves, dout)
    right_ones = torch.autograd.grad(right, exact, dout.double())
    rough = 4 * torch.finfo(dtype).eps + (1e-4 if softcap < 1e3 else 1e-6)
    for found, wanted in zip((out, *gradients), (right, *right_ones), strict=True):
        assert (found.double() - wanted).abs().max() <= rough * (1 + wanted.abs().max())
