"""Packed documents on rings of gloo ranks: each document by itself, whoever holds its tokens."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from functools import _lru_cache_wrapper

import pytest
import torch

from ring_attn_bench import RingContext, RingOptions, documents, ring_attn_varlen_func
from tests.distributed.documents import Packed, attend, faults, joined, truth
from tests.distributed.pool import Raised, Ring

PARTITIONS = ("contiguous", "zigzag", "striped", "head_tail", "balanced")
ACROSS = (0, 1, 7, 7, 19, 22)
"""Of 3 ranks with 8 tokens: within one rank, empty, over three of them; two tokens of padding."""
CHANGES = {
    "causal": {},
    "full, grouped heads": {"causal": False, "heads": 6},
    "window on both sides": {"window": (4, 1), "causal": False},
    "softcap, window": {"softcap": 1.5, "window": (3, -1)},
    "ALiBi, full": {"alibi": True, "causal": False, "key_heads": 1},
    "ALiBi, narrow window": {"alibi": True, "window": (1, 0)},
    "sink": {"sink": True, "window": (5, -1)},
}


def with_options(ring: Ring, case: Packed, options: RingOptions) -> dict[str, torch.Tensor]:
    with RingContext(ring.group, options) as context:
        return attend(ring, case, context)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_call_is_right(ranks, partition, change):
    case = replace(Packed(3, ACROSS, partition), **change)
    assert faults(case, ranks.run(attend, case, world_size=3)) == []


@pytest.mark.parametrize("schedule", ["steps", "gather", "grouped"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_call_is_right_by_blocks_on_every_schedule(ranks, partition, schedule):
    options = RingOptions(schedule=schedule)
    for change in ({}, {"causal": False, "window": (2, 3), "sink": True, "key_heads": 1}):
        case = replace(Packed(4, (0, 3, 4, 18, 25, 32), partition), **change)
        assert faults(case, ranks.run(with_options, case, options, world_size=4)) == []


@pytest.mark.parametrize(
    "options",
    [
        RingOptions(landing_tokens=8),
        RingOptions(transport="all_gather", schedule="one_launch"),
        RingOptions(transport="all_gather", schedule="gather"),
        RingOptions(schedule="one_launch", keep_keys=True),
    ],
    ids=["budget", "all_gather, one launch", "all_gather, blocks", "kept keys"],
)
def test_a_call_is_right_whatever_else_a_ring_is_told(ranks, options):
    for partition in PARTITIONS:
        case = Packed(4, (0, 3, 4, 18, 25, 31), partition, causal=False)
        assert faults(case, ranks.run(with_options, case, options, world_size=4)) == []


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_documents_and_masks_of_every_kind_are_right(ranks, world_size):
    dice = random.Random(world_size)
    for _ in range(12):
        tokens = 2 * dice.randint(1, 6)
        whole = tokens * world_size
        end = dice.choice([whole, dice.randint(1, whole)])
        starts = (0, *sorted(dice.randint(0, end) for _ in range(dice.randint(0, 5))), end)
        heads = dice.choice([(2, 2), (4, 1), (6, 3)])
        case = Packed(
            world_size, starts, dice.choice(PARTITIONS), tokens, *heads,
            causal=dice.random() < 0.6,
            window=dice.choice([(-1, -1), (dice.randint(0, 9), dice.randint(-1, 5))]),
            softcap=dice.choice([0.0, 2.0]), alibi=dice.random() < 0.3, sink=dice.random() < 0.3,
        )  # fmt: skip
        schedule = dice.choice(["auto", "steps", "gather"])
        options = RingOptions(schedule=schedule, keep_keys=dice.random() < 0.3)
        found = ranks.run(with_options, case, options, world_size=world_size)
        assert faults(case, found) == [], (case, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_call_in_other_dtypes_is_as_good_as_plain_pytorchs(ranks, dtype):
    for partition in PARTITIONS:
        case = Packed(3, (0, 5, 21, 24), partition, dtype=dtype, dim=16)
        assert faults(case, ranks.run(attend, case, world_size=3)) == []


def test_a_kernel_that_takes_blocks_alone_is_right_too(ranks):
    for partition in ("contiguous", "zigzag"):
        case = Packed(3, (0, 5, 12, 23), partition, backend="aten", dtype=torch.float32)
        assert faults(case, ranks.run(attend, case, world_size=3)) == []


def dropped(ring: Ring, case: Packed) -> dict[str, torch.Tensor]:
    return attend(ring, case)


def test_what_is_dropped_follows_from_no_partition(ranks):
    cases = [Packed(3, ACROSS, partition, dropout_p=0.4) for partition in PARTITIONS]
    first, *others = (joined(x, ranks.run(dropped, x, world_size=3)) for x in cases)
    assert not torch.allclose(first["out"], truth(cases[0])["out"])
    for other in others:
        for name, right in first.items():
            torch.testing.assert_close(other[name], right, rtol=0, atol=1e-12)


def by_layers(ring: Ring, case: Packed, starts: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Layers of batches that share a value each; and then as many calls are remembered as were."""
    found = []
    with RingContext(ring.group) as context:
        for ends in starts:
            whole = case.world_size * case.tokens
            batch = documents(ends, case.partition, case.world_size, whole)
            q, k, v, _ = (x[case.order(ring.rank)] for x in replace(case, starts=ends).inputs())
            for _ in range(2):
                found.append(ring_attn_varlen_func(q, k, v, batch, causal=True, context=context))
        assert len(context.calls_of_documents._found) <= 16
        assert not context.calls._found
    return found


