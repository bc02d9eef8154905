"""Units in the last place are the distance of neighbouring values, whatever the dtype."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.truth import ulps

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1.0, 1.5, 0.75, 3e-3, 1e-7, 6e4, -2.0])
def test_an_ulp_is_the_step_to_the_next_larger_value(dtype, value):
    at = torch.tensor([abs(value)], dtype=dtype)
    steps = at.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]) + 1
    step = steps.view(dtype).double() - at.double()
    signed = math.copysign(1.0, value) * at.double()
    assert ulps.ulp(signed, dtype).item() == step.item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_zero_an_ulp_is_the_smallest_number(dtype):
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert ulps.ulp(torch.zeros(1), dtype).item() == smallest


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_quantile_is_at_most_one_bin_above_the_true_one(low, high):
    errors = torch.tensor([low] * 98 + [high] * 2, dtype=torch.float64)
    found = ulps.quantile(ulps.histogram(errors), 0.99)
    exact = errors.sort().values[98].item()
    assert exact * (1 - 1e-9) <= found <= exact * 2 ** (1 / 16) * (1 + 1e-9)


def test_histograms_of_parts_add_up_and_nothing_falls_out():
    errors = torch.tensor([0.0, 1e-300, 0.5, 7.0, 1e300, math.inf, math.nan], dtype=torch.float64)
    whole = ulps.histogram(errors)
    parts = ulps.histogram(errors[:3]) + ulps.histogram(errors[3:])
    assert torch.equal(whole, parts)
    assert int(whole.sum()) == len(errors)
    assert ulps.quantile(whole, 0.2) == 0.0
    assert ulps.quantile(ulps.histogram(errors[:0]), 0.99) == 0.0
