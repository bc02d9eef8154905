"""The words of copy engines' rings, and passes of all ranks in any order (the simulation's)."""

from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.ring.transports.copy_engine import link, route, transport
from ring_attn_bench.ring.transports.copy_engine.memory_operations import _WRITE, MOST, Batch
from ring_attn_bench.ring.transports.copy_engine.words import SLOTS, Words
from tests.unit.ring.copy_engine_simulation import RESUMED, Fault, World

EVERY = Abilities(frozenset(Form), gathers=True)
MASKS = (Mask(), Mask(True), Mask(True, 3), Mask(False, 2, 1), Mask(False, 0, 0))
SCHEDULES = ("steps", "gather", "one_launch")


@cache
def plans_of(partition, world_size, mask, schedule, slots=2):
    grouping = None if schedule == "steps" else (world_size - 1,)
    whole = schedule == "one_launch"
    rule = PARTITIONS[partition]
    layout = Layout(rule, world_size, 4, mask.band, slots, grouping, whole)
    found = plans(layout, EVERY)
    assert not isinstance(found, str)
    return found


def simulate(passes, seed, rounds=1, spoil=None, smallest=1):
    with pytest.MonkeyPatch.context() as patch:
        if spoil is not None:
            spoil(patch)
        World(patch, passes, rounds, smallest).enqueue().run(Random(seed))


@st.composite
def programmes(draw):
    """Passes of one ring, and how often they are replayed."""
    world_size = draw(st.integers(2, 5))
    one = st.tuples(
        st.builds(
            plans_of, st.sampled_from(sorted(PARTITIONS)), st.just(world_size),
            st.sampled_from(MASKS), st.sampled_from(SCHEDULES), st.sampled_from([1, 2, 3]),
        ),
        st.sampled_from([False, True, RESUMED]),
    )  # fmt: skip
    return draw(st.lists(one, min_size=1, max_size=6)), draw(st.sampled_from([1, 1, 3]))


@settings(deadline=None, max_examples=150)
@given(programmes(), st.integers(0, 2**32), st.sampled_from([1, route.SMALLEST]))
def test_passes_of_any_kind_end_in_any_order_and_read_what_is_theirs(programme, seed, smallest):
    """Heads are pulled apart, or together."""
    passes, rounds = programme
    simulate(passes, seed, rounds, smallest=smallest)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("world_size", [2, 4])
def test_one_pass_again_and_again_ends_in_any_order(world_size, partition, schedule):
    """Ranks run ahead of others as far as they may: the more so, the less they read."""
    for mask in MASKS[:2]:
        one = plans_of(partition, world_size, mask, schedule)
        for seed in range(4):
            simulate([(one, False)] * 6, seed)
            simulate([(one, False), (one, True)], seed, rounds=3)
            simulate([(one, RESUMED)] * 4, seed)
            simulate([(one, False), (one, RESUMED), (one, True)], seed, rounds=3)


# faults that are planted


def of_programmes(change):
    """Every programme of a transport, changed: told the driver, it, the plan, the slot, tables."""

    def spoil(patch):
        made = transport.programme

        def spoiled(at, plan, slot, part, tables, arrived, head_groups):
            found = made(at, plan, slot, part, tables, arrived, head_groups)
            return change(at, found, plan, slot, tables)

        patch.setattr(transport, "programme", spoiled)

    return spoil


def of_copies(name, change):
    """Every copy of a programme, pulls or pushes, changed."""

    def changed(at, found, *_):
        steps = getattr(found, name)
        return replace(found, **{name: tuple(tuple(change(at, x) for x in step) for step in steps)})

    return of_programmes(changed)


def batch(at, *batches, but=lambda operation: False):
    made = Batch(at)
    made._listed = [x for one in batches for x in one._listed if not but(x)]
    return made


def gives(operation):
    """Whether it is a signal to another rank."""
    return operation[0] == _WRITE and operation[2] == 1


def no_claim(patch):
    patch.setattr(transport.CopyEngine, "_claim", lambda self, slot: Batch(self.driver))


def signal_first(at, move):
    return replace(move, before=batch(at, move.before, move.after), after=Batch(at))


def no_wait(at, move):
    return replace(move, before=Batch(at))


def room_at_once(at, found, *_):
    step = next(index for index, taken in enumerate(found.taken) if taken._listed)
    taken = list(found.taken)
    taken[step] = batch(at, batch(at, found.emptied, but=lambda x: not gives(x)), taken[step])
    return replace(found, taken=tuple(taken), emptied=batch(at, found.emptied, but=gives))


def met_alone(at, found, *_):
    """Tells the others, and waits for none of them."""
    return replace(found, meet=batch(at, found.meet, but=lambda x: not gives(x)))


def slot_back_at_once(at, found, *_):
    """With the word of the last piece come the others' slots: they are given back before it."""
    pulls = [list(step) for step in found.pulls]
    step = max((index for index, moves in enumerate(pulls) if moves), default=None)
    if step is None:
        return found
    last = pulls[step][-1]
    word, back = Batch(at), Batch(at)
    word._listed, back._listed = last.after._listed[:1], last.after._listed[1:]
    pulls[step][-1] = replace(last, after=word)
    return replace(found, meet=batch(at, found.meet, back), pulls=tuple(map(tuple, pulls)))