def test_new_lengths_in_every_call_are_right_and_nothing_grows(ranks):
    case = Packed(2, (0, 16), "zigzag", beyond=0.0)
    starts = [(0, cut, 16) for cut in range(1, 16)] + [(0, 2, cut, 16) for cut in range(3, 16)]
    found = ranks.run(by_layers, case, starts, world_size=2)
    for at, ends in enumerate(starts):
        right = truth(replace(case, starts=ends))["out"]
        for layer in range(2):
            parts = [{"out": rank[2 * at + layer]} for rank in found]
            torch.testing.assert_close(joined(case, parts)["out"], right, rtol=0, atol=1e-12)


def unbounded(ring: Ring, calls: int) -> list[int]:
    """How much is kept where there is no bound, after some calls of new lengths and after all."""
    dice, whole = random.Random(0), 24 * ring.world_size
    q = torch.randn(24, 1, 8)
    kept = []
    with RingContext(ring.group) as context:
        for number in range(calls):
            starts = (0, *sorted(dice.sample(range(1, whole), 5)), whole)
            ring_attn_varlen_func(q, q, q, starts, partition="zigzag", context=context)
            if number in (9, calls - 1):
                caches = [x for x in gc.get_objects() if type(x) is _lru_cache_wrapper]
                ours = [x for x in caches if x.__module__.startswith("ring_attn")]
                sizes = [x.cache_info() for x in ours]
                kept.append(sum(size.currsize for size in sizes if size.maxsize is None))
    return kept


def test_new_lengths_fill_no_cache_that_has_no_bound(ranks):
    for some, every in ranks.run(unbounded, 60, world_size=2):
        assert some == every


