"""What `auto` takes where figures are known: the fastest by the model, alike on every rank."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from ring_attn_bench import RingOptions
from ring_attn_bench.calls.options import Options
from ring_attn_bench.plan import cost
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.measured import H200
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask, Problem
from ring_attn_bench.ring.call import OnRing
from ring_attn_bench.ring.fastest import MARGIN, Known, announce
from ring_attn_bench.ring.settle import layout_of, settled

CAUSAL = Mask(causal=True)
BLOCKS = Abilities(frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW}))
GATHERS = replace(BLOCKS, gathers=True)
AUTO = RingOptions()
OPEN = ("flash_attn_4", "cudnn", "flash_attn_2", "aten")


def problem(**changes):
    known = {
        "batch": 1, "seqlen": 4 * 8192, "heads_q": 32, "heads_kv": 8, "head_dim": 128,
        "head_dim_v": 128, "dtype": "bfloat16", "device": "cuda", "mask": CAUSAL,
    }  # fmt: skip
    return Problem(**{**known, **changes})


def known(kernel="flash_attn_4", transport="copy_engine", *, options=AUTO, gpu="NVIDIA H200",
          able=BLOCKS, **changes):  # fmt: skip
    return Known.of(problem(**changes), options, able, gpu=gpu, kernel=kernel, transport=transport)


def took(world_size, tokens, call, options=AUTO, *, partition="zigzag", mask=CAUSAL, waits=False):
    return settled(partition, world_size, tokens, mask, options, waits=waits, known=call)


def time_of(options, world_size, tokens, call, *, queued=False, waits=False):
    layout = layout_of("zigzag", world_size, tokens, CAUSAL, options, waits=waits)
    return max(
        cost.seconds(call.asked, one, backward=call.backward, queued=queued)
        for one in plans(layout, call.able)
    )


@pytest.mark.parametrize("kernel", OPEN)
@pytest.mark.parametrize("backward", [False, True])
def test_it_is_faster_than_the_rule_by_the_margin_or_it_is_the_rule(kernel, backward):
    others = set()
    for world_size, tokens, way in product((2, 4, 8), (1024, 8192, 32768), ("copy_engine", "p2p")):
        call = known(kernel, way, backward=backward)
        found, rule = took(world_size, tokens, call), took(world_size, tokens, None)
        others.add(found.schedule)
        idle, ahead = (
            [time_of(x, world_size, tokens, call, queued=queued) for x in (found, rule)]
            for queued in (False, True)
        )
        if found == rule:
            candidates = (RingOptions(schedule=name) for name in ("grouped", "gather"))
            for other in candidates:
                slower = time_of(other, world_size, tokens, call) >= (1 - MARGIN) * idle[1]
                assert slower or time_of(other, world_size, tokens, call, queued=True) > ahead[1]
        else:
            assert idle[0] < (1 - MARGIN) * idle[1]
            assert ahead[0] <= ahead[1]
    assert "steps" in others
    assert len(others) > 1, "it never takes anything but the rule"


TAKEN = {
    "a forward of 8 ranks, whose merges are saved": (8, 8192, {"backward": False}, "gather"),
    "training there, which hides them": (8, 8192, {"backward": True}, "steps"),
    "two ranks, where all is one": (2, 8192, {"backward": False}, "steps"),
    "keys that are as wide as queries": (
        8, 4096, {"backward": False, "heads_kv": 32, "transport": "p2p"}, "steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("world_size", "tokens", "call", "schedule"), TAKEN.values(), ids=TAKEN)
def test_what_is_taken(world_size, tokens, call, schedule):
    assert took(world_size, tokens, known(**call)).schedule == schedule


def test_one_launch_stays_where_a_launch_can_wait():
    for world_size, tokens in product((2, 4, 8), (2048, 8192, 32768)):
        call = known("triton", able=GATHERS, backward=True)
        assert took(world_size, tokens, call, waits=True).schedule == "one_launch"


def test_but_not_where_steps_are_said_to_be_faster():
    """On a link so slow that partials of all ranks, when a launch ends, cost more than merges."""
    slow = {"copy_engine": replace(H200.ways["copy_engine"], bandwidth=20e9)}
    call = known("triton", able=GATHERS, backward=True, heads_kv=32)
    call = replace(call, asked=replace(call.asked, machine=replace(H200, ways=slow)))
    found = took(4, 8192, call, waits=True)
    assert found.schedule == "steps"
    one = RingOptions(schedule="one_launch")
    assert time_of(found, 4, 8192, call) < (1 - MARGIN) * time_of(one, 4, 8192, call)


NAMED = [
    {"schedule": "steps"}, {"schedule": "grouped"}, {"schedule": "gather"}, {"grouping": None},
    {"grouping": (3, 4)}, {"schedule": "gather", "slots": 2}, {"schedule": "steps", "slots": 5},
]  # fmt: skip


@pytest.mark.parametrize("named", NAMED, ids=str)
def test_what_was_asked_for_never_changes(named):
    options = RingOptions(**named)
    call = known(options=options, backward=False)
    assert took(8, 8192, call).schedule != "steps"
    assert took(8, 8192, call, options) == took(8, 8192, None, options)


def test_slots_that_were_asked_for_are_kept():
    call = known(backward=False)
    for slots in (1, 2, 7):
        assert took(8, 8192, call, RingOptions(slots=slots)).slots == slots


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_budget_holds_for_it_too(partition):
    for shards in (1, 2, 3, 5, 7):
        options = RingOptions(landing_tokens=shards * 8192)
        for waits, able in ((False, BLOCKS), (True, GATHERS)):
            call = known("triton", able=able, options=options, backward=False)
            layout = layout_of(partition, 8, 8192, CAUSAL, options, waits=waits, known=call)
            found = plans(layout, able)
            assert max(one.slots * one.landing_tokens for one in found) <= options.landing_tokens


def test_all_settle_alike_and_what_is_settled_stays():
    for world_size, tokens in product((1, 2, 3, 5, 8), (1024, 16384)):
        call = known(backward=False)
        found = took(world_size, tokens, call)
        assert found == took(world_size, tokens, known(backward=False))
        assert "auto" not in (found.schedule, found.grouping, found.slots)
        assert took(world_size, tokens, call, found) == found


def test_a_kernel_that_lacks_a_block_is_left_to_the_rule():
    """Which is refused with a reason, as ever."""
    lacks = Abilities(frozenset({Form.FULL}))
    assert took(8, 8192, known(able=lacks, backward=False)) == took(8, 8192, None)


@pytest.mark.parametrize(
    "unknown",
    [{"gpu": "NVIDIA H100"}, {"gpu": ""}, {"kernel": "flex"}, {"transport": "all_gather"},
     {"dtype": "float32"}],
    ids=str,
)  # fmt: skip
def test_without_figures_it_is_the_rule(unknown):
    assert known(**unknown) is None


def made(rank, *, needs, grad=True, gpu="NVIDIA H200"):
    """How many tokens each step of a rank's call brings; needs: whether an input has a gradient."""
    ring = SimpleNamespace(
        options=AUTO, world_size=8, rank=rank, gpu=gpu, arrives=False, transport="copy_engine",
        hands_on=True,
    )  # fmt: skip
    asked = problem(seqlen=8 * 8192, device="cpu", backward=needs)
    with torch.set_grad_enabled(grad):
        job, _ = OnRing(ring).made(asked, Options(backend="aten", causal=True, partition="zigzag"))
    return [step.landing_tokens for step in job.plan.steps[1:]]


def test_ranks_take_the_same_steps_whoever_needs_a_gradient():
    """A rank whose inputs need none takes part in what the others' do; only without any gradients
    is it a forward alone that counts."""
    assert len(made(0, needs=True)) == len(made(1, needs=False)) == 7
    assert len(made(0, needs=False, grad=False)) < 7
    assert len(made(0, needs=False, grad=False, gpu="")) == 7


def test_a_choice_is_said_once_and_a_rule_only_to_who_asks(caplog):
    announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="ring_attn_bench"):
        found = took(8, 8192, known(backward=False))
        for _ in range(2):
            announce(found, "flash_attn_4", "copy_engine", "NVIDIA H200", 8)
            announce(took(8, 8192, None), "flex", "p2p", "", 8)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        (
            "WARNING",
            "schedule 'auto' chose gather, grouping 7, slots 1 for flash_attn_4 over copy_engine "
            "on 8 ranks of NVIDIA H200; RingOptions(schedule=) chooses.",
        ),
        (
            "INFO",
            "schedule 'auto' chose steps, grouping unset, slots 2 by rule: no figures are known "
            "for flex over p2p on 8 ranks.",
        ),
    ]
    announce.cache_clear()
