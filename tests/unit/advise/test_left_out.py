"""Advice is right on rows that were left out of its records, and says how it knows."""

from statistics import median

import pytest

from ring_attn_bench.advise import model
from ring_attn_bench.advise.answer import advised
from ring_attn_bench.advise.estimate import HowKnown, estimate
from ring_attn_bench.advise.question import Question
from ring_attn_bench.plan import cost
from ring_attn_bench.ring import fastest
from tests.unit.advise import committed

RUNS = {run: committed.figures(run) for run in (committed.RING, committed.OLDER_RING)}
RING, OLDER = RUNS.values()
LARGER = committed.figures(*committed.PLAYED)
LENGTHS = (2048, 4096, 8192, 16384, 32768)
NOT_SMOOTH = ((committed.OLDER_RING, False, 16384), (committed.RING, True, 4096))
"""By run, backward and length, where the fastest is one that no neighbour shows: see below."""
ROWS = [(run, backward, n) for run in RUNS for backward in (False, True) for n in LENGTHS]


def left_out(run, backward, tokens):
    """Of what was measured at that length, by way; and the advice that knows nothing of it."""
    there = {
        f.way: f
        for f in RUNS[run]
        if f.shape.seqlen_per_gpu == tokens and f.shape.backward == backward
        if f.shape.heads_kv == 8 and f.shape.causal
    }
    # a way that was not measured there cannot be judged there
    rest = [f for f in RUNS[run] if f.shape.seqlen_per_gpu != tokens and f.way in there]
    return there, advised(Question(32, 8, 128, 2 * tokens, 2, backward=backward), rest)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in NOT_SMOOTH])
def test_what_is_named_is_within_3_percent_of_the_fastest_that_was_measured(row):
    there, advice = left_out(*row)

    assert advice.best.known in (HowKnown.BETWEEN, HowKnown.BEYOND)
    named, best = there[advice.best.way], min(f.ms for f in there.values())
    assert named.ms <= 1.03 * best, f"{named.way.name}: {named.ms} ms, and {best}"


def test_in_16_of_20_rows_what_is_named_is_the_fastest():
    found = [left_out(*row) for row in ROWS]
    named = [(there[advice.best.way].ms, there.values()) for there, advice in found]

    assert sum(ms == min(f.ms for f in others) for ms, others in named) == 16


def test_kept_keys_that_were_measured_far_off_are_6_percent_faster_at_4k_and_are_not_named():
    # by the model from 16K, where they gain 2 %; 2.05 ms without, and 1.93 with
    there, advice = left_out(committed.RING, backward=True, tokens=4096)
    named, best = there[advice.best.way], min(there.values(), key=lambda f: f.ms)

    assert named.way.name == "triton/zigzag/copy_engine/one_launch"
    assert best.way.name == "triton/zigzag/copy_engine/one_launch/keep_keys"
    assert 1.06 * best.ms < named.ms < 1.065 * best.ms


def test_the_one_row_that_no_neighbour_shows_is_within_4_percent_and_their_intervals_meet():
    # Forward at 16K: flash_attn_4 by messages, 6.49 ms (6.30 to 6.77), is 13 and 2 % slower than
    # triton's one launch at 8K and 32K, and 4 % faster here; triton has 6.74 (6.65 to 6.84).
    there, advice = left_out(committed.OLDER_RING, backward=False, tokens=16384)
    named, best = there[advice.best.way], min(there.values(), key=lambda f: f.ms)

    assert named.way.name == "triton/zigzag/copy_engine/one_launch"
    assert best.way.name == "flash_attn_4/zigzag/p2p/steps"
    assert 1.03 * best.ms < named.ms < 1.04 * best.ms
    assert named.low < best.high
    for tokens in (8192, 32768):
        here, _ = left_out(committed.OLDER_RING, backward=False, tokens=tokens)
        assert here[named.way].ms < 0.99 * here[best.way].ms


