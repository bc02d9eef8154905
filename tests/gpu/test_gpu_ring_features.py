"""Rings of real GPUs over NCCL: windows, ALiBi and dropout by position, on every partition.

One set of ranks for all cases: starting them takes 20 s, a case that compiles nothing one second.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ring_attn_bench.contract.dropout import keep
from tests.distributed import dropped
from tests.distributed.pool import RankPool
from tests.distributed.truth import PREFIXES, SEED, Case, attend, faults

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),
]

LIMIT = 200.0  # of a call: every rank compiles what is new in it
FEATURES = {
    "window": {"window": (300, 0)},
    "ALiBi": {"alibi": True},
    "window and ALiBi": {"window": (300, 0), "alibi": True},
    "a window longer than a chunk, ALiBi, softcap": {
        "window": (1700, 0), "alibi": True, "softcap": 5.0
    },
    "window on both sides": {"window": (900, 200), "causal": False},
    "ALiBi, nothing masked": {"alibi": True, "causal": False},
    "softcap": {"softcap": 5.0},
    "dropout, window and ALiBi": {"dropout_p": 0.17, "window": (1300, 0), "alibi": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def ranks():
    pool = RankPool(4 if torch.cuda.device_count() >= 4 else 2, "nccl")
    yield pool
    pool.close()


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
@pytest.mark.parametrize(
    ("partition", "dim"), [("zigzag", 128), ("striped", 128), ("contiguous", 128), ("zigzag", 64)]
)
def test_a_ring_with_features_is_right(ranks, partition, features, dim):
    case = Case(
        ranks.size, partition, 1024, heads=4, key_heads=2, dim=dim, dtype=torch.bfloat16,
        backend="triton", device="cuda", slope=1 / 64, **features,
    )  # fmt: skip
    assert faults(case, ranks.run(attend, case, limit=LIMIT)) == []


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_a_ring_drops_what_one_gpu_drops_bit_for_bit(ranks, causal):
    tokens = 256 * ranks.size
    alone = Case(
        1, tokens=tokens, batch=2, dim=128, dtype=torch.bfloat16, dropout_p=0.4, causal=causal,
        backend="triton", device="cuda",
    )  # fmt: skip
    at = torch.arange(tokens)
    right = keep(SEED, 0.4, 2, 2, at, at) & ((at[:, None] >= at) | (not causal))
    by_one = dropped.as_weights(dropped.read(None, alone))
    for direction, found in by_one.items():
        assert torch.equal(found, right), direction
    for partition in PREFIXES:
        case = replace(alone, world_size=ranks.size, tokens=256, partition=partition)
        by_ring = dropped.joined(case, ranks.run(dropped.read, case, limit=LIMIT))
        for direction, found in by_ring.items():
            assert torch.equal(found, by_one[direction]), (partition, direction)
