"""Packed documents of all kinds on one to four ranks: right by a float64 truth, or refused on all.

`scripts/hostile_calls.py --rings` makes more of these calls.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from tests.distributed.pool import Ring
from tests.hostile.campaign import REFUSED, RIGHT
from tests.hostile.ring_answers import ask, faults, refused
from tests.hostile.ring_campaign import CAUGHT, Tally, caught, run
from tests.hostile.ring_mistakes import DIFFERENCES, MISTAKES
from tests.hostile.rings import Case, drawn

CASE = Case(2, "own", (0, 3, 3, 14), 8, needs=("qkv", "qkv"))


def test_every_call_is_right_on_all_ranks_or_refused_on_all(ranks):
    tally = run(0, 60, ranks, mistakes=0.0)

    assert not tally.failures, str(tally)
    assert tally.counts[RIGHT] > 40
    assert tally.counts[RIGHT] + tally.counts[REFUSED] == 60


@pytest.mark.full
def test_more_calls_are_right_or_refused(ranks):
    tally = run(1, 150, ranks)

    assert not tally.failures, str(tally)


@pytest.mark.parametrize("form", ["own", "ring", "zigzag_ring", "llama3"])
def test_every_mistake_is_a_sentence_on_all_ranks(ranks, form):
    padded = form in ("own", "ring")
    case = replace(CASE, form=form, starts=(0, 4, 4, 14 if padded else 16))
    tally = Tally()
    for mistake in MISTAKES:
        caught(tally, ranks, case, mistake, (1,))

    assert not tally.failures, str(tally)
    assert tally.counts[CAUGHT] == len(MISTAKES)


def test_every_difference_between_ranks_is_a_sentence_on_all(ranks):
    tally = Tally()
    for difference in DIFFERENCES:
        caught(tally, ranks, CASE, difference, (0,))

    assert not tally.failures, str(tally)


# that it can fail


def spoiled(ring: Ring, case: Case, name: str, rank: int) -> dict[str, torch.Tensor]:
    found = ask(ring, case)
    if ring.rank == rank and found[name].numel():
        found[name].view(-1)[0] += 1e-3
    return found


@pytest.mark.parametrize("name", ["out", "lse", "dq", "dk", "dv", "dsink"])
def test_a_planted_wrong_number_is_found(ranks, name):
    case = replace(CASE, sink=True)
    answers = ranks.run(spoiled, case, name, 1, world_size=2)

    assert any(fault.startswith(name) for fault in faults(case, answers))


def test_a_mistake_that_a_rank_takes_is_found(ranks):
    answers = ranks.outcomes(ask, CASE, world_size=2)

    assert refused(answers) == ["rank 0 took it", "rank 1 took it"]


def test_a_seed_always_draws_the_same_calls():
    first, again, other = (repr(drawn(Random(seed))) for seed in (4, 4, 5))  # a NaN is no NaN

    assert first == again != other
