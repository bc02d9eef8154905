"""Where a ring's time goes: by hand, and never a share of it that cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.records.breakdown import Lost, breakdown
from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.record import Samples, Speed

CEILINGS = Ceilings(
    dtype="bfloat16", matmul_tflops=(500.0, 400.0), copy_gbs=(4000.0,), messages_gbs=(100.0, 90.0),
    pulls_gbs=(200.0, 210.0),
)  # fmt: skip


def around(ms, spread=0.0, count=20):
    """Two ranks, the slower of which takes that long, a bit more and a bit less in turn."""
    return [[ms / 2, ms * (1 + spread * (at % 5 - 2) / 2)] for at in range(count)]


def speed(ring=10.0, twin=8.0, one=3.0, spread=0.0, count=20, **changes):
    """One call had half of one GPU's share of the work, which a busiest rank had 1.1 times."""
    fields = {
        "samples": Samples(
            ring=around(ring, spread, count), twin=around(twin, spread, count),
            one_gpu=around(one, spread, count),
        ),
        "useful_flops": 4 * 10**12, "executed_flops": 4 * 10**12, "devices": 2, "imbalance": 1.1,
        "one_gpu_flops": 10**12, "link_bytes": 10**8,
    }  # fmt: skip
    return Speed(**{**fields, **changes})


@pytest.fixture(scope="session")
def broken_down(make_record, make_case):
    def made(of=None, ceilings=CEILINGS, case=None, **changes):
        record = make_record(
            case=case or make_case(world_size=2), speed=of or speed(), ceilings=ceilings, **changes
        )
        return breakdown(record)

    return made


def test_parts_by_hand(broken_down):
    found = broken_down()

    assert (found.ring, found.ideal) == (10.0, 6.0)
    assert found.uneven == pytest.approx(0.6)
    assert found.launches.ms == pytest.approx(8.0 - 6.6)
    assert found.communication == Lost(2.0, 2.0, 2.0)
    assert found.link == pytest.approx(0.5)  # 100 MB at 200 GB/s
    assert found.percent_of_link == pytest.approx(5.0)
    assert (found.exposed, found.waiting) == (pytest.approx(0.5), pytest.approx(1.5))
    assert found.hidden == pytest.approx(0.0)
    assert found.percent_of_matmul == pytest.approx(100 * 200 / 400)
    assert found.lost == pytest.approx(0.4)
    assert found.mostly == "communication"


def test_what_the_link_takes_beyond_what_the_ring_waits_is_hidden(broken_down):
    found = broken_down(speed(ring=10.0, twin=9.7, link_bytes=10**9))

    assert found.link == pytest.approx(5.0)
    assert found.exposed == pytest.approx(0.3)
    assert found.hidden == pytest.approx(4.7)
    assert found.waiting == pytest.approx(0.0)
    assert found.mostly == "launches"


def test_a_difference_that_may_be_chance_is_noise_and_no_part_of_the_time(broken_down):
    found = broken_down(speed(ring=10.0, twin=10.05, one=4.5, spread=0.1))

    assert found.communication.is_noise
    assert found.communication.ms == pytest.approx(-0.05)
    assert found.communication.low < 0 < found.communication.high
    assert (found.exposed, found.waiting) == (0.0, 0.0)
    assert found.hidden == found.link


def test_a_ring_that_is_faster_than_one_call_has_lost_nothing(broken_down):
    found = broken_down(speed(ring=5.0, twin=5.2, one=3.0, imbalance=1.0))

    assert found.lost == 0.0
    assert found.launches.high < 0
    assert found.launches.sure == found.communication.sure == 0.0
    assert found.mostly == ""


def test_uneven_work_is_named_where_it_is_most(broken_down):
    assert broken_down(speed(ring=11, twin=10.6, imbalance=1.7)).mostly == "uneven work"


def test_with_too_few_samples_nobody_says_how_sure_a_part_is(broken_down):
    found = broken_down(speed(count=6, imbalance=1.0))

    assert found.communication == Lost(2.0)
    assert found.communication.is_noise
    assert found.mostly == ""


def test_by_loopback_nothing_travels_and_all_ranks_work_is_one_devices(
    broken_down, make_contestant
):
    looped = make_contestant(played="loopback")
    of = speed(devices=1, ring=20.0, imbalance=1.75, link_bytes=None)
    found = broken_down(of.model_copy(update={"samples": Samples(
        ring=of.samples.ring, one_gpu=of.samples.one_gpu)}), contestant=looped)  # fmt: skip

    assert (found.communication, found.link, found.hidden) == (None, None, None)
    assert found.uneven == 0.0
    assert found.launches.ms == pytest.approx(20.0 - 12.0)


def test_of_a_peer_nothing_is_guessed_but_what_it_lost(broken_down, make_contestant):
    theirs = make_contestant(backend="peer:theirs")
    of = speed(executed_flops=None, imbalance=None, link_bytes=None)
    alone = of.samples.model_copy(update={"twin": []})
    found = broken_down(of.model_copy(update={"samples": alone}), contestant=theirs)

    assert found.lost == pytest.approx(0.4)
    assert (found.uneven, found.launches, found.communication, found.link) == (None,) * 4
    assert found.percent_of_matmul == pytest.approx(50.0)


def test_a_record_of_before_has_parts_and_no_percents(broken_down):
    found = broken_down(speed(link_bytes=None), ceilings=None)

    assert found.communication.ms == 2.0
    assert (found.link, found.percent_of_link, found.percent_of_matmul) == (None, None, None)
    assert (found.exposed, found.waiting, found.hidden) == (None, None, None)


def test_what_has_no_times_has_no_parts(make_record):
    assert breakdown(make_record(speed=None)) is None
    assert breakdown(make_record(interpreted=True)) is None


@given(data=st.data())
def test_parts_add_up_and_none_is_less_than_nothing(data, broken_down):
    times = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=12)
    ring, twin, one = ([[x] for x in data.draw(times)] for _ in range(3))
    of = speed(
        samples=Samples(ring=ring, twin=twin, one_gpu=one),
        imbalance=data.draw(st.floats(0.5, 4.0)),
        link_bytes=data.draw(st.integers(0, 10**12)),
    )
    found = broken_down(of)

    whole = found.ideal + found.uneven + found.launches.ms + found.communication.ms
    assert whole == pytest.approx(found.ring, rel=1e-6, abs=1e-6 * max(whole, found.ideal))
    parts = (found.uneven, found.exposed, found.waiting, found.hidden, found.link, found.lost)
    assert all(part >= 0 for part in parts)
    assert found.lost <= 1
    assert found.exposed + found.hidden == pytest.approx(found.link)
    assert found.exposed + found.waiting == pytest.approx(found.communication.sure)
    for lost in (found.launches, found.communication):
        if lost.low is not None:
            assert lost.low <= lost.ms + 1e-9 * abs(lost.ms)
            assert lost.ms <= lost.high + 1e-9 * abs(lost.ms)