@pytest.mark.parametrize("partition", PARTITIONS)
def test_padding_inside_of_documents_is_as_if_it_were_not_there(ranks, partition):
    """Entries of a batch in rows of 6 tokens, and documents of any length; NaN in padding."""
    for starts, used in (((0, 6, 12, 18), (6, 2, 0)), ((0, 5, 5, 16), (3, 0, 11))):
        for change in ({"causal": False}, {"sink": True, "window": (3, -1)}):
            case = Packed(3, starts, partition, 6, used=used, **change)
            assert faults(case, ranks.run(attend, case, world_size=3)) == [], case
    case = replace(case, uneven=True, tokens=6)
    assert faults(case, ranks.run(attend, case, world_size=3)) == [], case


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_sequence_of_any_length_goes_to_any_number_of_ranks(ranks, partition):
    """Of 1 token to 3 ranks two have none; causal or not, a document or several."""
    for length, causal in ((1, True), (7, False), (11, True), (23, False)):
        unit = {"zigzag": 6}.get(partition, 3)
        tokens = -(-length // unit) * unit // 3
        for starts in ((0, length), (0, length // 3, length)):
            case = Packed(3, starts, partition, tokens, causal=causal, sink=True, uneven=True)
            found = ranks.run(attend, case, world_size=3)
            held = [len(case.order(rank)) for rank in range(3)]
            assert [len(rank["out"]) for rank in found] == held
            assert sum(held) == length
            assert faults(case, found) == [], case


def test_documents_of_one_rank_alone_are_a_ring_of_one(ranks):
    case = Packed(1, (0, 3, 11), tokens=12)
    assert faults(case, ranks.run(attend, case, world_size=1)) == []


def differing(ring: Ring, case: Packed) -> None:
    attend(ring, replace(case, starts=(0, 9, 24)) if ring.rank == 1 else case)


def test_other_documents_on_one_rank_are_an_error_on_all(ranks):
    case = Packed(3, (0, 8, 24))
    for answer in ranks.outcomes(differing, case, world_size=3):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds, answer.traceback
        assert "another cu_seqlens or seqused than this rank" in answer.text
    assert faults(case, ranks.run(attend, case, world_size=3)) == []


WRONG = {
    "starts from 1": ({"cu_seqlens": [1, 16]}, "must rise from 0"),
    "beyond the tokens": ({"cu_seqlens": [0, 17]}, "end at 17, but the ranks hold 16 tokens"),
    "floats": ({"cu_seqlens": torch.tensor([0.0, 16.0])}, "int32 or int64"),
    "no integers": ({"cu_seqlens": [0, "x"]}, "must be an integer"),
    "nothing": ({"cu_seqlens": None}, "or a sequence of integers"),
    "one document longer than is said": ({"max_seqlen": 9}, "a document has 10 tokens"),
    "no partition": ({"partition": None}, "it must say how the packed sequence was dealt"),
    "an unknown partition": ({"partition": "zagzig"}, "head_tail"),
    "a partition that is each batch's own": (
        {"partition": "balanced"},
        "documents(cu_seqlens, 'balanced', ...), in place of cu_seqlens",
    ),
    "a batch dim": ({"batch": True}, r"must have 3 dims: (tokens, heads, dim)"),
    "documents of another ring": (
        {"cu_seqlens": documents([0, 24], "zigzag", 3), "partition": None},
        "8 tokens on rank 1 of 3, but k has 8 on one of 2",
    ),
    "documents of another partition": (
        {"cu_seqlens": documents([0, 16], "striped", 2), "partition": "zigzag"},
        "were dealt by 'striped'",
    ),
    "padding told on one rank": (
        {"cu_seqlens": documents([0, 6, 16], "zigzag", 2, seqused=[6, 7]), "partition": None},
        "another cu_seqlens or seqused than this rank",
    ),
    "slopes for each document": ({"alibi_slopes": torch.zeros(3, 2)}, "alibi_slopes has shape"),
}


def wrongly(ring: Ring, name: str) -> None:
    wrong = dict(WRONG[name][0]) if ring.rank == 1 else {}
    q = torch.zeros(8, 2, 8, dtype=torch.float64)
    q = q[None] if wrong.pop("batch", False) else q
    given = {"cu_seqlens": [0, 6, 16], "max_seqlen": 10, "partition": "zigzag"} | wrong
    ring_attn_varlen_func(q, q, q, group=ring.group, **given)


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_on_one_rank_is_a_sentence_there_and_an_error_on_all(ranks, name):
    other, wrong = ranks.outcomes(wrongly, name, world_size=2)
    assert isinstance(wrong, Raised)
    assert isinstance(other, Raised)
    assert WRONG[name][1] in wrong.text, wrong.traceback
    told = (
        "rank 1 of the ring refused its arguments",
        "another cu_seqlens or seqused than this rank",
    )
    assert any(x in other.text for x in told)