def unheard(at, found, plan, slot, tables):
    """A rank tells its readers alone, waits for its owners alone, and is given back slots by others
    who have not heard of it."""
    words, meet, me = Words(plan.world_size), Batch(at), plan.rank
    for reader in {send.reader for step in plan.steps for send in step.sends}:
        meet.write(tables[reader] + words.present(slot, me))
    for owner in {fetch.owner for step in plan.steps for fetch in step.fetches}:
        meet.take(tables[me] + words.present(slot, owner))
    return replace(found, meet=meet)


def words_left(at, found, *_):
    """The words of pieces stay as they are, for the next pass to believe."""
    return replace(
        found, over=Batch(at), emptied=batch(at, found.emptied, but=lambda x: not gives(x))
    )


def landed_not_awaited(patch):
    patch.setattr(link.CopyEngineLink, "landed", lambda self, index: self._slot_of(index))


BOTH, FORWARD, KEPT = (False, True, False), (False, False, False), (RESUMED,) * 3
FAULTS = {
    "no claim": (no_claim, "zigzag", "one_launch", FORWARD),
    "a piece's word first": (of_copies("pulls", signal_first), "zigzag", "one_launch", BOTH),
    "keys pulled unpublished": (of_programmes(met_alone), "zigzag", "gather", FORWARD),
    "keys not awaited": (landed_not_awaited, "striped", "steps", FORWARD),
    "gradients' word first": (of_copies("pushes", signal_first), "zigzag", "one_launch", BOTH),
    "an inbox without room": (of_copies("pushes", no_wait), "zigzag", "steps", BOTH),
    "room before all is read": (of_programmes(room_at_once), "zigzag", "gather", BOTH),
    "room before all is read, no keys": (of_programmes(room_at_once), "zigzag", "gather", KEPT),
    "an inbox without room, no keys": (of_copies("pushes", no_wait), "zigzag", "steps", KEPT),
    "a slot back at once": (of_programmes(slot_back_at_once), "zigzag", "one_launch", FORWARD),
    "a slot back from who has not heard": (
        of_programmes(unheard), "contiguous", "one_launch", FORWARD,
    ),
    "words of pieces left": (of_programmes(words_left), "zigzag", "one_launch", FORWARD),
}  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "partition", "schedule", "backward"), FAULTS.values(), ids=FAULTS
)
def test_a_fault_that_is_planted_is_found(spoil, partition, schedule, backward):
    """Three passes, again and again: the last and the first of them have one slot."""
    one = plans_of(partition, 3, Mask(True), schedule)

    def found(seed, **planted):
        try:
            simulate([(one, way) for way in backward], seed, rounds=3, **planted)
        except Fault:
            return True
        return False

    assert any(found(seed, spoil=spoil) for seed in range(30))
    assert not any(found(seed) for seed in range(5))


# a rank that dies


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_dead_rank_is_waited_for_until_the_others_are_released(monkeypatch, schedule, backward):
    one = plans_of("zigzag", 3, Mask(), schedule)
    world = World(monkeypatch, [(one, backward)] * 4).enqueue(dead=2)
    with pytest.raises(Fault, match="nothing goes on"):
        world.run(Random(0))

    said = [world.give_up(rank, 1) for rank in world.ranks[:2]]

    assert said == ["the keys of rank 2"] * 2
    for pass_ in (1, 2, 3, 3):  # each may wait again for a word that was 1 once
        try:
            world.run(Random(0))
        except Fault:
            for rank in world.ranks[:2]:
                world.give_up(rank, pass_)
    world.run(Random(0))


# words


@given(st.integers(1, 64))
def test_words_are_apart_and_inside_their_table(world_size):
    words = Words(world_size)
    slotted = words.present, words.free
    at = [
        word(slot, peer) for word in slotted for slot in range(SLOTS) for peer in range(world_size)
    ]
    at += [word(peer) for word in (words.given, words.room) for peer in range(world_size)]

    assert sorted(at) == list(range(0, words.bytes, 4))
    turns = {words.free(slot, peer) for slot in range(SLOTS) for peer in range(world_size)}
    turns |= {words.room(peer) for peer in range(world_size)}
    assert {4 * place for place, value in enumerate(words.first()) if value} == turns


def test_a_long_batch_goes_to_the_driver_in_parts_and_an_empty_one_not_at_all():
    class Listens:
        def __init__(self):
            self.parts = []

        def batch(self, stream, operations):
            self.parts.append([(x.operation, x.address, x.value) for x in operations])

    at = Listens()
    Batch(at).enqueue(7)
    assert at.parts == []

    long = Batch(at)
    for address in range(200):
        long.take(address).write(1000 + address, 5)
    long.enqueue(7)

    wait, write = 1, 2
    assert max(map(len, at.parts)) == MOST
    assert [x for part in at.parts for x in part] == [
        operation
        for address in range(200)
        for operation in ((wait, address, 1), (write, address, 0), (write, 1000 + address, 5))
    ]
