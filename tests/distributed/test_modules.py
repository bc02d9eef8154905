"""RingAttention: the function's results, whatever torch does with modules."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from ring_attn_bench import InvalidArgument, RingAttention, RingContext, UnknownName
from ring_attn_bench import zigzag_ring_flash_attn_func as zigzag

HEADS, DIM = 2, 16


class Layer(nn.Module):
    """Projections around a ring beside x (batch, tokens, heads * dim)."""

    def __init__(self, attention):
        super().__init__()
        self.qkv = nn.Linear(HEADS * DIM, 3 * HEADS * DIM)
        self.attention = attention
        self.out = nn.Linear(HEADS * DIM, HEADS * DIM)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, DIM)).unbind(2)
        return x + self.out(self.attention(q, k, v).flatten(2))


def made(ring, **named):
    torch.manual_seed(1)  # the same parameters on all ranks
    named = {"causal": True, "backend": "reference", **named}
    return Layer(RingAttention("zigzag", ring.group, **named))


def shards(ring):
    torch.manual_seed(2 + ring.rank)
    return torch.randn(1, 8, HEADS * DIM)


def gradients(layer, x, call=None):
    layer.zero_grad()
    out = layer(x) if call is None else call(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in layer.parameters())]


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


def copies(ring):
    layer, x = made(ring), shards(ring)
    wanted = gradients(layer, x)
    twin = copy.deepcopy(layer)
    pickled = pickle.loads(pickle.dumps(layer))
    return (
        list(layer.state_dict()),
        twin.attention.context is layer.attention.context,
        pickled.attention.context is layer.attention.context,
        same(gradients(twin, x), wanted) and same(gradients(pickled, x), wanted),
        same([layer.attention(*[x.view(1, 8, HEADS, DIM)] * 3)],
             [zigzag(*[x.view(1, 8, HEADS, DIM)] * 3, causal=True, backend="reference",
                     group=ring.group)]),
    )  # fmt: skip


def test_a_copy_has_the_same_ring_and_a_pickled_one_its_own(ranks):
    names = ["qkv.weight", "qkv.bias", "out.weight", "out.bias"]
    assert ranks.run(copies, world_size=2) == [(names, True, False, True, True)] * 2


def wrapped(ring):
    """Which wrappers of torch's leave results and gradients as they are."""
    torch._dynamo.reset()
    layer, x = made(ring), shards(ring)
    wanted = gradients(layer, x)
    calls = {
        "checkpoint": lambda x: checkpoint(layer, x, use_reentrant=False),
        "reentrant": lambda x: checkpoint(layer, x.requires_grad_(), use_reentrant=True),
        "compile": torch.compile(layer, fullgraph=True, backend="aot_eager"),
    }
    return {name: same(gradients(layer, x.clone(), call), wanted) for name, call in calls.items()}


def test_checkpoints_of_both_kinds_and_compile_leave_results_as_they_are(ranks):
    wanted = {"checkpoint": True, "reentrant": True, "compile": True}
    assert ranks.run(wrapped, world_size=2) == [wanted] * 2


def dropping(ring):
    layer, x = made(ring, dropout_p=0.5), shards(ring)
    plain = made(ring)
    trained = torch.equal(layer(x), plain(x))
    return trained, torch.equal(layer.eval()(x), plain(x))


def test_dropout_is_for_training(ranks):
    assert ranks.run(dropping, world_size=2) == [(False, True)] * 2


def under_fsdp(ring):
    """The gradient of all ranks, by FSDP2 and by hand: how far they are from each other."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("cp",))
    torch.manual_seed(1)
    layer = Layer(RingAttention("zigzag", mesh["cp"], causal=True, backend="reference"))
    x = shards(ring)
    wanted = gradients(layer, x)[1:]
    for gradient in wanted:
        dist.all_reduce(gradient)
    sharded = fully_shard(copy.deepcopy(layer), mesh=mesh)
    sharded.zero_grad()
    sharded(x).square().sum().backward()
    found = [p.grad.full_tensor() * dist.get_world_size() for p in sharded.parameters()]
    return [
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(found, wanted, strict=True)
    ]


def test_parameters_may_be_sharded_by_fsdp_over_the_ring(ranks):
    for errors in ranks.run(under_fsdp, limit=60):
        assert max(errors) <= 4 * torch.finfo(torch.float32).eps


def mistaken(ring):
    context = RingContext(ring.group)
    with pytest.raises(InvalidArgument, match="a context is given beside a group"):
        RingAttention("zigzag", ring.group, context=context)
    with pytest.raises(UnknownName, match="zigzag"):
        RingAttention("zigzags", context=context)
    return repr(RingAttention("zigzag", context=context))


def test_mistakes_are_sentences_when_it_is_made(ranks):
    for text in ranks.run(mistaken, world_size=2):
        assert text == "RingAttention(zigzag, full, window_size=(-1, -1), backend='auto')"
