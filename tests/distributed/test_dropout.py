"""Dropout in a ring: what a seed drops is the same on any number of ranks, however it is dealt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ring_attn_bench.contract.dropout import keep
from tests.distributed import dropped
from tests.distributed.truth import PREFIXES, SEED, Case, attend, faults

WHOLE = Case(1, tokens=24, dim=16, dropout_p=0.4, batch=2)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("partition", PREFIXES)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_ring_drops_what_one_device_drops_bit_for_bit(ranks, world_size, partition, causal):
    alone = replace(WHOLE, causal=causal)
    case = replace(alone, world_size=world_size, tokens=24 // world_size, partition=partition)
    at = torch.arange(24)
    right = keep(SEED, 0.4, 2, 2, at, at) & ((at[:, None] >= at) | (not causal))

    by_one = dropped.as_weights(dropped.read(None, alone))
    by_ring = dropped.joined(case, ranks.run(dropped.read, case, world_size=world_size))

    for direction in ("forward", "backward"):
        assert torch.equal(by_one[direction], right)
        assert torch.equal(by_ring[direction], right)


@pytest.mark.parametrize("partition", PREFIXES)
@pytest.mark.parametrize(
    "change",
    [{}, {"causal": False}, {"window": (11, -1), "alibi": True}, {"key_heads": 1, "softcap": 1.5}],
    ids=str,
)
def test_results_and_gradients_with_dropout_are_right(ranks, partition, change):
    for world_size in (1, 4):
        for dtype in (torch.float64, torch.bfloat16):
            case = Case(
                world_size, partition, 24 // world_size, dtype=dtype, dropout_p=0.3, **change
            )
            assert faults(case, ranks.run(attend, case, world_size=world_size)) == [], case
