"""The rule for what is right, and planted faults that it must catch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.conformance.blocks import positions
from ring_attn_bench.conformance.cases import FULL, LOCAL
from ring_attn_bench.conformance.expected import expected
from ring_attn_bench.conformance.faults import faults
from ring_attn_bench.conformance.judge import (
    result_faults,
    two_block_faults,
)
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import DTYPES, Mask
from ring_attn_bench.truth import oracle, tolerance
from ring_attn_bench.truth.tolerance import Deviation
from tests.unit.conformance.faulty_adapters import (
    DefaultScale,
    HeadsInterleaved,
    IgnoredSoftcap,
    IgnoredWindow,
    LastKeyLost,
    LateCausal,
    LocalLse,
    Log2Lse,
    MissingDelta,
    SixteenBitLse,
    StrictlyCausal,
    StridesOfContiguous,
    TransposedLse,
    ZeroLse,
)

CPU = "cpu"
WINDOW = replace(LOCAL, title="window", mask=Mask(True, 17))
GROUPED = replace(LOCAL, title="grouped", heads=4, key_heads=2, storage="token_major")
LONGER = replace(LOCAL, title="longer", rows=(Span(40, 61),), keys=(Span(0, 101),))


FORWARD_FAULTS = [
    (Log2Lse, FULL),
    (ZeroLse, FULL),
    (SixteenBitLse, FULL),
    (TransposedLse, FULL),
    (IgnoredWindow, WINDOW),
    (StrictlyCausal, LOCAL),
    (LateCausal, LOCAL),
    (StridesOfContiguous, GROUPED),
    (HeadsInterleaved, GROUPED),
    (DefaultScale, replace(FULL, title="scaled", scale=0.31)),
    (IgnoredSoftcap, replace(FULL, title="softcap", softcap=2.5)),
    (LastKeyLost, FULL),
]
BACKWARD_FAULTS = [
    (IgnoredWindow, WINDOW),
    (StrictlyCausal, LOCAL),
    (LateCausal, LOCAL),
    (StridesOfContiguous, GROUPED),
    (IgnoredSoftcap, replace(FULL, title="softcap", softcap=2.5)),
    (MissingDelta, FULL),
]
TWO_BLOCK_FAULTS = [(Log2Lse, LONGER), (ZeroLse, LONGER), (LocalLse, LONGER)]


def named(faults):
    return [pytest.param(*fault, id=fault[0].__name__) for fault in faults]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("adapter", "case"), named(FORWARD_FAULTS))
def test_a_planted_fault_is_caught_forward(adapter, case, dtype):
    case = replace(case, dtype=dtype)
    assert result_faults(ReferenceBackend(), case, CPU, backward=False) == []
    assert result_faults(adapter(), case, CPU, backward=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("adapter", "case"), named(BACKWARD_FAULTS))
def test_a_planted_fault_is_caught_backward(adapter, case, dtype):
    case = replace(case, dtype=dtype)
    assert result_faults(ReferenceBackend(), case, CPU, backward=True) == []
    assert result_faults(adapter(), case, CPU, backward=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("adapter", "case"), named(TWO_BLOCK_FAULTS))
def test_a_planted_fault_is_caught_between_blocks(adapter, case, dtype):
    case = replace(case, dtype=dtype)
    assert two_block_faults(ReferenceBackend(), case, CPU) == []
    assert two_block_faults(adapter(), case, CPU)


def test_a_value_that_is_not_finite_is_never_right():
    truth = torch.zeros(4, dtype=torch.float64)
    for bad in (float("nan"), float("inf"), -float("inf")):
        error = tolerance.error(torch.tensor([0.0, bad, 0.0, 0.0]), truth)
        assert not error.within(Deviation(1e300, 1e300))


def test_minus_infinity_is_right_only_where_the_truth_has_it():
    empty = torch.tensor([-float("inf"), 1.0])
    assert tolerance.error(empty, empty.double()) == Deviation(0.0, 0.0)
    assert tolerance.error(torch.ones(2), empty.double()).max_abs == math.inf


def test_the_size_of_a_truth_leaves_out_infinities():
    assert tolerance.size(torch.tensor([3.0, -4.0, -float("inf"), 0.0])).max_abs == 4.0


def test_gradients_may_be_three_times_as_far_out_as_plain_torch_and_out_twice():
    baseline, nothing = Deviation(1.0, 0.5), Deviation(0.0, 0.0)
    assert tolerance.bounds("out", torch.bfloat16, baseline, nothing) == Deviation(2.0, 1.0)
    for name in ("dq", "dk", "dv"):
        assert tolerance.bounds(name, torch.bfloat16, baseline, nothing) == Deviation(3.0, 1.5)


def test_the_floor_is_four_units_in_the_last_place():
    exact, one = Deviation(0.0, 0.0), Deviation(1.0, 1.0)
    floor = tolerance.bounds("out", torch.float16, exact, one)
    assert floor.max_abs == 4 * torch.finfo(torch.float16).eps
    assert floor.rmse == 4 * torch.finfo(torch.float32).eps


def test_an_lse_may_be_out_by_what_stays_invisible_in_out():
    exact = Deviation(0.0, 0.0)
    bounds = tolerance.bounds("lse", torch.bfloat16, exact, exact)
    assert bounds.max_abs == torch.finfo(torch.bfloat16).eps / 8


def test_float64_is_held_to_its_own_precision():
    single, size = Deviation(1e-6, 1e-7), Deviation(1.0, 1.0)
    assert tolerance.baseline_arithmetic(torch.float64) is torch.float32
    assert tolerance.bounds("dq", torch.float64, single, size).max_abs < 1e-14


def test_no_elements_are_no_error():
    assert tolerance.error(torch.empty(0), torch.empty(0)) == Deviation(0.0, 0.0)


def test_a_sum_that_a_kernel_takes_element_by_element_is_right_at_the_widest_head_dim():
    """A heavy key has seven ulps of error in its score, and one by torch's matmul: both float32."""
    wide = (Span(0, 150),)
    case = replace(FULL, rows=wide, keys=wide, batch=1, key_heads=1, dim=256)
    data, right = case.kind.inputs(case, CPU), expected(case, CPU)
    out, lse = right.given
    asked = oracle.Inquiry(
        *positions(case, CPU), case.mask, case.score(CPU), arithmetic=torch.float32, in_order=True
    )
    of_kernel = oracle.backward(data.dout, data.q, data.k, data.v, out, lse, asked)
    assert faults(right, dict(zip(("dq", "dk", "dv"), of_kernel, strict=True))) == []


def test_a_large_lse_is_rounded_on_its_way_and_that_is_all_it_excuses():
    """The error of a backward in float64 that is only handed float32's nearest lse."""
    lse = torch.linspace(90, 120, 4001, dtype=torch.float64)
    p, right = torch.exp(lse.float().double() - lse), torch.ones_like(lse)
    found, none = tolerance.error(p, right), Deviation(0.0, 0.0)
    assert found.max_abs > 8 * torch.finfo(torch.float32).eps  # beyond the floor of 4 ulps

    def bounds(name: str, dtype: torch.dtype, lse: float) -> Deviation:
        return tolerance.bounds(name, dtype, none, Deviation(1.0, 1.0), lse=lse)

    assert found.within(bounds("dv", torch.float32, 120.0))
    assert not found.within(bounds("dv", torch.float32, 0.0))
    for name in tolerance.MULTIPLES:
        assert bounds(name, torch.float32, 8.0) == bounds(name, torch.float32, 0.0)
    for name in ("out", "lse"):
        assert bounds(name, torch.float32, 120.0) == bounds(name, torch.float32, 0.0)
    least, most = (bounds("dq", torch.bfloat16, lse).max_abs for lse in (0.0, 120.0))
    assert most < 1.001 * least
