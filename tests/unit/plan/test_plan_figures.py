"""What is known of plans beforehand: who works and fetches how much, and what is refused."""

import pytest

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan, plans
from ring_attn_bench.plan.problem import Mask
from tests.unit.plan.plan_simulation import PLAIN, WINDOWS, ring_of

CAUSAL = Mask(causal=True)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 64])
def test_causal_zigzag_is_the_same_work_on_every_rank(world_size):
    ring = ring_of("zigzag", world_size, 10, CAUSAL, PLAIN)
    assert len({p.area for p in ring.plans}) == 1


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_causal_stripes_are_the_same_work_to_within_one_diagonal_in_every_step(world_size):
    ring = ring_of("striped", world_size, 10, CAUSAL, PLAIN)
    for steps in zip(*(p.steps for p in ring.plans), strict=True):
        areas = [sum(launch.block.area for launch in step.launches) for step in steps]
        assert max(areas) - min(areas) in {0, 10}


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_causal_zigzag_is_one_plain_launch_in_every_step(world_size):
    for one in ring_of("zigzag", world_size, 10, CAUSAL, PLAIN).plans:
        forms = [[launch.block.form for launch in step.launches] for step in one.steps]
        assert forms == [[Form.CAUSAL]] + [[Form.FULL]] * (world_size - 1)
        assert not one.rows_start_at_zero


@pytest.mark.parametrize("grouping", [None, (3,), (1, 2)], ids=str)
@pytest.mark.parametrize(
    ("name", "fetched"), [("zigzag", [36, 30, 24, 18]), ("contiguous", [0, 12, 24, 36])]
)
def test_causal_ranks_of_four_fetch_what_is_known(name, fetched, grouping):
    ring = ring_of(name, 4, 12, CAUSAL, PLAIN, grouping=grouping)
    assert [p.fetched_tokens for p in ring.plans] == fetched


def test_a_window_fetches_no_more_than_itself():
    ring = ring_of("contiguous", 4, 12, Mask(causal=True, window_left=5), WINDOWS)
    assert [p.fetched_tokens for p in ring.plans] == [0, 5, 5, 5]


@pytest.mark.parametrize(
    ("name", "mask", "able", "missing"),
    [
        ("zigzag", Mask(True, 5), PLAIN, "window"),
        ("contiguous", Mask(window_left=3), PLAIN, "window"),
        ("striped", CAUSAL, Abilities(frozenset({Form.FULL})), "causal"),
        ("contiguous", CAUSAL, Abilities(frozenset({Form.FULL})), "causal"),
    ],
)
def test_a_kernel_without_a_needed_form_is_refused_with_the_form_and_what_it_can_do(
    name, mask, able, missing
):
    names = ", ".join(sorted(form.value for form in able.forms))
    reasons = {plan(Layout(PARTITIONS[name], 4, 12, mask.band), rank, able) for rank in range(4)}
    assert reasons == {f"it has no {missing} block (it can do: {names})"}


@pytest.mark.parametrize("grouping", [(), (2,), (1, 1, 2), (4, -1), (0, 3)], ids=str)
def test_a_grouping_that_does_not_add_up_is_refused(grouping):
    with pytest.raises(InvalidArgument, match=r"positive numbers that add up to the 3 other ranks"):
        Layout(PARTITIONS["zigzag"], 4, 12, CAUSAL.band, grouping=grouping)


def test_a_layout_without_slots_or_with_half_a_chunk_is_refused():
    with pytest.raises(InvalidArgument, match=r"slots is 0, but a ring needs at least 1"):
        Layout(PARTITIONS["zigzag"], 4, 12, CAUSAL.band, slots=0)
    with pytest.raises(InvalidArgument, match=r"holds 13 tokens"):
        Layout(PARTITIONS["zigzag"], 4, 13, CAUSAL.band)


def test_a_form_that_only_some_ranks_need_is_refused_for_all():
    layout = Layout(PARTITIONS["contiguous"], 4, 5, Mask(window_left=4).band)

    alone = [plan(layout, rank, PLAIN) for rank in range(4)]

    assert {isinstance(found, str) for found in alone} == {True, False}
    assert "window" in plans(layout, PLAIN)
    assert plans(layout, WINDOWS) == tuple(plan(layout, rank, WINDOWS) for rank in range(4))
