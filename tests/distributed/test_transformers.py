"""Hugging Face's models on a ring against their own on the whole sequence, in float64."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist

from ring_attn_bench import position_ids, shard
from tests.distributed.pool import Raised
from tests.tiny_models import KINDS, assert_as_near, attending, differentiated, made

pytest.importorskip("transformers", reason="transformers is not installed: the extra `hf` has it")

TOKENS = 16
"""Of the whole sequence, three windows long."""


def registered(ring, partition):
    from ring_attn_bench.integrations.transformers import register

    return register(f"ring of {ring.world_size}", backend="reference", partition=partition,
                    group=ring.group)  # fmt: skip


def whole():
    seeded = torch.Generator().manual_seed(8)
    ids = torch.randint(3, 64, (2, TOKENS), generator=seeded)
    return ids, torch.randn(2, TOKENS, 64, generator=seeded)


def on_a_ring(ring, kind, partition):
    """Raises where logits or gradients are farther from the truth than plain torch's."""
    where = ring.rank, ring.world_size, partition
    ids, weights = whole()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers'
        model = made(kind)
        plain, truth = (
            differentiated(attending(model, "eager", dtype), weights.to(dtype), input_ids=ids)
            for dtype in (torch.float32, torch.float64)
        )
        logits, *gradients = differentiated(
            attending(model, registered(ring, partition), torch.float32),
            shard(weights, *where), input_ids=shard(ids, *where),
            position_ids=position_ids(TOKENS, *where)[None],
        )  # fmt: skip
    for gradient in gradients:
        dist.all_reduce(gradient, group=ring.group)
    for one in (plain, truth):
        one[0] = shard(one[0], *where)
    assert_as_near([logits, *gradients], plain, truth)


CASES = [
    *((kind, "zigzag", 4) for kind in KINDS),
    *((kind, "zigzag", 2) for kind in ("qwen", "gpt_oss")),
    ("gemma", "striped", 2),
    ("gpt_oss", "contiguous", 4),
]


@pytest.mark.parametrize(("kind", "partition", "world_size"), CASES)
def test_logits_and_gradients_on_a_ring_are_as_near_the_truth_as_eager_ones(
    ranks, kind, partition, world_size
):
    ranks.run(on_a_ring, kind, partition, world_size=world_size, limit=120)


def refused(ring, how):
    where = ring.rank, ring.world_size, "zigzag"
    ids = shard(whole()[0], *where)
    right = position_ids(TOKENS, *where)[None]
    given = {
        "other positions": {"position_ids": torch.arange(ids.shape[1])[None] + 1},
        "no positions": {},  # of a model that hands none to its attention unless it is given some
        "padding on one rank": {
            "position_ids": right,
            "attention_mask": torch.tensor([[1] * 7 + [int(ring.rank == 0)]] * 2),
        },
        "padding": {"position_ids": right, "attention_mask": torch.tensor([[0, *[1] * 7]] * 2)},
    }[how]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = "bert" if how == "no positions" else "llama"
        model = attending(made(kind), registered(ring, "zigzag"), torch.float32)
        model(ids, **given, use_cache=False)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("other positions", "position_ids are not those of rank"),
        ("no positions", "the attention was given no position_ids"),
        ("padding", "padding and packed sequences are not dealt to ranks"),
    ],
)
def test_what_is_not_dealt_is_a_sentence(ranks, how, sentence):
    for found in ranks.outcomes(refused, how, world_size=2, limit=60):
        assert isinstance(found, Raised)
        assert sentence in found.text


def test_padding_on_one_rank_is_told_to_the_other(ranks):
    waited, refusing = ranks.outcomes(refused, "padding on one rank", world_size=2, limit=20)
    assert isinstance(waited, Raised)
    assert "rank 1" in waited.text
    assert isinstance(refusing, Raised)
    assert "padding and packed sequences are not dealt to ranks" in refusing.text
