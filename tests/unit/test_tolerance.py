"""The rule for what is right, and planted faults that it must catch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.bench import tolerance
from ring_attn_bench.bench.tolerance import Deviation
from ring_attn_bench.block import Block
from ring_attn_bench.positions import Band, Span
from ring_attn_bench.problem import DTYPES, Mask
from tests.conformance.checking import (
    CAUSAL,
    FULL,
    LOCAL,
    backward_faults,
    forward_faults,
    two_block_faults,
)

CPU = "cpu"
WINDOW = replace(LOCAL, title="window", mask=Mask(True, 17))
GROUPED = replace(LOCAL, title="grouped", heads=4, key_heads=2, token_major=True)
LONGER = replace(LOCAL, title="longer", rows=(Span(40, 61),), keys=(Span(0, 101),))


def with_band(block: Block, band: Band) -> Block:
    return Block(block.rows, block.keys, band)


class Log2Lse(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        out, lse = super().forward(q, k, v, block, score)
        return out, lse / math.log(2)


class ZeroLse(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        out, lse = super().forward(q, k, v, block, score)
        return out, torch.zeros_like(lse)


class SixteenBitLse(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        out, lse = super().forward(q, k, v, block, score)
        return out, lse.to(torch.bfloat16).to(lse.dtype)


class TransposedLse(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        out, lse = super().forward(q, k, v, block, score)
        return out, lse.transpose(1, 2)


class IgnoredWindow(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        return super().forward(q, k, v, with_band(block, CAUSAL.band), score)

    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        block = with_band(block, CAUSAL.band)
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)


class StrictlyCausal(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        return super().forward(q, k, v, with_band(block, Band(low=1)), score)

    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        block = with_band(block, Band(low=1))
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)


class LateCausal(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        return super().forward(q, k, v, with_band(block, Band(low=-1)), score)

    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        block = with_band(block, Band(low=-1))
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)


class StridesOfContiguous(ReferenceBackend):
    """Reads keys as if they were dense."""

    def forward(self, q, k, v, block, score):
        return super().forward(q, self._dense(k), v, block, score)

    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        k = self._dense(k)
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)

    def _dense(self, x):
        strides = x.new_empty(x.shape, device="meta").stride()
        return x.as_strided(x.shape, strides)


class HeadsInterleaved(ReferenceBackend):
    """Head h reads key head h % G."""

    def forward(self, q, k, v, block, score):
        out, lse = super().forward(self._dealt(q, k), k, v, block, score)
        return self._gathered(out, k, 2), self._gathered(lse, k, 1)

    def _dealt(self, x, k):
        return x.unflatten(2, (-1, k.shape[2])).transpose(2, 3).flatten(2, 3)

    def _gathered(self, x, k, dim):
        return x.unflatten(dim, (k.shape[2], -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


class DefaultScale(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        return super().forward(q, k, v, block, replace(score, softmax_scale=q.shape[3] ** -0.5))


class IgnoredSoftcap(ReferenceBackend):
    def forward(self, q, k, v, block, score):
        return super().forward(q, k, v, block, replace(score, softcap=0.0))

    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        score = replace(score, softcap=0.0)
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)


class LocalLse(ReferenceBackend):
    """Normalises a block's gradients by the block alone."""

    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        out, lse = self.forward(q, k, v, block, score)
        delta = (dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).transpose(1, 2)
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)


class MissingDelta(ReferenceBackend):
    def backward(self, dout, q, k, v, out, lse, delta, block, score, **options):
        delta = torch.zeros_like(delta)
        return super().backward(dout, q, k, v, out, lse, delta, block, score, **options)


class LastKeyLost(ReferenceBackend):
    """A tile boundary off by one: the last key of the block is never read."""

    def forward(self, q, k, v, block, score):
        k = k.clone()
        k[:, -1] = 0
        return super().forward(q, k, v, block, score)


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
    assert forward_faults(ReferenceBackend(), case, CPU) == []
    assert forward_faults(adapter(), case, CPU)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("adapter", "case"), named(BACKWARD_FAULTS))
def test_a_planted_fault_is_caught_backward(adapter, case, dtype):
    case = replace(case, dtype=dtype)
    assert backward_faults(ReferenceBackend(), case, CPU) == []
    assert backward_faults(adapter(), case, CPU)


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