@pytest.mark.parametrize(("run", "backward", "tokens"), ROWS)
def test_between_lengths_it_interpolates_and_at_the_ends_it_says_that_the_model_speaks(
    run, backward, tokens
):
    there, advice = left_out(run, backward, tokens)
    known = {each.known for each in advice.ways if each.way.is_ours}

    assert known <= {HowKnown.BETWEEN, HowKnown.BEYOND}
    if tokens in (LENGTHS[0], LENGTHS[-1]):
        assert known == {HowKnown.BEYOND}
        assert all("by the model from" in each.words for each in advice.ways)
        peers = [way for way in there if not way.is_ours]
        assert set(peers) == set(advice.unknown), "no model knows other people's rings"


def off(targets, sources):
    """By how much times are estimated wrong, as shares."""
    found = []
    for figure in targets:
        each = estimate(figure.way, [f for f in sources if f.way == figure.way], figure.shape)
        if each is not None:
            found.append(abs(each.ms / figure.ms - 1))
    return sorted(found)


OF_OURS = {
    (HowKnown.BETWEEN, 4096): ((0.14, 0.25), (0.11, 0.43)),
    (HowKnown.BETWEEN, 8192): ((0.03, 0.24), (0.12, 0.41)),
    (HowKnown.BETWEEN, 16384): ((0.04, 0.09), (0.03, 0.06)),
    (HowKnown.BEYOND, 2048): ((0.17, 0.27), (0.27, 0.58)),
    (HowKnown.BEYOND, 32768): ((0.02, 0.11), (0.03, 0.11)),
}
"""What half of them are less off than, and the worst: of the older run, and of the other."""


@pytest.mark.parametrize(("known", "tokens"), OF_OURS)
def test_times_of_ours_are_as_far_off_as_docs_say(known, tokens):
    runs = (committed.OLDER_RING, committed.RING)
    for run, (half, worst) in zip(runs, OF_OURS[known, tokens], strict=True):
        found = []
        for backward in (False, True):
            there, advice = left_out(run, backward, tokens)
            ours = (each for each in advice.ways if each.way.is_ours and each.known is known)
            found += [abs(each.ms / there[each.way].ms - 1) for each in ours]
        assert half - 0.04 < median(found) < half, run
        assert worst - 0.04 < max(found) < worst, run


@pytest.mark.parametrize(
    ("sources", "half", "most", "worst"),
    [(OLDER, 0.03, 0.09, 0.22), (RING, 0.05, 0.10, 0.39)], ids=["same day", "slower host"],
)  # fmt: skip
def test_rings_of_4_and_8_from_rings_of_2_are_3_to_5_percent_off_and_10_in_four_of_five_cases(
    sources, half, most, worst
):
    found = off(LARGER, sources)

    assert len(found) == 34
    assert median(found) < half
    assert found[int(0.8 * len(found))] < most
    assert found[-1] < worst


def test_memory_of_larger_rings_is_within_a_third():
    for figure in LARGER:
        each = estimate(figure.way, [f for f in RING if f.way == figure.way], figure.shape)
        assert each.call == pytest.approx(figure.call, rel=1 / 3)


def test_the_model_is_the_one_that_auto_reads():
    assert model.cost is fastest.cost is cost
    assert model.MACHINES is fastest.MACHINES


def test_a_host_that_is_slow_at_a_short_length_says_nothing_of_a_long_one():
    short = next(
        f for f in RING
        if f.way.name == "flash_attn_4/zigzag/copy_engine/steps"
        if f.shape.seqlen_per_gpu == 2048 and not f.shape.backward
    )  # fmt: skip
    slow = short.model_copy(update={"ms": 10 * short.ms})
    shape = short.shape.model_copy(update={"seqlen_per_gpu": 65536})
    times = [estimate(short.way, [each], shape).ms for each in (short, slow)]

    assert model.on_the_gpu(short.way, short.shape) < 0.5 < model.on_the_gpu(short.way, shape)
    assert times[1] < 5 * times[0]
