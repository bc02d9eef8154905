"""Steps over a cache inside torch.compile: the same bits, the cache changed in place alike."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ring_attn_bench import InvalidArgument, flash_attn_with_kvcache

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


def step(q, k_cache, v_cache, k, v, length):
    return flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=length, causal=True, backend="reference",
        return_softmax_lse=True,
    )  # fmt: skip


def tensors():
    new = [torch.randn(2, 1, 2, 16) for _ in range(3)]
    return [new[0], *(torch.randn(2, 16, 2, 16) for _ in range(2)), *new[1:]]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_steps_append_in_place_and_compile_nothing_beyond_the_second(backend):
    counted = CompileCounterWithBackend(backend)
    compiled = torch.compile(step, fullgraph=True, backend=counted)
    for length in (3, 4, 5, 6):
        ours = tensors()
        theirs = [x.clone() for x in ours]
        assert all(map(torch.equal, compiled(*ours, length), step(*theirs, length)))
        assert all(map(torch.equal, ours, theirs))
    assert counted.frame_count == 2


def read(q, k_cache, v_cache, lengths, table=None):
    return flash_attn_with_kvcache(
        q, k_cache, v_cache, cache_seqlens=lengths, block_table=table, backend="reference"
    )


def test_lengths_in_a_tensor_and_pages():
    q, k, v, *_ = tensors()
    lengths = torch.tensor([3, 5], dtype=torch.int32)
    compiled = torch.compile(read, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, lengths), read(q, k, v, lengths))
    table = torch.tensor([[1], [0]], dtype=torch.int32)
    assert torch.equal(compiled(q, k, v, lengths, table), read(q, k, v, lengths, table))


def test_a_gradient_is_a_sentence():
    q, k, v, *_ = tensors()
    compiled = torch.compile(read, fullgraph=True, backend="aot_eager")
    with pytest.raises(InvalidArgument, match="q requires a gradient"):
        compiled(q.requires_grad_(), k, v, torch.tensor([3, 5], dtype=torch.int32))
