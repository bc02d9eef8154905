"""torch's operators of flash attention by our kernels: on CPUs, for which torch has none."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import attention as switch
from torch.nn.functional import scaled_dot_product_attention

from ring_attn_bench import InvalidArgument, UnknownName
from ring_attn_bench.integrations.torch_sdpa import NAME, Kernels, register
from tests.tiny_models import assert_as_near

OPERATOR = torch.ops.aten._scaled_dot_product_flash_attention
CAUSAL = pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])


@pytest.fixture
def installed():
    handle = Kernels("reference").installed("CPU")
    yield
    handle.remove()


@pytest.fixture
def restored():
    yield
    if switch.current_flash_attention_impl() is not None:
        switch.restore_flash_attention_impl()
    switch._registry._FLASH_ATTENTION_IMPLS.pop(NAME, None)


def tensors(dtype, key_heads=4, tokens_first=True):
    """q, k, v as a model has them: views of (batch, tokens, heads, dim)."""
    seeded = torch.Generator().manual_seed(7)
    made = [torch.randn(2, 24, heads, 16, generator=seeded) for heads in (4, key_heads, key_heads)]
    views = [x.to(dtype).transpose(1, 2) for x in made]
    views = views if tokens_first else [x.contiguous() for x in views]
    return [x.detach().requires_grad_() for x in views]


def differentiated(function, given):
    out = function(*given)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(8)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, given, weights)]


def by_operator(causal, scale=None):
    return lambda q, k, v: OPERATOR(q, k, v, is_causal=causal, scale=scale)[0]


def by_math(causal, scale=None):
    def function(q, k, v):
        with switch.sdpa_kernel(switch.SDPBackend.MATH):
            return scaled_dot_product_attention(
                q, k, v, is_causal=causal, scale=scale, enable_gqa=True
            )

    return function


@CAUSAL
@pytest.mark.parametrize("scale", [None, 0.4])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_results_and_gradients_are_as_near_the_truth_as_torchs(installed, causal, scale, key_heads):
    plain, truth = (
        differentiated(by_math(causal, scale), tensors(dtype, key_heads))
        for dtype in (torch.float32, torch.float64)
    )
    found = differentiated(by_operator(causal, scale), tensors(torch.float32, key_heads))
    assert_as_near(found, plain, truth)


@pytest.mark.parametrize("tokens_first", [True, False])
def test_what_is_returned_is_what_torch_tells_its_compiler(installed, tokens_first):
    given = tensors(torch.bfloat16, tokens_first=tokens_first)
    found = OPERATOR(*given, is_causal=True)
    told = OPERATOR(*(x.detach().to("meta") for x in given), is_causal=True)

    for one, other in zip(found, told, strict=True):
        if isinstance(other, torch.Tensor):
            wanted = other.shape, other.dtype, other.stride()
            assert (one.shape, one.dtype, one.stride()) == wanted
        else:  # the starts that a sequence has not got, and its lengths
            assert one == other


def test_a_compiled_call_gives_the_bits_of_one_outside(installed):
    torch._dynamo.reset()
    compiled = torch.compile(by_operator(True), fullgraph=True, backend="aot_eager")
    found = differentiated(compiled, tensors(torch.float32))
    wanted = differentiated(by_operator(True), tensors(torch.float32))
    assert all(map(torch.equal, found, wanted))


def test_what_torch_keeps_differently_is_a_sentence(installed):
    q, k, v = tensors(torch.float32)
    with pytest.raises(InvalidArgument, match=r"dropout_p is 0\.1, and torch keeps of dropout"):
        OPERATOR(q, k, v, dropout_p=0.1)
    with pytest.raises(InvalidArgument, match="dropout's pattern is asked for"):
        OPERATOR(q, k, v, return_debug_mask=True)
    with pytest.raises(InvalidArgument, match="is_causal of 24 queries and 8 keys"):
        OPERATOR(q, k[:, :, :8], v[:, :, :8], is_causal=True)


def test_what_is_removed_is_gone():
    handle = Kernels("reference").installed("CPU")
    handle.remove()
    with pytest.raises(NotImplementedError):
        OPERATOR(*tensors(torch.float32))


def test_a_name_is_registered_and_nothing_activated_until_torch_is_asked(restored, caplog):
    assert NAME not in switch.list_flash_attention_impls()
    assert register() == register(backend="reference") == NAME
    assert NAME in switch.list_flash_attention_impls()
    assert switch.current_flash_attention_impl() is None

    switch.activate_flash_attention_impl(NAME)
    assert switch.current_flash_attention_impl() == NAME
    with caplog.at_level(logging.WARNING):
        switch.restore_flash_attention_impl()
    assert switch.current_flash_attention_impl() is None
    assert caplog.messages == []


def test_an_unknown_backend_is_refused_when_it_is_registered(restored):
    with pytest.raises(UnknownName, match="reference"):
        register(backend="referenz")
    assert NAME not in switch.list_flash_attention_impls()
