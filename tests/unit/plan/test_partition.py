"""Partitions: every token on one rank, in increasing order; lengths that cannot be dealt."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.errors import InvalidArgument, UnknownName
from ring_attn_bench.plan.partition import PARTITIONS, get_partition

every_partition = pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS.keys())
WORLDS = st.integers(1, 12)


def stored(partition, rank, world_size, tokens):
    """The positions of a rank's tokens, in the order of its storage."""
    spans = partition.spans(rank, world_size, tokens)
    return [at for span in spans for at in span.positions()]


@every_partition
@settings(deadline=None)
@given(world_size=WORLDS, chunks=st.integers(1, 9))
def test_every_token_is_on_exactly_one_rank(partition, world_size, chunks):
    tokens = chunks * partition.chunks_per_rank
    ranks = [stored(partition, rank, world_size, tokens) for rank in range(world_size)]

    assert sorted(at for rank in ranks for at in rank) == list(range(world_size * tokens))
    assert {len(rank) for rank in ranks} == {tokens}


@every_partition
@settings(deadline=None)
@given(world_size=WORLDS, chunks=st.integers(1, 9))
def test_positions_increase_in_the_order_of_storage(partition, world_size, chunks):
    for rank in range(world_size):
        own = stored(partition, rank, world_size, chunks * partition.chunks_per_rank)
        assert own == sorted(set(own))


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        ("zigzag", [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]),
        ("striped", [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
    ],
)
def test_twelve_tokens_on_three_ranks(name, ranks):
    assert [stored(PARTITIONS[name], rank, 3, 4) for rank in range(3)] == ranks


@every_partition
@settings(deadline=None)
@given(world_size=WORLDS, seqlen=st.integers(-3, 200))
def test_a_length_is_dealt_evenly_or_refused_with_the_nearest_that_could_be(
    partition, world_size, seqlen
):
    unit = world_size * partition.chunks_per_rank
    if seqlen > 0 and seqlen % unit == 0:
        assert partition.tokens_per_rank(seqlen, world_size) * world_size == seqlen
        return
    with pytest.raises(InvalidArgument) as refusal:
        partition.tokens_per_rank(seqlen, world_size)

    sentence = str(refusal.value)
    nearest = [int(n) for n in re.findall(r"\d+", sentence.partition("the nearest ")[2])]
    possible = [n for n in range(unit, seqlen + 2 * unit, unit) if abs(n - seqlen) < unit]
    assert nearest == (possible or [unit])
    assert all(partition.tokens_per_rank(n, world_size) for n in nearest)
    assert f"a sequence of {seqlen} tokens" in sentence
    assert f"{world_size} ranks" in sentence
    assert repr(partition.name) in sentence


@every_partition
@settings(deadline=None)
@given(tokens=st.integers(-3, 20))
def test_a_local_length_is_allowed_iff_it_falls_into_equal_chunks(partition, tokens):
    if tokens > 0 and tokens % partition.chunks_per_rank == 0:
        partition.check_local_length(tokens)
        assert len(stored(partition, 0, 2, tokens)) == tokens
        return
    with pytest.raises(InvalidArgument, match=rf"holds {tokens} tokens.*'{partition.name}'.*pad"):
        partition.check_local_length(tokens)


def test_an_odd_local_length_is_refused_for_zigzag_alone():
    PARTITIONS["contiguous"].check_local_length(5)
    PARTITIONS["striped"].check_local_length(5)
    with pytest.raises(InvalidArgument, match=r"positive multiple of 2; pad the sequence"):
        PARTITIONS["zigzag"].check_local_length(5)


@every_partition
def test_a_partition_is_found_by_its_name(partition):
    assert get_partition(partition.name) is partition


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("zig-zag", "zigzag"), ("stripe", "striped"), ("continuous", "contiguous")],
)
def test_an_unknown_name_says_what_was_meant_and_what_there_is(typed, meant):
    with pytest.raises(UnknownName) as refusal:
        get_partition(typed)
    assert str(refusal.value) == (
        f"unknown partition {typed!r}. Did you mean {meant!r}? Known: contiguous, striped, zigzag."
    )


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(UnknownName, match=r"^unknown partition 'q'\. Known: contiguous"):
        get_partition("q")
