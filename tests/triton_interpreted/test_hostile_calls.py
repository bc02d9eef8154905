"""Hostile and odd calls of the Triton kernels; `tests/hostile` says what is asked."""

from tests.hostile.campaign import REFUSED, RIGHT, report, run


def test_every_call_is_right_or_refused_in_a_sentence():
    tally = run(0, 150, ("triton",))

    assert tally.failures == 0, report(tally)
    assert min(tally.counts[RIGHT], tally.counts[REFUSED]) > 30
