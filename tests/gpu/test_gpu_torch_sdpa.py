"""On a GPU: scaled_dot_product_attention by our kernels, through torch's own switch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import attention as switch
from torch.nn.functional import scaled_dot_product_attention

from ring_attn_bench import InvalidArgument, registry
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.integrations.torch_sdpa import NAME, register
from tests.tiny_models import assert_as_near

# torch may warn of what it likes
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(params=["triton", "aten", "auto"])
def activated(request):
    if request.param != "auto":
        try:
            registry.load(request.param)
        except BackendUnavailable as error:
            pytest.skip(str(error))
    switch.activate_flash_attention_impl(register(backend=request.param))
    yield
    switch.restore_flash_attention_impl()
    switch._registry._FLASH_ATTENTION_IMPLS.pop(NAME)


def tensors(dtype, key_heads):
    seeded = torch.Generator().manual_seed(7)
    made = [torch.randn(2, 200, n, 64, generator=seeded) for n in (4, key_heads, key_heads)]
    # rounded once, for all that are compared
    views = [x.bfloat16().to("cuda", dtype).transpose(1, 2) for x in made]
    return [x.detach().requires_grad_() for x in views]


def attention(kind, causal):
    def function(q, k, v):
        with switch.sdpa_kernel(kind):
            return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    return function


def differentiated(function, given):
    out = function(*given)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(8))
    weights = weights.bfloat16().to("cuda", out.dtype)
    return [out.detach(), *torch.autograd.grad(out, given, weights)]


def held(function, causal, key_heads):
    plain, truth = (
        differentiated(attention(switch.SDPBackend.MATH, causal), tensors(dtype, key_heads))
        for dtype in (torch.bfloat16, torch.float64)
    )
    assert_as_near(differentiated(function, tensors(torch.bfloat16, key_heads)), plain, truth)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_results_and_gradients_are_as_near_the_truth_as_torchs(activated, causal, key_heads):
    held(attention(switch.SDPBackend.FLASH_ATTENTION, causal), causal, key_heads)


def test_so_they_are_of_a_compiled_call(activated):
    torch._dynamo.reset()
    held(torch.compile(attention(switch.SDPBackend.FLASH_ATTENTION, True)), True, 4)


def test_dropout_is_refused_while_it_is_activated_and_not_after(activated):
    q, k, v = tensors(torch.bfloat16, 4)
    with switch.sdpa_kernel(switch.SDPBackend.FLASH_ATTENTION):
        with pytest.raises(InvalidArgument, match="restore_flash_attention_impl"):
            scaled_dot_product_attention(q, k, v, dropout_p=0.1)
        switch.restore_flash_attention_impl()
        scaled_dot_product_attention(q, k, v, dropout_p=0.1)
        switch.activate_flash_attention_impl(NAME)
