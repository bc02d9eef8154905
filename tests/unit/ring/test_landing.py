"""No more keys of other ranks lie on a rank than `landing_tokens` says, and all ranks cut alike."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import RingOptions
from ring_attn_bench.errors import InvalidArgument, Unsupported
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.ring.settle import layout_of, settled
from ring_attn_bench.ring.transports.all_gather import AllGather
from tests.unit.plan.plan_simulation import EVERY, WINDOWS, Ring
from tests.unit.plan.test_plan import CLAIMS

CAUSAL = Mask(causal=True)
SCHEDULES = ("auto", "steps", "grouped", "gather", "one_launch")


def lies(one):
    """Tokens of other ranks that there is room for on a rank."""
    return one.slots * one.landing_tokens


@st.composite
def rings(draw):
    """A ring's arguments, whose options have a budget that keys of one rank may not fit."""
    partition = draw(st.sampled_from(tuple(PARTITIONS)))
    world_size = draw(st.integers(2, 16))
    tokens = draw(st.integers(1, 4)) * PARTITIONS[partition].chunks_per_rank
    side = st.none() | st.integers(0, 3 * tokens)
    mask = Mask(draw(st.booleans()), draw(side), draw(side))
    options = RingOptions(
        schedule=draw(st.sampled_from(SCHEDULES)),
        slots=draw(st.sampled_from(["auto", 1, 2, 3, 20])),
        landing_tokens=draw(st.integers(1, world_size * tokens)),
    )
    return partition, world_size, tokens, mask, options


def needed(ring):
    """The most tokens that any rank fetches of one other, of two at once, and of all."""
    *where, _ = ring
    found = plans(layout_of(*where, RingOptions(grouping=None)), WINDOWS)
    return max(one.landing_tokens for one in found), max(one.fetched_tokens for one in found)


@settings(deadline=None, max_examples=300)
@given(rings(), st.booleans())
def test_plans_stay_within_the_budget_or_say_that_they_cannot(ring, waits):
    *where, options = ring
    one, everything = needed(ring)
    try:
        layout = layout_of(*ring, waits=waits)
    except InvalidArgument:
        slots = 1 if options.slots == "auto" else min(options.slots, where[1] - 1)
        assert slots * one > options.landing_tokens, "it could have been done"
        return
    able = replace(EVERY, gathers=True)
    found = plans(layout, able)
    assert max(map(lies, found)) <= options.landing_tokens
    unlimited = replace(options, landing_tokens=None)
    whole = layout_of(*where, unlimited, waits=waits)
    if whole.one_launch:
        assert layout.one_launch == (everything <= options.landing_tokens)
    if max(map(lies, plans(whole, able))) <= options.landing_tokens:
        assert layout == whole, "it was cut for nothing"


@settings(deadline=None, max_examples=100)
@given(rings())
def test_plans_that_were_cut_keep_every_promise_of_a_plan(ring):
    partition, world_size, tokens, mask, options = ring
    try:
        layout = layout_of(partition, min(world_size, 6), tokens, mask, options)
    except InvalidArgument:
        return
    if not layout.one_launch:
        for claim in CLAIMS:
            claim(Ring(mask, layout, WINDOWS))


@settings(deadline=None, max_examples=100)
@given(rings())
def test_groups_are_as_large_as_their_areas(ring):
    *where, options = ring
    options = replace(options, schedule="gather", slots=1)
    try:
        took = settled(*where, options)
    except InvalidArgument:
        return
    step_by_step = plans(layout_of(*where, RingOptions(grouping=None)), WINDOWS)

    def area(start, size):
        steps = [one.steps[1 + start : 1 + start + size] for one in step_by_step]
        return max(sum(step.landing_tokens for step in of_rank) for of_rank in steps)

    start = 0
    for size in took.grouping[:-1]:
        assert area(start, size) <= options.landing_tokens < area(start, size + 1)
        start += size


def took(world_size, options, *, waits=True, mask=CAUSAL, partition="zigzag", tokens=8):
    found = settled(partition, world_size, tokens, mask, options, waits=waits)
    return found.schedule, found.slots, found.grouping


