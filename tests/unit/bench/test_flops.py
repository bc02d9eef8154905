"""Work counted pair by pair, and the length at which one device has its share of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.bench import flops
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case


@st.composite
def cases(draw, longest=40):
    window = st.integers(-1, 30)
    heads_kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Case(
        batch=draw(st.integers(1, 3)),
        seqlen_total=draw(st.integers(1, longest)),
        world_size=1,
        heads_q=heads_kv * group,
        heads_kv=heads_kv,
        head_dim=draw(st.sampled_from([1, 8, 64])),
        dtype="bfloat16",
        causal=draw(st.booleans()),
        window=(draw(window), draw(window)),
    )


def pairs(case, length):
    """The allowed pairs of a sequence, counted."""
    left, right = (length if side < 0 else side for side in case.window)
    right = 0 if case.causal else right
    return sum(1 for i in range(length) for j in range(length) if -left <= j - i <= right)


def multiplications(case, direction, length):
    """Of every matrix product, counted by head and batch entry."""
    products = {Direction.FORWARD: 2, Direction.BACKWARD: 5, Direction.FORWARD_BACKWARD: 7}
    return sum(
        products[direction] * case.head_dim * pairs(case, length)
        for _ in range(case.batch * case.heads_q)
    )


@settings(deadline=None)
@given(cases())
def test_the_area_is_the_number_of_allowed_pairs(case):
    assert flops.area(case) == pairs(case, case.seqlen_total)


@pytest.mark.parametrize("direction", Direction)
@settings(deadline=None)
@given(case=cases())
def test_flops_are_two_for_each_multiplication_of_an_allowed_pair(direction, case):
    counted = 2 * multiplications(case, direction, case.seqlen_total)
    assert flops.flops(case, direction, flops.area(case)) == counted


def test_full_attention_is_the_fields_four_s_squared_h_d_and_backward_two_and_a_half_times_it():
    case = Case(batch=2, seqlen_total=4096, world_size=4, heads_q=32, heads_kv=8, head_dim=128,
                dtype="bfloat16", causal=False)  # fmt: skip
    area = flops.area(case)
    forward = flops.flops(case, Direction.FORWARD, area)
    assert forward == 4 * 4096**2 * 32 * 128 * 2
    assert flops.flops(case, Direction.BACKWARD, area) == 2.5 * forward
    assert flops.flops(case, Direction.FORWARD_BACKWARD, area) == 3.5 * forward


def test_causal_is_half_of_full_and_half_a_diagonal_more():
    case = Case(batch=1, seqlen_total=1000, world_size=1, heads_q=1, heads_kv=1, head_dim=64,
                dtype="bfloat16", causal=True)  # fmt: skip
    assert flops.area(case) == 1000 * 1000 / 2 + 1000 / 2


@settings(deadline=None)
@given(cases(longest=300), st.integers(1, 9), st.sampled_from([1, 4, 16]))
def test_no_other_multiple_of_the_unit_is_nearer_to_one_devices_share(case, devices, unit):
    share = flops.area(case) / devices
    found = flops.equal_work_length(case, devices, unit)

    def miss(length):
        return abs(flops.band(case).area(length, length) - share)

    assert found > 0
    assert found % unit == 0
    longest = case.seqlen_total + unit
    assert miss(found) == min(miss(n) for n in range(unit, longest + 1, unit))


@pytest.mark.parametrize(
    ("devices", "causal", "window", "length"),
    [
        (1, True, (-1, -1), 65536),
        (4, False, (-1, -1), 32768),
        (4, True, (-1, -1), 32768),
        (16, True, (-1, -1), 16384),
        (4, True, (0, -1), 16384),
        (4, True, (1023, -1), 16768),
    ],
)
def test_one_devices_share_of_64k_tokens_is_a_root_shorter_or_in_a_window_a_share(
    devices, causal, window, length
):
    case = Case(batch=1, seqlen_total=65536, world_size=4, heads_q=1, heads_kv=1, head_dim=64,
                dtype="bfloat16", causal=causal, window=window)  # fmt: skip
    assert flops.equal_work_length(case, devices) == length
