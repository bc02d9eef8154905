"""A model that calls its attention as torchtitan's do, on a ring against one process in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.experimental import _attention
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ring_attn_bench import InvalidArgument, UnknownName, shard
from ring_attn_bench.integrations.torchtitan import (
    apply_cp_to_forward,
    prepare_context_parallel_input,
)
from tests.tiny_models import assert_as_near

HEADS, KEY_HEADS, DIM, TOKENS, WORDS = 4, 2, 8, 32, 24
WIDTH = HEADS * DIM


class InnerAttention(nn.Module):
    """Of v0.2.2 (tokens in dim 2) or of main in the summer of 2026 (in dim 1)."""

    def __init__(self, seq_dim):
        super().__init__()
        self.seq_dim = seq_dim

    def forward(self, q, k, v, *, attention_masks=None, scale=None, enable_gqa=False,
                is_causal=True):  # fmt: skip
        assert attention_masks is None
        heads_first = [x.transpose(1, 3 - self.seq_dim) for x in (q, k, v)]
        out = functional.scaled_dot_product_attention(
            *heads_first, scale=scale, is_causal=is_causal, enable_gqa=enable_gqa
        )
        return out.transpose(1, 3 - self.seq_dim)


def turned(x, angles):
    """Rotary embeddings, of one frequency."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class Block(nn.Module):
    def __init__(self, seq_dim):
        super().__init__()
        self.wq = nn.Linear(WIDTH, WIDTH, bias=False)
        self.wk, self.wv = (nn.Linear(WIDTH, KEY_HEADS * DIM, bias=False) for _ in range(2))
        self.wo = nn.Linear(WIDTH, WIDTH, bias=False)
        self.inner_attention = InnerAttention(seq_dim)
        self.seq_dim = seq_dim

    def forward(self, x, positions):
        q, k, v = self.wq(x), self.wk(x), self.wv(x)
        q, k, v = (heads.unflatten(2, (-1, DIM)) for heads in (q, k, v))
        angles = positions[..., None, None]
        q, k = turned(q, angles), turned(k, angles)
        heads = [t.transpose(1, self.seq_dim) for t in (q, k, v)]
        out = self.inner_attention(*heads, attention_masks=None, scale=0.3, enable_gqa=True)
        return x + self.wo(out.transpose(1, self.seq_dim).flatten(2))


class Model(nn.Module):
    def __init__(self, seq_dim):
        super().__init__()
        torch.manual_seed(3)
        self.tok_embeddings = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleDict({str(i): Block(seq_dim) for i in range(2)})
        self.output = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens, positions, checkpoints=False):
        x = self.tok_embeddings(tokens)
        for block in self.layers.values():
            x = (
                checkpoint(block, x, positions, use_reentrant=False)
                if checkpoints else block(x, positions)
            )  # fmt: skip
        return self.output(x)

    def attentions(self):
        return [block.inner_attention for block in self.layers.values()]


def batch():
    text = torch.randint(WORDS, (2, TOKENS + 1), generator=torch.Generator().manual_seed(4))
    return text[:, :-1], text[:, 1:]


def results(model, tokens, labels, positions, how="plain"):
    """The part of these labels in the mean loss, and its gradients."""
    call = model
    if how == "compiled":
        call = torch.compile(model, fullgraph=True, backend="aot_eager")
    positions = positions.to(model.output.weight.dtype)
    logits = call(tokens, positions, checkpoints=how == "checkpointed")
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss = loss / (2 * TOKENS)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def alone(seq_dim, dtype):
    positions = torch.arange(TOKENS).expand(2, TOKENS)
    return results(Model(seq_dim).to(dtype), *batch(), positions)


def axis(ring):
    return DeviceMesh.from_group(ring.group or dist.group.WORLD, "cpu", mesh_dim_names=("cp",))


