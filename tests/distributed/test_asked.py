"""Ranks that ask for different options are told so before anything follows from them."""

from __future__ import annotations

import pytest

from ring_attn_bench import RingContext, RingOptions
from tests.distributed.pool import Raised, Ring

HERE = "p2p"
ASKED = [
    ((RingOptions(HERE), RingOptions()), "transport is p2p on rank 0, auto on rank 1"),
    ((RingOptions(), RingOptions(HERE)), "transport is auto on rank 0, p2p on rank 1"),
    (
        (RingOptions(handshake=False), RingOptions(handshake=True)),
        "handshake is false on rank 0, true on rank 1",
    ),
    (
        (RingOptions(slots=2), RingOptions(slots=3, gradients="input")),
        "slots is 2 on rank 0, 3 on rank 1; gradients is float32 on rank 0, input on rank 1",
    ),
]


def differently(ring: Ring, asked: tuple[RingOptions, ...]) -> None:
    RingContext(ring.group, asked[ring.rank])


@pytest.mark.parametrize(("asked", "sentence"), ASKED)
def test_ranks_that_ask_for_different_options_are_told_who_asked_for_what(ranks, asked, sentence):
    for answer in ranks.outcomes(differently, asked, world_size=2):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds
        assert f"ask for different options: {sentence}; every rank must" in answer.text


def test_ranks_that_ask_for_the_same_are_named_together(ranks):
    asked = (RingOptions(), RingOptions(), RingOptions(slots=3), RingOptions())
    for answer in ranks.outcomes(differently, asked):
        assert "slots is auto on ranks 0, 1, 3, 3 on rank 2;" in answer.text


def corrected(ring: Ring) -> str:
    try:
        RingContext(ring.group, RingOptions(slots=2 + ring.rank))
    except ValueError:
        return RingContext(ring.group, RingOptions(slots=2)).transport
    raise AssertionError


def test_a_context_can_be_made_after_one_whose_options_differed(ranks):
    assert ranks.run(corrected, world_size=2) == [HERE] * 2
