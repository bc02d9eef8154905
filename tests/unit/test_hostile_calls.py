"""No argument of a public function ends in a traceback from inside, and what is accepted is right.

`scripts/hostile_calls.py` makes more of these calls, and prints what went wrong.
"""

import pytest

from ring_attn_bench import flash_attn_func
from tests.hostile.campaign import (
    RAW,
    REFUSED,
    RIGHT,
    UNJUDGED,
    WRONG,
    Call,
    alone,
    outcome_of,
    report,
    run,
)
from tests.hostile.values import NAMESPACE

Q = "leaf(randn(1, 1, 3, 2, 8))"
DENSE = {"q": Q, "k": Q, "v": Q, "backend": "'reference'"}


@pytest.mark.parametrize("seed", range(4))
def test_every_call_is_right_or_refused_in_a_sentence(seed):
    tally = run(seed, 500, ("reference", "aten"))

    assert tally.failures == 0, report(tally)
    assert tally.counts[RIGHT] > 100
    assert tally.counts[REFUSED] > 100
    assert tally.counts[UNJUDGED] < 10


def test_the_same_seed_makes_the_same_calls():
    assert run(9, 60, ("reference",)).by_function == run(9, 60, ("reference",)).by_function


# that it can fail


def planted(**functions):
    return {**NAMESPACE, **functions}


def test_a_planted_traceback_is_found_and_made_small():
    def raises(*arguments, softcap=0.0, **options):
        if type(softcap) is not float:  # an integer too, which is a right one
            raise TypeError("planted")
        return flash_attn_func(*arguments, softcap=softcap, **options)

    tally = run(0, 800, ("reference",), planted(flash_attn_func=raises))

    assert tally.counts[RAW] == tally.failures > 0
    smallest = [call for kind, call in tally.smallest.items() if "TypeError" in kind.kind]
    assert smallest
    assert all(tuple(call.good) == ("softcap",) for call in smallest)
    assert "flash_attn_func(q=" in report(tally)
    assert "x raw: TypeError" in report(tally)


@pytest.mark.parametrize("name", ["causal", "window_size", "softmax_scale", "alibi_slopes", "sink"])
def test_a_planted_wrong_number_is_found(name):
    def ignores(*arguments, **options):
        options.pop(name, None)
        return flash_attn_func(*arguments, **options)

    tally = run(2, 800, ("reference",), planted(flash_attn_func=ignores))

    assert tally.counts[WRONG] > 0
    assert {call.function for call in tally.smallest.values()} == {"flash_attn_func"}
    assert all(name in call.arguments for call in tally.smallest.values())


def test_a_planted_wrong_gradient_is_found():
    def scaled(q, *arguments, **options):
        doubled = 2 * q - q.detach() if hasattr(q, "detach") and not q.is_sparse else q
        return flash_attn_func(doubled, *arguments, **options)

    with alone():
        found = outcome_of(Call("flash_attn_func", DENSE), planted(flash_attn_func=scaled))
        right = outcome_of(Call("flash_attn_func", DENSE))

    assert (found.what, right.what) == (WRONG, RIGHT)
    assert found.text.startswith("dq[")


def test_an_argument_that_is_taken_for_what_it_cannot_mean_is_found():
    def lax(*arguments, causal=False, **options):
        return flash_attn_func(*arguments, causal=bool(causal), **options)

    with alone():
        call = Call("flash_attn_func", DENSE | {"causal": "'no'"})
        found = outcome_of(call, planted(flash_attn_func=lax))

    assert found.what == WRONG
    assert "causal was taken for True or False" in found.text