def on_a_ring(ring, seq_dim, partition, how):
    """Raises where loss or gradients are farther from the truth than plain torch's."""
    torch._dynamo.reset()
    mesh, model = axis(ring), Model(seq_dim)
    apply_cp_to_forward(
        model.attentions(), mesh, seq_dim=seq_dim, partition=partition, backend="reference"
    )
    tokens, labels, others = prepare_context_parallel_input(*batch(), {}, mesh, partition=partition)
    found = results(copy.deepcopy(model), tokens, labels, others["positions"], how)
    for x in found:
        dist.all_reduce(x, group=ring.group)
    assert_as_near(found, alone(seq_dim, torch.float32), alone(seq_dim, torch.float64))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("seq_dim", [1, 2])
def test_loss_and_gradients_are_as_near_the_truth_as_one_processs(ranks, seq_dim, world_size):
    ranks.run(on_a_ring, seq_dim, "zigzag", "plain", world_size=world_size, limit=60)


@pytest.mark.parametrize("partition", ["contiguous", "striped"])
def test_so_they_are_by_any_partition(ranks, partition):
    ranks.run(on_a_ring, 2, partition, "plain", world_size=2, limit=60)


@pytest.mark.parametrize("how", ["checkpointed", "compiled"])
def test_checkpoints_and_compile_may_be_around_blocks(ranks, how):
    ranks.run(on_a_ring, 2, "zigzag", how, world_size=2, limit=120)


def dealt_by_torch(ring, balanced):
    """Whether what torchtitan's own trainer deals is what the partition deals."""
    mesh, tokens = axis(ring), torch.arange(2 * TOKENS).view(2, TOKENS)
    balancer = _attention._HeadTailLoadBalancer(TOKENS, mesh.size(), "cpu") if balanced else None
    (theirs,) = _attention._context_parallel_shard(mesh, (tokens,), (1,), balancer)
    partition = "zigzag" if balanced else "contiguous"
    return torch.equal(theirs, shard(tokens, ring.rank, ring.world_size, partition))


@pytest.mark.parametrize("balanced", [True, False], ids=["headtail", "none"])
def test_headtail_is_zigzag_and_no_load_balancer_contiguous(ranks, balanced):
    assert ranks.run(dealt_by_torch, balanced, world_size=4, limit=60) == [True] * 4


def refused(ring):
    mesh, model = axis(ring), Model(2)
    with pytest.raises(InvalidArgument, match="seq_dim is 3; it must be 2"):
        apply_cp_to_forward(model.attentions(), mesh, seq_dim=3)
    with pytest.raises(UnknownName, match="zigzag"):
        apply_cp_to_forward(model.attentions(), mesh, seq_dim=2, partition="headtail")
    apply_cp_to_forward(model.attentions(), mesh, seq_dim=2, backend="reference")
    x = torch.randn(1, HEADS, 8, DIM)
    with pytest.raises(InvalidArgument, match="block_mask is given, and a ring knows causality"):
        model.attentions()[0](x, x, x, block_mask=object())
    given = DTensor.from_local(x, mesh, [Shard(2)], run_check=False)
    with pytest.raises(InvalidArgument, match="q, k or v is a DTensor"):
        model.attentions()[0](given, given, given)
    with pytest.raises(InvalidArgument, match="attention_masks are given"):
        prepare_context_parallel_input(*batch(), {"attention_masks": object()}, mesh)


def test_masks_dtensors_and_other_layouts_are_sentences(ranks):
    ranks.run(refused, world_size=2, limit=60)


def repeated(ring):
    given = torch.arange(2 * TOKENS).view(2, TOKENS)
    mesh = axis(ring)
    *_, others = prepare_context_parallel_input(*batch(), {"positions": given, "x": 1}, mesh)
    wanted = shard(given, ring.rank, ring.world_size, "zigzag")
    return others["x"] == 1 and torch.equal(others["positions"], wanted)


def test_positions_that_are_given_are_dealt_as_they_are(ranks):
    assert ranks.run(repeated, world_size=2) == [True, True]