ONE = {"schedule": "one_launch"}
ON_EIGHT = {  # 7 other ranks of 8 tokens, all of which the first rank fetches
    "auto, room for all": ({"landing_tokens": 56}, ("one_launch", 1, (7,))),
    "auto, one token less": ({"landing_tokens": 55}, ("grouped", 2, (3, 3, 1))),
    "two areas of two ranks": ({**ONE, "landing_tokens": 41}, ("grouped", 2, (2, 2, 2, 1))),
    "two areas of one rank": ({**ONE, "landing_tokens": 16}, ("steps", 2, (1,) * 7)),
    "one area of one rank": ({**ONE, "landing_tokens": 15}, ("steps", 1, (1,) * 7)),
    "one area, asked for": ({**ONE, "slots": 1, "landing_tokens": 32}, ("grouped", 1, (4, 3))),
    "a gather": ({"schedule": "gather", "landing_tokens": 32}, ("grouped", 2, (2, 2, 2, 1))),
    "groups": ({"schedule": "grouped", "landing_tokens": 32}, ("grouped", 2, (1, 2, 2, 2))),
    "groups that fit": ({"schedule": "grouped", "landing_tokens": 64}, ("grouped", 2, (1, 2, 4))),
    "steps": ({"schedule": "steps", "landing_tokens": 15}, ("steps", 1, None)),
    "more areas than one step has": (
        {"schedule": "gather", "slots": 3, "landing_tokens": 56}, ("gather", 3, (7,)),
    ),
    "a grouping that fits": ({"grouping": (3, 4), "landing_tokens": 64}, ("grouped", 2, (3, 4))),
    "one that fits once": ({"grouping": (3, 4), "landing_tokens": 32}, ("grouped", 1, (3, 4))),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "found"), ON_EIGHT.values(), ids=ON_EIGHT.keys())
def test_what_is_taken_of_eight_ranks(asked, found):
    assert took(8, RingOptions(**asked)) == found


def test_a_window_needs_no_more_than_its_halo():
    """Of 8 ranks in turn with a window of 3, each fetches 3 tokens of the rank before it."""
    asked = {"mask": Mask(causal=True, window_left=3), "partition": "contiguous"}
    assert took(8, RingOptions(landing_tokens=3), **asked) == ("one_launch", 1, (7,))
    with pytest.raises(InvalidArgument, match="a rank fetches up to 3 tokens of another"):
        took(8, RingOptions(landing_tokens=2), **asked)


def test_a_lone_rank_has_nothing_of_others():
    assert took(1, RingOptions(landing_tokens=1)) == took(1, RingOptions())


SENTENCES = {
    "less than a rank's keys": (
        {"landing_tokens": 7},
        "landing_tokens is 7, but a rank fetches up to 8 tokens of another here (8 each, partition "
        "'zigzag'), which come together; allow 8 or more, or deal the sequence to more ranks.",
    ),
    "a grouping": (
        {"grouping": (3, 4), "landing_tokens": 20},
        "grouping is (3, 4), whose largest step brings 32 tokens, but landing_tokens is 20; leave "
        "grouping at 'auto', or allow 32 or more.",
    ),
    "slots": (
        {"schedule": "steps", "slots": 3, "landing_tokens": 20},
        "slots is 3, so that 3 landing areas of 8 tokens lie there at once, but landing_tokens is "
        "20; leave slots at 'auto', take at most 2, or allow more tokens.",
    ),
    "slots of a grouping": (
        {"grouping": (3, 4), "slots": 2, "landing_tokens": 40},
        "slots is 2, so that 2 landing areas of 32 tokens lie there at once, but landing_tokens is "
        "40; leave slots at 'auto', take at most 1, or allow more tokens.",
    ),
}


@pytest.mark.parametrize(("asked", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_what_cannot_fit_is_a_sentence(asked, sentence):
    with pytest.raises(InvalidArgument, match=re.escape(sentence)):
        took(8, RingOptions(**asked))


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "auto"])
def test_a_budget_is_a_number_of_tokens(wrong):
    with pytest.raises(InvalidArgument, match=r"landing_tokens is .* a positive number of tokens"):
        RingOptions(landing_tokens=wrong)


def test_what_brings_whole_shards_of_all_ranks_takes_no_budget(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 4)
    options = RingOptions("all_gather", schedule="gather", landing_tokens=64)
    with pytest.raises(Unsupported, match=r"landing_tokens cannot limit .* 64 tokens; leave it"):
        AllGather(None, options)
    assert AllGather(None, replace(options, landing_tokens=None))
