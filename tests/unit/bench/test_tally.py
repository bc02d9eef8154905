"""What errors are made of, by hand; and that a tally of pieces is that of the whole."""

import pytest
import torch

from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.tally import Tally

PLACE = WorkerPlace(0, 1, torch.device("cpu"), (0,), 1)
SHAPE = (2, 64, 4, 16)


def truth(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fine(result, exact):
    tally = Tally(size=1.0)
    tally.add(result, exact)
    return tally.over(PLACE).precision


def test_rounding_once_is_the_floor_half_an_ulp_and_no_bias():
    exact = truth()
    found = fine(exact.bfloat16(), exact)
    difference = exact.bfloat16().double() - exact
    assert found.floor_rmse == pytest.approx(difference.square().mean().sqrt().item())
    assert found.ulps_max <= 0.5
    assert 0.45 <= found.ulps_p99 <= 0.53
    assert abs(found.bias) < 3 * found.bias_error
    assert abs(found.gain) < 3 * found.gain_error


def test_an_offset_is_a_bias_and_no_gain():
    exact = truth()
    found = fine((exact + 0.01).float(), exact)
    assert found.bias == pytest.approx(0.01, rel=1e-4)
    assert found.bias_error < 1e-6
    assert abs(found.gain) < 3e-4


def test_rounding_towards_zero_is_a_gain_and_no_bias():
    exact = truth()
    bits = exact.float().view(torch.int32) & ~0xFFFF
    found = fine(bits.view(torch.float32).bfloat16(), exact)
    assert abs(found.bias) < 3 * found.bias_error
    assert found.gain < -10 * found.gain_error
    assert found.ulps_max == pytest.approx(1.0, abs=0.01)


def test_the_largest_error_is_not_that_of_the_value_nearest_to_zero():
    exact = truth()
    exact[0, 0, 0, 0] = 1e-40
    result = exact.float()
    result[0, 0, 0, 0] = 2.0**-23
    found = fine(result, exact)
    assert found.ulps_max == pytest.approx(1.0)


def test_a_value_that_is_not_finite_leaves_nothing_to_say():
    exact = truth()
    result = exact.float()
    result[0, 0, 0, 0] = float("nan")
    assert fine(result, exact) is None


def test_the_lse_of_a_row_that_sees_nothing_is_no_error():
    exact = torch.randn(1, 2, 8, dtype=torch.float64)
    exact[..., 3] = -torch.inf
    found = fine(exact.float(), exact)
    assert found.ulps_max <= 0.5


@pytest.mark.parametrize("shape", [SHAPE, (2, 4, 64)])
def test_pieces_add_up_to_the_whole(shape):
    exact = torch.randn(shape, dtype=torch.float64)
    result = (exact + 1e-3 * torch.randn_like(exact)).bfloat16()
    found = []
    for piece in (2**24, 100):
        tally = Tally(size=1.0, piece=piece)
        tally.add(result, exact)
        found.append(tally.over(PLACE))
    one, many = found
    assert one.whole.max_abs == many.whole.max_abs
    assert one.whole.rmse == pytest.approx(many.whole.rmse)
    for heads, others in zip(one.by_head, many.by_head, strict=True):
        assert heads == pytest.approx(others)
    assert many.precision.model_dump() == pytest.approx(one.precision.model_dump())
