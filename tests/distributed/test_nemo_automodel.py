"""A model of Hugging Face's on a ring, its batches dealt as NeMo Automodel asks for it.

Automodel is not installed: what the adapter takes of it is stood in for, with the words of 0.5.0.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from ring_attn_bench import InvalidArgument, position_ids, shard
from tests.distributed.pool import Raised
from tests.tiny_models import assert_as_near, attending, made

pytest.importorskip("transformers", reason="transformers is not installed: the extra `hf` has it")

TOKENS = 13
"""Of a row, which are padded to 16 for 2 and for 4 ranks."""
BEHIND = 4
"""Of them padding, in the second row."""
SHARDER = "nemo_automodel.components.distributed.context_parallel.sharder"


@dataclass(frozen=True)
class ShardLayout:
    """Automodel's, as far as it is filled in."""

    original_seq_len: int
    padded_seq_len: int


class ContextParallelSharder:
    """Automodel's, as far as a model's own one goes."""

    def __init__(self, *, shard_batch, local_token_global_indices):
        self.shard_batch = shard_batch
        self.local_token_global_indices = local_token_global_indices
        self.shard_layout: Any = None

    def shard(self, cp_mesh, batch, **options):
        context, batch, self.shard_layout = self.shard_batch(cp_mesh, None, batch, **options)
        return context, batch


def installed():
    """Puts the stand-ins where Automodel has its own, in this process."""
    names = SHARDER.split(".")
    for end in range(1, len(names) + 1):
        sys.modules.setdefault(".".join(names[:end]), ModuleType(names[end - 1]))
    sys.modules[SHARDER].ShardLayout = ShardLayout
    sys.modules[SHARDER].ContextParallelSharder = ContextParallelSharder


def rows():
    """input_ids, labels that are shifted, and an attention mask with padding on the right."""
    text = torch.randint(3, 64, (2, TOKENS + 1), generator=torch.Generator().manual_seed(6))
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, -BEHIND:] = 0
    return {
        "input_ids": text[:, :-1], "attention_mask": mask,
        "labels": text[:, 1:].masked_fill(mask == 0, -100),
    }  # fmt: skip


def results(model, labels, **given):
    """The sum of the losses of these labels, and its gradients."""
    logits = model(**given, use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


def axis(ring):
    return DeviceMesh.from_group(ring.group or dist.group.WORLD, "cpu", mesh_dim_names=("cp",))


def owned(ring, partition="zigzag"):
    """The model on a ring, and the sharder that Automodel would be given."""
    from ring_attn_bench.integrations.nemo_automodel import own_context_parallel

    installed()
    model = made("llama")
    own_context_parallel(model, axis(ring), partition=partition, backend="reference")
    return model, model.prepare_model_inputs_for_cp(rows(), num_chunks=1)["cp_sharder"]


def trained(ring, partition):
    """Raises where loss or gradients are farther from the truth than plain torch's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers'
        plain, truth = (
            results(attending(made("llama"), "eager", dtype), **rows())
            for dtype in (torch.float32, torch.float64)
        )
        model, sharder = owned(ring, partition)
        context, batch = sharder.shard(axis(ring), rows(), padding_token_id=1)
        with context():
            found = results(model, **batch)
    for x in found:
        dist.all_reduce(x, group=ring.group)
    assert_as_near(found, plain, truth)
    return sharder.shard_layout


@pytest.mark.parametrize(("partition", "world_size"), [("zigzag", 2), ("striped", 4)])
def test_loss_and_gradients_are_as_near_the_truth_as_one_processs(ranks, partition, world_size):
    layouts = ranks.run(trained, partition, world_size=world_size, limit=120)
    assert layouts == [ShardLayout(TOKENS, 16)] * world_size


def dealt(ring):
    """What is dealt beside ids: masks of Automodel's, and where tokens stand."""
    _, sharder = owned(ring)
    real = torch.arange(2 * TOKENS).view(2, TOKENS) + 1
    given = {"input_ids": real, "padding_mask": real < 0, "mask_of_rows": torch.ones(2)}
    _, batch = sharder.shard(axis(ring), given, loss_mask=real)
    where = ring.rank, ring.world_size, "zigzag"
    positions = sharder.local_token_global_indices(axis(ring), 16, torch.device("cpu"))
    padded = functional.pad(real, (0, 3))
    return (
        torch.equal(positions, position_ids(16, *where)),
        torch.equal(batch["position_ids"], positions.expand(2, -1)),
        torch.equal(batch["loss_mask"], shard(padded, *where)),
        torch.equal(batch["padding_mask"], shard(padded == 0, *where)),
        torch.equal(batch["mask_of_rows"], torch.ones(2)),
        set(given) == {"input_ids", "padding_mask", "mask_of_rows"},
    )


def test_masks_are_padded_and_dealt_with_the_tokens(ranks):
    assert ranks.run(dealt, world_size=2, limit=60) == [(True,) * 6] * 2


def refused(ring, how):
    model, sharder = owned(ring)
    if how == "own attention":
        from transformers import BloomConfig, BloomForCausalLM

        from ring_attn_bench.integrations.nemo_automodel import own_context_parallel

        bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4))
        own_context_parallel(bloom, axis(ring))
    batch = rows()
    mask = batch["attention_mask"].flip(1)
    positions = torch.arange(TOKENS).expand(2, -1) % 5
    if how == "packed":
        model.prepare_model_inputs_for_cp({"qkv_format": "thd"})
    more = {
        "left": {"attention_mask": mask}, "4 dims": {"attention_mask": mask[:, None, None]},
        "several": {"position_ids": positions}, "unknown": {"token_types": batch["labels"]},
    }  # fmt: skip
    sharder.shard(axis(ring), batch | more[how])


SENTENCES = [
    ("own attention", "BloomForCausalLM does not ask transformers for its attention"),
    ("packed", "the batch is packed"),
    ("left", "attention_mask is more than padding behind"),
    ("4 dims", "attention_mask is more than padding behind"),
    ("several", "position_ids do not count each row's tokens from 0"),
    ("unknown", "token_types has 13 tokens in dim 1, and nobody says"),
]


@pytest.mark.parametrize(("how", "sentence"), SENTENCES)
def test_what_is_not_dealt_is_a_sentence(ranks, how, sentence):
    for found in ranks.outcomes(refused, how, world_size=2, limit=60):
        assert isinstance(found, Raised)
        assert InvalidArgument.__name__ in found.kinds
        assert sentence in found.text
