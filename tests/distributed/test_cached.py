"""A cache that is dealt to ranks is a cache: the same results on every rank, prompt and steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ring_attn_bench import flash_attn_with_kvcache, ring_attn_with_kvcache
from ring_attn_bench.plan.cached import Dealt, merging_bytes
from tests.distributed.pool import Raised, RankPool, Ring

BATCH, ROOM, HEADS, KEY_HEADS, DIM = 2, 24, 4, 2, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotary(places: int) -> dict[str, Tensor]:
    angles = torch.arange(places)[:, None] / 10.0 ** torch.arange(4.0)
    return {"rotary_cos": angles.cos().double(), "rotary_sin": angles.sin().double()}


OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"causal": True},
    "all": {},
    "window": {"window_size": (7, 0)},
    "softcap and scale": {"causal": True, "softcap": 1.5, "softmax_scale": -0.3},
    "ALiBi": {"causal": True, "alibi_slopes": 0.5 ** torch.arange(1.0, 1 + HEADS)},
    "sink": {"causal": True, "sink": torch.tensor([0.5, -math.inf, 3.0, -2.0]).double()},
    "rotary": {"causal": True, **rotary(4 * ROOM)},
}


def serves(ring: Ring, name: str, paged: bool, block: int) -> float:
    """A prompt in two chunks, then steps: the largest difference from a cache of one device."""
    options = OPTIONS[name] | {"return_softmax_lse": True, "backend": "reference"}
    total = ROOM * ring.world_size
    whole = [random(BATCH, total, KEY_HEADS, DIM, seed=9).fill_(math.nan) for _ in range(2)]
    own = [x[:, :ROOM].clone() for x in whole]
    where: dict[str, Any] = {}
    if paged:
        own = [x.reshape(-1, 3, KEY_HEADS, DIM) for x in own]
        table = torch.randperm(len(own[0]), generator=torch.Generator().manual_seed(ring.rank))
        where = {"block_table": table.view(BATCH, -1).int()}
    # the second entry begins with three tokens that nobody has written
    worst, at = 0.0, torch.tensor([0, 3], dtype=torch.int32)
    where["cache_leftpad"] = options["cache_leftpad"] = at
    for step, tokens in enumerate((10, 8, 1, 1, 1)):
        q = random(BATCH, tokens, HEADS, DIM, seed=step)
        new = [random(BATCH, tokens, KEY_HEADS, DIM, seed=50 + 2 * step + i) for i in range(2)]
        right = flash_attn_with_kvcache(q, *whole, *new, cache_seqlens=at, **options)
        found = ring_attn_with_kvcache(
            q, *own, *new, cache_seqlens=at, block=block, group=ring.group, **options | where
        )
        for x, y in zip(found, right, strict=True):
            assert x.dtype is torch.float64
            worst = max(worst, (x - y).abs().max().item())
        at = at + tokens
    return worst


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_prompt_in_chunks_and_steps_are_those_of_one_device(
    ranks: RankPool, name: str, paged: bool
) -> None:
    for world_size, block in ((1, 8), (3, 4)):
        answers = ranks.run(serves, name, paged, block, world_size=world_size)
        assert max(answers) < 1e-12


def padded(ring: Ring) -> float:
    total = ROOM * ring.world_size
    q, k, v = (
        random(BATCH, 1, HEADS, DIM),
        *(random(BATCH, total, KEY_HEADS, DIM, seed=s) for s in (1, 2)),
    )
    dealt = Dealt(4, ring.world_size, ring.rank)
    mine = [t for t in range(total) if t // 4 % dealt.ranks == dealt.rank]
    told = {
        "cache_seqlens": torch.tensor([total, 40], dtype=torch.int32),
        "cache_leftpad": torch.tensor([13, 0], dtype=torch.int32),
    }
    out = ring_attn_with_kvcache(q, k[:, mine], v[:, mine], **told, block=4, group=ring.group)
    right = flash_attn_with_kvcache(q, k, v, **told)
    assert isinstance(out, Tensor)
    return (out - right).abs().max().item()


def test_left_padding_counts_tokens_of_the_whole_sequence(ranks: RankPool) -> None:
    assert max(ranks.run(padded, world_size=3)) < 1e-12


def asks_nothing(ring: Ring) -> tuple[int, ...]:
    """Appends two tokens and has no query."""
    q, new = random(BATCH, 0, HEADS, DIM), random(BATCH, 2, KEY_HEADS, DIM)
    k, v = (torch.zeros(BATCH, ROOM, KEY_HEADS, DIM, dtype=torch.float64) for _ in range(2))
    out = ring_attn_with_kvcache(q, k, v, new, new, cache_seqlens=3, block=4, group=ring.group)
    assert isinstance(out, Tensor)
    assert out.shape == q.shape
    return tuple(int(at) for at in k[0, :, 0, 0].nonzero())


def test_no_query_has_no_result_and_each_rank_keeps_what_is_dealt_to_it(ranks: RankPool) -> None:
    assert ranks.run(asks_nothing, world_size=2) == [(3,), (0,)]


def plain(ring: Ring, **changed: Any) -> object:
    q, k, v = random(BATCH, 1, HEADS, DIM), *[random(BATCH, ROOM, KEY_HEADS, DIM)] * 2
    given = {"cache_seqlens": 5, "block": 4, "group": ring.group} | changed
    return ring_attn_with_kvcache(given.pop("q", q), k, v, **given)


ODD: dict[str, Callable[[Ring], object]] = {
    "batch size": lambda ring: ring_attn_with_kvcache(
        random(1, 1, HEADS, DIM), *[random(1, ROOM, KEY_HEADS, DIM)] * 2, cache_seqlens=5, block=4,
        group=ring.group,
    ),
    "cache_seqlens": lambda ring: plain(ring, cache_seqlens=6),
    "block": lambda ring: plain(ring, block=8),
    "mask": lambda ring: plain(ring, causal=True),
    "cache_leftpad": lambda ring: plain(
        ring, cache_leftpad=torch.ones(BATCH, dtype=torch.int32)
    ),
    "without a sink": lambda ring: plain(ring),
}  # fmt: skip
REFUSED: dict[str, Callable[[Ring], object]] = {
    "block is 0": lambda ring: plain(ring, block=0),
    "multiple of it": lambda ring: plain(ring, block=7),
    "allowed are 0 to 48": lambda ring: plain(ring, cache_seqlens=49),
    "return_softmax_lse is 3": lambda ring: plain(ring, return_softmax_lse=3),
    "q must be a tensor": lambda ring: plain(ring, q=None),
    "forward only": lambda ring: plain(ring, q=random(BATCH, 1, HEADS, DIM).requires_grad_()),
}


def differs(ring: Ring, name: str) -> object:
    if ring.rank == 1:
        return ODD[name](ring)
    return plain(ring, **({"sink": torch.zeros(HEADS)} if "sink" in name else {}))


def refuses(ring: Ring, sentence: str) -> object:
    return (REFUSED[sentence] if ring.rank == 1 else plain)(ring)


@pytest.mark.parametrize("name", ODD)
def test_ranks_that_make_other_calls_are_told_so_all_of_them(ranks: RankPool, name: str) -> None:
    for answer in ranks.outcomes(differs, name, world_size=2):
        assert isinstance(answer, Raised)
        assert name in answer.text


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_rank_that_refuses_its_arguments_tells_the_others(ranks: RankPool, sentence: str) -> None:
    first, second = ranks.outcomes(refuses, sentence, world_size=2)
    assert isinstance(first, Raised)
    assert isinstance(second, Raised)
    assert "rank 1 of the ring refused its arguments" in first.text
    assert sentence in second.text


def test_what_a_step_receives_does_not_grow_with_the_cache() -> None:
    assert merging_bytes(batch=8, queries=1, heads=32, head_dim_v=128, ranks=2) == 4 * 8 * 32 * 129
