"""Packed documents on rings inside torch.compile(fullgraph=True): the bits of the calls outside."""

from __future__ import annotations

import pickle

import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import ring_attn_bench
from ring_attn_bench import RingContext, documents, ring_attn_varlen_func, shard_documents
from tests.distributed.pool import Raised

WHOLE = 16
"""Tokens of a packed sequence, padding included."""
STARTS = ([0, 3, 16], [0, 16], [0, 3, 3, 5, 14], [0, 1, 2, 3, 4, 16])


def shard(tokens=WHOLE // 2):
    return [torch.randn(tokens, 2, 16).requires_grad_() for _ in range(3)]


def both(call, tensors, *told):
    """Results and gradients, of numbers that are not alike; what is -inf has none."""
    torch.manual_seed(7)
    found = call(*tensors, *told)
    outs = [x for x in (found if isinstance(found, tuple) else (found,)) if x is not None]
    loss = sum(x[x.isfinite()].square().sum() for x in outs)
    return [*outs, *torch.autograd.grad(loss, tensors)]


def same(compiled, call, tensors, *told):
    pairs = zip(both(compiled, tensors, *told), both(call, tensors, *told), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def counted(call, backend="aot_eager"):
    torch._dynamo.reset()
    counts = CompileCounterWithBackend(backend)
    return torch.compile(call, fullgraph=True, backend=counts), counts


def new_starts(ring):
    def call(q, k, v, sink, starts):
        return ring_attn_varlen_func(
            q * 1.5, k, v, starts, partition="zigzag", causal=True, sink=sink, group=ring.group,
            backend="reference", return_attn_probs=True,
        )  # fmt: skip

    compiled, counts = counted(call)
    sink = torch.tensor([0.5, -1.0]).requires_grad_()
    alike = [same(compiled, call, [*shard(), sink], torch.tensor(starts)) for starts in STARTS]
    return alike, counts.frame_count


def test_new_starts_compile_nothing_beyond_the_second(ranks):
    # of two, as everywhere here: each rank that compiles takes five seconds more to begin
    assert ranks.run(new_starts, world_size=2, limit=120) == [([True] * len(STARTS), 2)] * 2


def batches():
    """Values of every kind, of as many tokens a rank; one came from a loader's process."""
    return [
        documents([0, 16], "zigzag", 2),
        documents([0, 3, 14], "balanced", 2, WHOLE),
        documents([0, 3, 5, 9, 16], "head_tail", 2, seqused=[3, 1, 4, 2]),
        pickle.loads(pickle.dumps(documents([0, 0, 5, 16], "striped", 2))),
    ]


def held(batch, ring):
    """A rank's tensors, NaN where padding is behind the documents."""
    made = []
    for _ in range(3):
        x = torch.randn(WHOLE, 2, 16)
        x[batch.starts[-1] :] = float("nan")
        x = x[: batch.starts[-1]] if batch.uneven else x
        made.append(shard_documents(x, batch, ring.rank).requires_grad_())
    return made


def new_values(ring):
    def call(q, k, v, batch):
        return ring_attn_varlen_func(
            q.clone(), k, v, batch, window_size=(5, 0), group=ring.group, backend="reference"
        )

    compiled, counts = counted(call)
    alike = [same(compiled, call, held(batch, ring), batch) for batch in batches()]
    alike.append(counts.frame_count == 2)
    for starts in ([0, 4, 11], [0, 1]):  # of the latter a rank has nothing
        uneven = documents(starts, "zigzag", 2, uneven=True)
        alike.append(same(compiled, call, held(uneven, ring), uneven))
    return alike


def test_values_are_inputs_of_a_graph_and_new_ones_compile_nothing_beyond_the_second(ranks):
    for found in ranks.run(new_values, world_size=2, limit=120):
        assert found == [True] * 7


def other_calls(ring):
    """By name; each with what it is told."""
    module, tail = ring_attn_bench, {"causal": True, "group": ring.group, "backend": "reference"}
    starts = torch.tensor([0, 2, 8])
    prepare = module.llama3_flash_attn_prepare_cu_seqlens
    *prepared, keys = prepare(torch.tensor([0, 5, 16], dtype=torch.int32), True, ring.rank, 2)
    return {
        "zigzag, dropout": lambda q, k, v: module.zigzag_ring_flash_attn_varlen_func(
            q, k, v, starts, 6, dropout_p=0.3, **tail
        ),
        "kv": lambda q, k, v: module.ring_flash_attn_varlen_kvpacked_func(
            q, torch.stack([k, v], 1), starts, 6, **tail
        ),
        "llama3, qkv": lambda q, k, v: module.llama3_flash_attn_varlen_qkvpacked_func(
            torch.stack([q, k, v], 1), *prepared, 1, keys, **tail
        ),
        "queries, and starts in lists": lambda q, k, v: ring_attn_varlen_func(
            q[:4], k, v, [0, 9, 16], queries=[0, 2, 8], partition="contiguous", **tail
        ),
    }


def other_bits(ring):
    found = {}
    for name, call in other_calls(ring).items():
        compiled, _ = counted(call, "eager")
        found[name] = same(compiled, call, shard())
    return found


def test_ring_flash_attentions_varlen_names_and_queries_of_their_own(ranks):
    for found in ranks.run(other_bits, world_size=2, limit=120):
        assert list(found.values()) == [True] * 4, found


def unused_and_checkpointed(ring):
    """Whether the bits are the same, and how many passes each way took of the ring."""
    context = RingContext(ring.group)

    def attend(q, k, v, starts):
        return ring_attn_varlen_func(
            q, k, v, starts, partition="striped", context=context, backend="reference"
        )

    def call(q, k, v, starts):
        with torch.no_grad():
            other = attend(q * 2, k, v, starts)
        out = checkpoint(attend, q, k, v, starts, use_reentrant=False)
        return out if ring.rank else out + other

    starts, tensors, passes = torch.tensor([0, 3, 16]), shard(), []
    found = []
    for one in (counted(call)[0], call):
        before = context.next_number()
        found.append(both(one, tensors, starts))
        passes.append(context.next_number() - before - 1)
    return all(map(torch.equal, *found)), passes


def test_unused_calls_stay_and_a_checkpoint_in_the_graph_sends_nothing_again(ranks):
    found = ranks.run(unused_and_checkpointed, world_size=2, limit=120)
    assert found == [(True, [2, 3])] * 2


MISTAKES = {
    "beyond the tokens": ([0, 17], "end at 17, but the ranks hold 16 tokens"),
    "starts from 1": ([1, 16], "must rise from 0"),
    "other documents": ([0, 9], "another cu_seqlens or seqused than this rank"),
    "of another ring": (
        documents([0, 24], "zigzag", 3), "8 tokens on rank 1 of 3, but k has 8 on one of 2",
    ),
}  # fmt: skip


def mistaken(ring):
    """What this rank is told of mistakes on rank 1, each in a graph that was right before."""

    def call(q, k, v, starts):
        partition = "zigzag" if isinstance(starts, torch.Tensor) else None
        return ring_attn_varlen_func(q, k, v, starts, partition=partition, group=ring.group)

    compiled, _ = counted(call, "eager")
    right, found = torch.tensor([0, 16]), {}
    for name, (wrong, _) in MISTAKES.items():
        compiled(*shard(), right)
        told = torch.tensor(wrong) if isinstance(wrong, list) else wrong
        try:
            compiled(*shard(), told if ring.rank else right)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def test_a_mistake_on_one_rank_is_a_sentence_on_all_when_the_graph_runs(ranks):
    other, wrong = ranks.run(mistaken, world_size=2, limit=120)
    for name, (_, sentence) in MISTAKES.items():
        assert sentence in wrong[name]
        assert "rank 1 of the ring" in other[name] or sentence in other[name], other[name]


def without_gradients_on_one(ring):
    def call(q, k, v, starts):
        return ring_attn_varlen_func(q, k, v, starts, partition="striped", group=ring.group)

    tensors = shard() if ring.rank else [x.detach() for x in shard()]
    counted(call, "eager")[0](*tensors, torch.tensor([0, 5, 16]))


def test_gradients_on_one_rank_only_are_a_sentence_on_all(ranks):
    found = ranks.outcomes(without_gradients_on_one, world_size=2)
    assert all(isinstance(one, Raised) for one in found)
    assert "the graph that this one was compiled to has no backward" in found[0].text
    assert "rank 0 of the ring refused its arguments" in found[1].text
