"""Cases over a cache: what suites may say of them, what they are called, what work they are."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.bench import flops
from ring_attn_bench.bench.cached.inputs import Tokens, dealt, draw, lay, room_of
from ring_attn_bench.bench.cached.runners import call_of, problem_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.contract.cache import Cache, is_latent
from ring_attn_bench.errors import SuiteError
from ring_attn_bench.records.cache_shape import BLOCK, CacheShape
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case

GRID = {
    "backends": ["reference"], "seqlen_per_gpu": [65], "heads": ["4:2"], "head_dim": [8],
    "dtype": ["float32"], "directions": ["forward"], "queries": [1],
}  # fmt: skip


def entries(ranks=1, **changes):
    suite = Suite.model_validate({"name": "cached", "grid": [{**GRID, **changes}]})
    return suite.entries(ranks, "real")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"directions": ["forward", "backward"]}, 'say directions = ["forward"]'),
        ({"queries": [1, "unset"]}, "make two grids"),
        ({"queries": ["unset"], "page": [16]}, "page is of a cache, and this grid has none"),
        ({"partitions": ["striped"]}, "partitions is of a ring"),
        ({"schedule": ["gather"]}, "schedule is of a ring"),
        ({"rotary": ["pairs"]}, "say append = [true]"),
        ({"latent": [True]}, "say how many in head_dim_v, as head_dim_v = [512]"),
        ({"latent": [True], "head_dim_v": [4, "unset"]}, "say how many in head_dim_v"),
        ({"latent": [True], "head_dim_v": [4], "append": [True]}, "nothing is appended to latent"),
        ({"queries": ["unset"], "latent": [True]}, "latent is of a cache, and this grid has none"),
        ({"queries": [0]}, "greater than 0"),
        ({"rotary": ["thirds"], "append": [True]}, "'pairs' or 'halves'"),
    ],
)
def test_what_is_not_of_a_cache_is_refused_in_a_sentence(changes, said):
    with pytest.raises(ValueError, match=said.replace("[", r"\[").replace("]", r"\]")):
        entries(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queries": [66]}, "queries is 66 and leftpad 0, of entries of 65 tokens"),
        ({"queries": [3], "leftpad": [63]}, "together they must be at most as many"),
        ({"latent": [True], "head_dim_v": [8]}, "first columns, and fewer than all"),
        ({"head_dim": [7], "append": [True], "rotary": ["pairs"]}, "it must be even"),
    ],
)
def test_what_no_entry_has_room_for_is_refused_where_it_is_dealt(changes, said):
    with pytest.raises(SuiteError, match=said):
        entries(**changes)


def test_a_cache_is_dealt_by_blocks_whatever_its_length_and_no_option_is_said_of_it():
    (alone,), (dealt_to_three,) = entries(), entries(ranks=3)

    assert alone.contestant.name == "reference/contiguous/p2p"
    assert dealt_to_three.contestant.name == "reference/blocks/p2p"
    assert dealt_to_three.case.seqlen_total == 3 * 65
    assert alone.directions == (Direction.FORWARD,)


def test_a_name_has_all_that_a_cache_is():
    found = entries(
        queries=[1, 4], page=["unset", 16], append=[True], rotary=["halves"], leftpad=[3],
        splits=[2], head_dim_v=[4],
    )  # fmt: skip

    base = "b1_s65_w1_h4-2_d8_float32_causal"
    assert [entry.case.name for entry in found] == [
        f"{base}_q{queries}{page}_rotary-halves_leftpad3_splits2_dv4_append"
        for queries, page in product((1, 4), ("", "_page16"))
    ]


def test_latent_keys_are_in_the_name_behind_the_columns_that_are_values():
    found = entries(head_dim_v=[4], latent=[False, True])

    base = "b1_s65_w1_h4-2_d8_float32_causal_q1_dv4"
    assert [entry.case.name for entry in found] == [base, f"{base}_latent"]
    assert found[1].case.cache.words == ("1 query over a cache", "head dim of v 4", "latent")


def case(queries, total, leftpad=0, causal=True, window=(-1, -1), **changes):
    shape = {"queries": queries, "leftpad": leftpad, **changes.pop("cache", {})}
    return Case(**{
        "batch": 2, "seqlen_total": total, "world_size": 1, "heads_q": 4, "heads_kv": 2,
        "head_dim": 8, "dtype": "float32", "causal": causal, "window": window,
        "cache": CacheShape(**shape), **changes,
    })  # fmt: skip


@given(data=st.data(), causal=st.booleans(), left=st.integers(-1, 9), right=st.integers(-1, 9))
def test_work_is_every_pair_that_is_seen_and_bytes_every_token_once(data, causal, left, right):
    queries = data.draw(st.integers(1, 6))
    leftpad = data.draw(st.integers(0, 5))
    total = data.draw(st.integers(queries + leftpad, queries + leftpad + 9))
    asked = case(queries, total, leftpad, causal, (left, right), cache={"head_dim_v": 4})
    pairs = [
        (i, j)
        for i, j in product(range(total - queries, total), range(leftpad, total))
        if (left < 0 or i - j <= left) and (right < 0 or j - i <= right) and (not causal or j <= i)
    ]

    assert flops.area(asked) == len(pairs)
    assert flops.flops(asked, Direction.FORWARD, 1) == 2 * 4 * (8 + 4) * 2
    seen = {j for _, j in pairs}
    assert flops.cache_bytes(asked, 2) == 2 * len(seen) * 2 * (8 + 4) * 2
    latent = asked.cache.model_copy(update={"latent": True})
    shared = asked.model_copy(update={"cache": latent})
    assert flops.cache_bytes(shared, 2) == 2 * len(seen) * 2 * 8 * 2
    assert flops.flops(shared, Direction.FORWARD, 1) == flops.flops(asked, Direction.FORWARD, 1)


@given(
    total=st.integers(1, 300), page=st.sampled_from([None, 1, 16, 24, 256]),
    ranks=st.integers(1, 3), append=st.booleans(), data=st.data(),
)  # fmt: skip
def test_every_token_lies_where_its_row_or_page_says_and_nan_everywhere_else(
    total, page, ranks, append, data
):
    queries = data.draw(st.integers(1, total))
    leftpad = data.draw(st.integers(0, total - queries))
    shape = {"page": page, "append": append}
    asked = case(queries, total, leftpad, world_size=ranks, head_dim=2, cache=shape)
    drawn = draw(asked, 0, torch.device("cpu"), uneven=True)
    numbered = torch.arange(1.0, 2 * total + 1).view(2, total, 1, 1).expand_as(drawn.k)
    tokens = Tokens(drawn.q, numbered, -numbered, drawn.totals)
    lengths = [x - (queries if append else 0) for x in drawn.totals]
    assert drawn.totals[0] == total
    assert total - (total - queries - leftpad) // 2 <= drawn.totals[1] <= total

    there = set()
    for rank in range(ranks):
        x = lay(asked, tokens, 0, rank)
        cache = Cache(x.k_cache, x.v_cache, table=x.block_table, dealt=dealt(asked, rank))
        assert cache.own_capacity == room_of(asked)
        assert room_of(asked) % BLOCK == 0
        assert cache.capacity > total
        row = x.k_cache[:, :, 0, 0]
        if x.block_table is not None:
            row = row[x.block_table.long()].flatten(1)
        for entry, at in product(range(2), range(room_of(asked))):
            stands = (at // BLOCK * ranks + rank) * BLOCK + at % BLOCK
            value = row[entry, at].item()
            if leftpad <= stands < lengths[entry]:
                assert value == entry * total + stands + 1
                there.add((entry, stands))
            else:
                assert value != value
        assert x.k_cache.isfinite().sum() == (-x.v_cache).isfinite().sum()
        assert x.cache_seqlens.tolist() == lengths
        if append:
            assert x.k[1, :, 0, 0].tolist() == [
                total + 1 + at for at in range(lengths[1], lengths[1] + queries)
            ]
    assert there == {(entry, at) for entry in range(2) for at in range(leftpad, lengths[entry])}


@pytest.mark.parametrize("page", [None, 16])
@pytest.mark.parametrize("ranks", [1, 2])
def test_latent_keys_are_one_cache_and_stay_so_in_a_copy_of_the_inputs(page, ranks):
    shape = {"page": page, "head_dim_v": 5, "latent": True}
    asked = case(2, 150, world_size=ranks, cache=shape)
    place = WorkerPlace(0, 1, torch.device("cpu"), (0,), ranks)
    first, second = (draw(asked, seed, place.device, uneven=True) for seed in (0, 1))
    assert first.v.equal(first.k[..., :5])

    x, other = lay(asked, first, 0), lay(asked, second, 1)
    copy = x.clone()
    copy.copy_from(other)
    for made in (x, other, copy):
        assert is_latent(made.k_cache, made.v_cache)
        assert made.bytes == made.k_cache.nbytes
        assert made.v_cache.shape[-1] == 5
    assert copy.k_cache.data_ptr() != x.k_cache.data_ptr()
    torch.testing.assert_close(copy.k_cache, other.k_cache, rtol=0, atol=0, equal_nan=True)
    assert call_of(asked, copy).cache.latent
    assert problem_of(asked, place).latent
    apart = case(2, 150, world_size=ranks, cache={**shape, "latent": False})
    assert not problem_of(apart, place).latent
    assert lay(apart, draw(apart, 0, place.device), 0).clone().bytes > x.bytes
