"""On a GPU: calls inside torch.compile(fullgraph=True), by our kernels and by a ring of one."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.testing import CompileCounterWithBackend

from ring_attn_bench import (
    flash_attn_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    zigzag_ring_flash_attn_func,
)

# torch may warn of what it likes
pytestmark = [
    pytest.mark.gpu, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")
]  # fmt: skip
HEADS, KEY_HEADS, DIM = 4, 2, 64


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


def leaf(*shape):
    return torch.randn(*shape, device="cuda").bfloat16().requires_grad_()


def dense(tokens):
    return [leaf(2, tokens, heads, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def packed(tokens):
    return [leaf(tokens, heads, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def causal(q, k, v):
    return flash_attn_func(q, k, v, causal=True, backend="triton")


def features(q, k, v):
    slopes = torch.linspace(0.1, 0.5, HEADS, device=q.device)
    out = flash_attn_func(q, k, v, causal=True, window_size=(100, 0), backend="triton")
    more = flash_attn_func(q, k, v, alibi_slopes=slopes, softcap=20.0, backend="triton")
    return out + more


def documents(q, k, v):
    starts = torch.tensor([0, 37, 100, len(q)], dtype=torch.int32, device=q.device)
    return flash_attn_varlen_func(
        q, k, v, starts, starts, len(q), len(q), causal=True, backend="triton"
    )


def both(call, tensors):
    out = call(*tensors)
    told = torch.arange(out.numel(), device="cuda").sin().view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, tensors, told)]


def assert_same(call, compiled, tensors):
    for found, right in zip(both(compiled, tensors), both(call, tensors), strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize(
    ("call", "inputs"), [(causal, dense), (features, dense), (documents, packed)]
)
def test_results_and_gradients_are_those_of_the_call_and_a_third_length_compiles_nothing(
    call, inputs
):
    counted = CompileCounterWithBackend("inductor")
    compiled = torch.compile(call, fullgraph=True, backend=counted)
    for tokens, graphs in ((256, 1), (384, 2), (300, 2), (517, 2)):
        tensors = inputs(tokens)
        if call is features:  # inductor adds the two in float32
            for found, right in zip(both(compiled, tensors), both(call, tensors), strict=True):
                torch.testing.assert_close(found, right, rtol=0.02, atol=0.02)
        else:
            assert_same(call, compiled, tensors)
        assert counted.frame_count == graphs


def step(q, k_cache, v_cache, k, v, lengths):
    return flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=lengths, causal=True, backend="triton"
    )


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_steps_of_decoding_append_in_place_as_outside(mode):
    compiled = torch.compile(step, fullgraph=True, mode=mode)
    k_cache, v_cache = (torch.randn(2, 128, KEY_HEADS, DIM, device="cuda") for _ in range(2))
    ours, theirs = ([k_cache.bfloat16(), v_cache.bfloat16()] for _ in range(2))
    lengths = torch.tensor([100, 3], dtype=torch.int32, device="cuda")
    for _ in range(6):
        q, k, v = (x.detach() for x in dense(1))
        found = compiled(q, *ours, k, v, lengths)
        assert torch.equal(found, step(q, *theirs, k, v, lengths))
        assert all(map(torch.equal, ours, theirs))
        lengths += 1


def test_a_ring_is_traced_at_its_first_call(tmp_path):
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:

        def ring(q, k, v):
            return zigzag_ring_flash_attn_func(q, k, v, causal=True, backend="triton")

        assert_same(ring, torch.compile(ring, fullgraph=True), dense(256))
    finally:
        dist.destroy_process_group()
