"""Rings inside torch.compile(fullgraph=True): the bits of the same calls outside, on every rank."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import checkpoint

from ring_attn_bench import (
    RingContext,
    RingOptions,
    ring_attn_func,
    ring_attn_with_kvcache,
    stripe_flash_attn_kvpacked_func,
    zigzag_ring_flash_attn_func,
    zigzag_ring_flash_attn_qkvpacked_func,
)
from tests.distributed.pool import Raised

TOKENS = 8
"""Of a rank."""


def shards(count=3, tokens=TOKENS):
    return [torch.randn(1, tokens, 2, 16).requires_grad_() for _ in range(count)]


def both(call, tensors, seed):
    torch.manual_seed(seed)
    found = call(*tensors)
    outs = [x for x in (found if isinstance(found, tuple) else (found,)) if x is not None]
    loss = sum(x.square().sum() for x in outs)
    return [*outs, *torch.autograd.grad(loss, tensors)]


def same(compiled, call, tensors, rank):
    pairs = zip(both(compiled, tensors, rank), both(call, tensors, rank), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def zigzag(q, k, v, **named):
    return zigzag_ring_flash_attn_func(q, k, v, causal=True, backend="reference", **named)


def calls(ring):
    """What is compiled, by the ways in which a ring is named."""
    context = RingContext(ring.group, RingOptions(schedule="gather", slots="auto"))
    mesh = DeviceMesh.from_group(ring.group, "cpu")
    return {
        "its first call": lambda q, k, v: zigzag(q, k, v, group=ring.group),
        "context": lambda q, k, v: ring_attn_func(
            q, k, v, partition="striped", causal=True, window_size=(5, 0), context=context,
            backend="reference", return_attn_probs=True,
        ),
        "mesh": lambda q, k, v: ring_attn_func(
            q, k, v, partition="contiguous", softcap=5.0, backend="reference",
            group=mesh,
        ),
        "dropout": lambda q, k, v: zigzag(q, k, v, dropout_p=0.3, group=ring.group),
        "qkv": lambda q, k, v: zigzag_ring_flash_attn_qkvpacked_func(
            torch.stack([q, k, v], 2), causal=True, group=ring.group, backend="reference"
        ),
        "kv": lambda q, k, v: stripe_flash_attn_kvpacked_func(
            q, torch.stack([k, v], 2), causal=True, group=ring.group, backend="reference"
        ),
    }  # fmt: skip


def compiled_bits(ring, names):
    torch._dynamo.reset()
    found, all_of_them = {}, calls(ring)
    for name in names:
        call = all_of_them[name]
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        found[name] = same(compiled, call, shards(), ring.rank)
    return found


NAMES = ["its first call", "context", "mesh", "dropout", "qkv", "kv"]


def test_a_compiled_ring_gives_the_bits_of_the_ring(ranks):
    # of two: each rank that compiles takes five seconds more to begin
    for found in ranks.run(compiled_bits, NAMES, world_size=2, limit=120):
        assert list(found.values()) == [True] * len(NAMES), found


def third_length(ring):
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")

    def call(q, k, v):
        return zigzag(q * 1.5, k, v, group=ring.group)

    compiled = torch.compile(call, fullgraph=True, backend=counted)
    alike = [same(compiled, call, shards(tokens=count), ring.rank) for count in (8, 12, 16, 20)]
    return alike, counted.frame_count


def test_a_third_length_compiles_nothing(ranks):
    assert ranks.run(third_length, world_size=2) == [([True] * 4, 2)] * 2


def unused_here(ring):
    torch._dynamo.reset()

    def call(q, k, v):
        with torch.no_grad():
            other = zigzag(q * 2, k, v, group=ring.group)
        out = zigzag(q, k, v, group=ring.group)
        return out if ring.rank else out + other

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    return same(compiled, call, shards(), ring.rank)


def test_a_call_stays_in_a_graph_that_does_not_use_what_it_gives(ranks):
    assert ranks.run(unused_here, world_size=2) == [True, True]


def checkpointed(ring, dropout_p):
    torch._dynamo.reset()

    def layer(q, k, v):
        return zigzag(q * 1.5, k, v, dropout_p=dropout_p, group=ring.group).sin()

    def call(q, k, v):
        q = checkpoint(layer, q, k, v, use_reentrant=False)
        return checkpoint(layer, q, k, v, use_reentrant=False)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    alike = same(compiled, call, shards(), ring.rank)
    return alike, same(call, torch.compile(call, backend="aot_eager"), shards(), ring.rank)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_what_is_checkpointed_in_a_graph_is_right(ranks, dropout_p):
    assert ranks.run(checkpointed, dropout_p, world_size=2) == [(True, True)] * 2


def passes_of_a_checkpoint(ring):
    """How many passes a compiled checkpoint makes of a ring: by the number of the next one."""
    torch._dynamo.reset()
    context = RingContext(ring.group)

    def call(q, k, v):
        return checkpoint(lambda *x: zigzag(*x, context=context), q, k, v, use_reentrant=False)

    found = []
    for one in (torch.compile(call, fullgraph=True, backend="aot_eager"), call):
        before = context.next_number()
        both(one, shards(), 0)
        found.append(context.next_number() - before - 1)
    return found


def test_a_compiled_checkpoint_keeps_what_a_ring_gave(ranks):
    assert ranks.run(passes_of_a_checkpoint, world_size=2) == [[1, 2]] * 2


def wanted_on_one(ring):
    torch._dynamo.reset()

    def call(q, k, v):
        return zigzag(q, k, v, group=ring.group)

    tensors = shards() if ring.rank else [x.detach() for x in shards()]
    torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors)


def test_gradients_on_one_rank_only_are_a_sentence_on_all(ranks):
    found = ranks.outcomes(wanted_on_one, world_size=2)
    assert all(isinstance(one, Raised) for one in found)
    assert "the graph that this one was compiled to has no backward" in found[0].text
    assert "rank 0 of the ring refused its arguments" in found[1].text


def keeping(ring):
    torch._dynamo.reset()
    context = RingContext(ring.group, RingOptions(slots="auto", keep_keys=True))

    def call(q, k, v):
        return zigzag(q, k, v, context=context)

    torch.compile(call, fullgraph=True, backend="aot_eager")(*shards())


def test_kept_keys_are_a_sentence(ranks):
    for found in ranks.outcomes(keeping, world_size=2):
        assert isinstance(found, Raised)
        assert "keeps tensors that a traced graph knows nothing of" in found.text


def steps_of_decoding(ring):
    torch._dynamo.reset()
    torch.manual_seed(1)  # alike on all ranks

    def step(q, k_cache, v_cache, k, v, length):
        return ring_attn_with_kvcache(
            q, k_cache, v_cache, k, v, cache_seqlens=length, causal=True, block=4,
            group=ring.group, backend="reference", return_softmax_lse=True,
        )  # fmt: skip

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    caches = [torch.zeros(1, 16, 2, 16) for _ in range(4)]
    alike = []
    for length in range(5):
        new = [torch.randn(1, 1, 2, 16) for _ in range(3)]
        ours = compiled(new[0], *caches[:2], *new[1:], length)
        theirs = step(new[0], *caches[2:], *new[1:], length)
        alike.append(all(map(torch.equal, ours, theirs)))
    return all(alike) and all(map(torch.equal, caches[:2], caches[2:]))


def test_a_dealt_cache_is_stepped_over_in_a_graph(ranks):
    assert all(ranks.run(steps_of_decoding, world_size=2))
