"""Two threads in one ring at once are refused; in turns, or with a ring of each, they are not."""

from __future__ import annotations

import time
from threading import Thread

import pytest
import torch

from ring_attn_bench import InvalidArgument, RingContext, RingOptions, zigzag_ring_flash_attn_func
from tests.distributed.pool import Ring

INSIDE = 0.5
"""Seconds for which the first thread's pass is kept from its end."""
AT_ONCE = "two threads called one ring at once"


def call(context: RingContext, value: float) -> torch.Tensor:
    """Attention over values that are all alike: out is that value, whatever the weights."""
    x = torch.full((1, 4, 2, 8), value).requires_grad_()
    return zigzag_ring_flash_attn_func(x, x, x, context=context)


def slow(context: RingContext) -> None:
    """Keeps what is inside a forward pass there for a while."""
    begin = context.begin

    def waits(plan: object) -> object:
        time.sleep(INSIDE)
        return begin(plan)

    context.begin = waits


def said(context: RingContext, value: float) -> object:
    """What comes out, or the sentence."""
    try:
        return call(context, value).unique().tolist()
    except InvalidArgument as error:
        return str(error)


def in_threads(
    context: RingContext, values: tuple[float, ...], apart: float
) -> dict[float, object]:
    found: dict[float, object] = {}

    def keep(value: float) -> None:
        found[value] = said(context, value)

    threads = [Thread(target=keep, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
        time.sleep(apart)
    for thread in threads:
        thread.join()
    return found


def crossed(ring: Ring, handshake: bool | None) -> tuple[dict[float, object], object, float]:
    context = RingContext(ring.group, RingOptions(handshake=handshake))
    call(context, 3.0)
    slow(context)
    began = time.monotonic()
    # the first of one rank is the second of the other: whoever is paired is paired wrongly
    found = in_threads(context, (1.0, 2.0) if ring.rank else (2.0, 1.0), INSIDE / 5)
    return found, said(context, 4.0), time.monotonic() - began


@pytest.mark.parametrize("handshake", [None, False])
def test_threads_that_meet_in_one_ring_are_refused_and_it_serves_on(ranks, handshake):
    for found, after, seconds in ranks.run(crossed, handshake, world_size=2):
        assert all(AT_ONCE in str(text) for text in found.values()), found
        assert after == [4.0]
        assert seconds < 10


def on_one_rank(ring: Ring) -> tuple[object, float]:
    context = RingContext(ring.group)
    call(context, 3.0)
    slow(context)
    began = time.monotonic()
    if ring.rank == 0:
        return in_threads(context, (1.0, 2.0), INSIDE / 5), time.monotonic() - began
    return [said(context, 1.0), said(context, 2.0)], time.monotonic() - began


def test_the_others_hear_of_a_refused_thread_as_of_any_refusal(ranks):
    (first, _), (second, seconds) = ranks.run(on_one_rank, world_size=2)
    assert all(AT_ONCE in str(text) for text in first.values()), first
    assert second[0] == [1.0]
    assert "rank 0 of the ring refused its arguments" in second[1]
    assert seconds < 10


def backward_beside(ring: Ring) -> tuple[object, object]:
    context = RingContext(ring.group)
    out = call(context, 3.0)
    slow(context)
    first = Thread(target=said, args=(context, 1.0))
    first.start()
    time.sleep(INSIDE / 5)
    try:
        out.sum().backward()
    except InvalidArgument as error:
        first.join()
        return str(error), said(context, 4.0)
    return "nothing", None


def test_a_backward_beside_another_threads_forward_is_refused(ranks):
    for text, after in ranks.run(backward_beside, world_size=2):
        assert AT_ONCE in text
        assert after == [4.0]


def in_turns(ring: Ring) -> list[object]:
    found: list[object] = []
    own = RingContext(ring.group), RingContext(ring.group)
    for apart, contexts in ((2 * INSIDE, own[:1] * 2), (0.0, own)):
        values: dict[int, object] = {}

        def keep(place: int, context: RingContext, values: dict[int, object] = values) -> None:
            out = call(context, float(place))
            out.sum().backward()
            values[place] = out.unique().tolist()

        threads = [Thread(target=keep, args=(at, one)) for at, one in enumerate(contexts)]
        for thread in threads:
            thread.start()
            time.sleep(apart)
        for thread in threads:
            thread.join()
        found.append(values)
    return found


def test_threads_that_take_turns_or_have_a_context_each_are_served(ranks):
    for found in ranks.run(in_turns, world_size=2):
        assert found == [{0: [0.0], 1: [1.0]}] * 2


def first_calls(ring: Ring) -> list[object]:
    threads_found: dict[int, object] = {}

    def keep(place: int) -> None:
        x = torch.full((1, 4, 2, 8), float(place))
        try:
            threads_found[place] = zigzag_ring_flash_attn_func(x, x, x).unique().tolist()
        except Exception as error:
            threads_found[place] = f"{type(error).__name__}: {error}"

    threads = [Thread(target=keep, args=(at,)) for at in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [threads_found[1], threads_found[2]]


def test_threads_whose_first_calls_meet_are_right_or_told(ranks):
    for found in ranks.run(first_calls, world_size=4):
        for value, text in zip((1.0, 2.0), found, strict=True):
            assert text == [value] or "InvalidArgument" in text, found
