"""How keys travel is a name in one table; what a ring is told is checked when it is said."""

import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import get_args

import pytest
import torch

from ring_attn_bench import RingOptions, registry
from ring_attn_bench.errors import InvalidArgument, TransportUnavailable, UnknownName
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.ring.jobs import shares_travel, travel_dtype
from ring_attn_bench.ring.link import GroupTransport
from ring_attn_bench.ring.options import resolved
from ring_attn_bench.ring.schedules import SCHEDULES, Name, named
from ring_attn_bench.ring.settle import layout_of
from ring_attn_bench.ring.transports.choose import transport_for


@pytest.fixture
def others(monkeypatch):
    """Transports of third parties, by name."""
    table = {}

    def found(group):
        assert group == registry.TRANSPORT_ENTRY_POINT_GROUP == "ring_attn_bench.transports"
        return [EntryPoint(name, target, group) for name, target in table.items()]

    monkeypatch.setattr(registry, "entry_points", found)
    registry.transport_class.cache_clear()
    yield table
    registry.transport_class.cache_clear()


class Theirs:
    """Serves rings of even ranks; a group is a number here."""

    def __init__(self, group, options):
        self.made_with = group, options

    @staticmethod
    def unsupported(group):
        return None if group % 2 == 0 else f"{group} ranks are no pairs"


@pytest.mark.parametrize("name", registry.TRANSPORTS)
def test_every_transport_of_the_table_is_one(name):
    found = registry.transport_class(name)

    wanted = {word for word in vars(GroupTransport) if not word.startswith("_")}
    assert {"unsupported"} <= wanted
    assert all(hasattr(found, word) for word in (*wanted, "outgoing", "begin"))
    assert (found.__doc__ or "").strip()


@pytest.mark.parametrize("name", ["twin", "loopback", "alone", "played", "own", "p2q"])
def test_what_brings_no_rank_the_bytes_of_another_is_no_transport_of_a_ring(name):
    with pytest.raises(
        UnknownName, match=f"unknown transport {name!r}.*Known: all_gather, auto, copy_engine, p2p"
    ):
        RingOptions(transport=name)


def test_another_package_adds_a_transport_by_name(others):
    others["theirs"] = "tests.unit.ring.test_ring_options:Theirs"
    options = RingOptions(transport="theirs")

    name, transport = transport_for(options, 2)

    assert name == "theirs"
    assert type(transport).__name__ == "Theirs"
    assert transport.made_with == (2, options)


def test_it_is_not_imported_before_it_is_used_and_what_then_fails_is_said(others):
    others["broken"] = "no_such_module:Transport"
    options = RingOptions(transport="broken")

    with pytest.raises(TransportUnavailable, match=r"'broken' .* no_such_module"):
        transport_for(options, 2)


def test_a_transport_that_cannot_serve_the_ranks_is_refused_with_its_reason(others):
    others["theirs"] = "tests.unit.ring.test_ring_options:Theirs"

    with pytest.raises(TransportUnavailable, match="'theirs' is unavailable here: 3 ranks are no"):
        transport_for(RingOptions(transport="theirs"), 3)


def test_auto_takes_the_first_that_the_group_can_do(monkeypatch):
    table = dict.fromkeys(("first", "second"), "tests.unit.ring.test_ring_options:Theirs")
    monkeypatch.setattr(registry, "transports", lambda: table)
    monkeypatch.setattr(registry, "check_transport", lambda name: None)
    registry.transport_class.cache_clear()

    assert transport_for(RingOptions(), 2)[0] == "first"
    with pytest.raises(TransportUnavailable, match="first: 3 ranks are no pairs; second: 3 ranks"):
        transport_for(RingOptions(), 3)
    registry.transport_class.cache_clear()


def test_a_third_party_cannot_take_a_name_of_the_table(others):
    others["p2p"] = "no_such_module:Transport"

    assert registry.transports() == registry.TRANSPORTS


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"gradients": "bfloat16"}, "unknown gradient dtype 'bfloat16'"),
        ({"slots": 0}, "at least 1"),
    ],
)
def test_a_mistake_is_a_sentence(wrong, sentence):
    with pytest.raises((UnknownName, InvalidArgument), match=sentence):
        RingOptions(**wrong)


FOUR = {
    "the classic ring, by default": (RingOptions(), ("steps", 2, None)),
    "steps": (RingOptions(schedule="steps"), ("steps", 2, None)),
    "a gather": (RingOptions(schedule="gather"), ("gather", 1, (3,))),
    "a gather by its grouping": (RingOptions(grouping=(3,)), ("gather", 1, (3,))),
    "one launch": (RingOptions(schedule="one_launch"), ("one_launch", 1, (3,))),
    "groups": (RingOptions(schedule="grouped"), ("grouped", 2, (1, 2))),
    "groups by their sizes": (RingOptions(grouping=(2, 1)), ("grouped", 2, (2, 1))),
    "one each": (RingOptions(grouping=None), ("steps", 2, None)),
    "one each by their sizes": (RingOptions(grouping=(1, 1, 1)), ("steps", 2, (1, 1, 1))),
    "slots of steps": (RingOptions(slots="auto"), ("steps", 2, None)),
    "slots of a gather": (RingOptions(schedule="gather", slots="auto"), ("gather", 1, (3,))),
    "slots that are given": (RingOptions(schedule="grouped", slots=7), ("grouped", 7, (1, 2))),
}


