"""The online softmax of a row tile: sums over keys so far, all relative to exp2(peak).

Milakov & Gimelshein 2018; Dao 2023, FlashAttention-2, algorithm 1. A row's state is acc, the
weighted sum of values, total, the sum of weights, and peak, the largest score in base 2.
"""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


@triton.jit
def carried(lse):
    """total and peak of rows that have an lse, and an out, already: out is their acc.

    total is 1; but 0 where no key was seen, and inf, which `finished` hands on, where lse is inf.
    """
    peak = lse * 1.4426950408889634  # log2(e)
    return tl.exp2(peak - finite(peak)), peak


@triton.jit
def soften(s, total, peak):
    """Weights of the scores s (M, N), what older sums fade to, and the new total and peak."""
    new_peak = tl.maximum(peak, tl.max(s, 1))
    shift = finite(new_peak)
    p = tl.exp2(s - shift[:, None])
    fade = tl.exp2(peak - shift)
    return p, fade, total * fade + tl.sum(p, 1), new_peak


@triton.jit
def with_sink(sink, total, peak):
    """What acc fades to beside a sink, a logit with a value of 0, and the total and peak with it.

    One beyond half of what float32 holds leaves its rows nothing, as the limit has it, or all.
    """
    most = 1.7e38  # of which base 2 has room for
    sink = tl.where(sink > most, most, tl.where(sink < -most, float("-inf"), sink))
    base2 = sink * 1.4426950408889634  # log2(e)
    new_peak = tl.maximum(peak, base2)
    shift = finite(new_peak)
    fade = tl.exp2(peak - shift)
    return fade, total * fade + tl.exp2(base2 - shift), new_peak


@triton.jit
def finished(total, peak):
    """What acc is to be divided by, and lse; a row without keys has total 0: 1, and -inf."""
    lse = (finite(peak) + tl.log2(total)) * 0.6931471805599453  # ln(2)
    return tl.where(total == 0.0, 1.0, total), lse


@triton.jit
def known(lse):
    """What the scores of a finished row are relative to, in base 2.

    0 for a row that saw nothing: exp2(-inf - 0) is the 0 that its probabilities should be.
    """
    lse *= 1.4426950408889634  # log2(e)
    return tl.where(lse == float("-inf"), 0.0, lse)


@triton.jit
def finite(peak):
    """peak, but 0 where it is -inf (no key yet) or inf: so that no inf - inf is taken."""
    return tl.where(tl.abs(peak) == float("inf"), 0.0, peak)