@pytest.mark.parametrize(("options", "took"), FOUR.values(), ids=FOUR.keys())
def test_what_auto_takes_on_four_ranks(options, took):
    found = resolved(options, 4)

    assert (found.schedule, found.slots, found.grouping) == took
    assert resolved(found, 4) == found
    assert found.transport == options.transport


def test_type_checkers_know_every_schedule_of_the_table():
    assert {*get_args(Name)} == {"auto", *SCHEDULES}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_a_schedule_is_what_its_own_grouping_says_and_brings_every_other_rank_once(
    name, world_size
):
    schedule, others = SCHEDULES[name], world_size - 1
    grouping = schedule.grouping(others)

    assert schedule.fits(grouping)
    assert grouping is None or sum(grouping) == others
    assert not SCHEDULES[named(grouping)].waits


@pytest.mark.parametrize("schedule", get_args(Name))
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8, 64])
def test_on_any_number_of_ranks_a_schedule_is_a_layout(schedule, world_size):
    for slots in (2, "auto"):
        options = RingOptions(schedule=schedule, slots=slots)
        layout = layout_of("zigzag", world_size, 8, Mask(), options)

        steps = layout.offsets[1:]
        assert sorted(o for step in steps for o in step) == list(range(1, world_size))
        assert len(steps) == {
            "auto": world_size - 1, "steps": world_size - 1, "gather": int(world_size > 1),
            "one_launch": int(world_size > 1), "grouped": (world_size - 1).bit_length(),
        }[schedule]  # fmt: skip


CONTRADICTIONS = [
    ({"schedule": "steps", "grouping": (3,)}, "one rank's keys a step, but grouping is (3,)"),
    ({"schedule": "gather", "grouping": (1, 2)}, "in one step, but grouping is (1, 2)"),
    ({"schedule": "gather", "grouping": None}, "in one step, but grouping is None"),
    ({"schedule": "one_launch", "grouping": (1, 2)}, "in one launch, but grouping is (1, 2)"),
    ({"schedule": "one_launch", "grouping": None}, "in one launch, but grouping is None"),
    ({"schedule": "grouped", "grouping": None}, "leave one of the two at 'auto'"),
    (
        {"schedule": "ring"},
        "unknown schedule 'ring'.*Known: auto, gather, grouped, one_launch, steps",
    ),
    ({"slots": 1.5}, "slots is 1.5, but a ring needs at least 1; it is a number or 'auto'"),
    ({"slots": True}, "slots is True"),
    ({"grouping": [3]}, "grouping is [3]; it must be a tuple of positive numbers"),
    ({"grouping": (3, 0)}, "grouping is (3, 0)"),
    ({"handshake": "yes"}, "handshake is 'yes'; it must be True, False or None"),
    ({"transport": None}, "unknown transport None"),
]


@pytest.mark.parametrize(("wrong", "sentence"), CONTRADICTIONS, ids=str)
def test_options_that_contradict_each_other_are_a_sentence(wrong, sentence):
    pattern = ".*".join(map(re.escape, sentence.split(".*")))
    with pytest.raises((UnknownName, InvalidArgument), match=pattern):
        RingOptions(**wrong)


def test_a_grouping_of_other_ranks_is_a_sentence_once_their_number_is_known():
    with pytest.raises(InvalidArgument, match=r"grouping \(3,\) .* the 1 other ranks"):
        layout_of("zigzag", 2, 8, Mask(), RingOptions(grouping=(3,)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_gradients_travel_in_the_dtype_that_the_options_say(dtype):
    found = getattr(torch, dtype)

    assert travel_dtype(RingOptions(gradients="input"), found) is found
    wide = torch.float64 if dtype == "float64" else torch.float32
    assert travel_dtype(RingOptions(), found) is wide
    assert travel_dtype(RingOptions(), found, as_given=True) is found


@pytest.mark.parametrize("schedule", ["steps", "grouped", "gather"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_shares_travel_as_they_are_where_no_rank_adds_to_one(partition, schedule):
    forms = frozenset({Form.FULL, Form.CAUSAL})
    rounds, wide = (Abilities(forms, rounds=rounds) for rounds in (True, False))
    for world_size in (2, 3, 4, 8):
        layout = layout_of(
            partition, world_size, 16, Mask(causal=True), RingOptions(schedule=schedule)
        )
        added = False
        for rank in range(world_size):
            one = plan(layout, rank, rounds)
            for step in one.steps[1:]:
                seen = [key for x in step.launches for key in range(x.keys.start, x.keys.stop)]
                added |= len(set(seen)) < len(seen)
        assert shares_travel(layout, rounds) is not added, world_size
        assert not shares_travel(layout, wide)
    one_launch = RingOptions(schedule="one_launch")
    gathers = replace(rounds, gathers=True)
    layout = layout_of(partition, 4, 16, Mask(), one_launch)
    assert not shares_travel(layout, gathers)
