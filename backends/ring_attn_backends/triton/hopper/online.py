"""The online softmax of a warpgroup's 64 rows, tile by tile, as both forward kernels have it.

The products of queries and keys of tile i run on the tensor cores beside the weights of tile i - 1
times its values, and the softmax of tile i under the latter (Shah et al. 2024, FlashAttention-3,
algorithm 2).
"""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from ring_attn_backends.triton.hopper.pipes import receive, release
from ring_attn_backends.triton.scores import tanh


@gluon.jit
def step(
    i, acc, weights, total, peak, q, keys, values, rows, first_key, N,
    low, high, scale, cap,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CAPPED: gl.constexpr, S_LAYOUT: gl.constexpr,
    P_LAYOUT: gl.constexpr, O_ROWS: gl.constexpr, EDGE: gl.constexpr,
):  # fmt: skip
    """The i-th tile's scores and weights, beside the weighted values of the one before it."""
    zeros = gl.zeros([64, BLOCK_N], gl.float32, S_LAYOUT)
    k = receive(keys, i, STAGES)
    s = warpgroup_mma(q, k.permute([1, 0]), zeros, use_acc=False, is_async=True)
    v = receive(values, i - 1, STAGES)
    flying = warpgroup_mma(weights, v, acc, is_async=True)
    s = warpgroup_mma_wait(1, deps=[s])
    release(keys, i, STAGES)
    if EDGE:
        s = masked(s, rows, first_key, N, low, high, scale, cap,
                    BLOCK_N, S_LAYOUT, CAPPED)  # fmt: skip
    elif CAPPED:
        s = cap * tanh(s * scale, False)
    p, fade, total, peak = soften(s, total, peak, scale, CAPPED)
    acc = warpgroup_mma_wait(0, deps=[flying])
    release(values, i - 1, STAGES)
    acc = acc * gl.convert_layout(fade, O_ROWS)[:, None]
    weights = gl.convert_layout(p.to(q.dtype), P_LAYOUT)
    return acc, weights, total, peak


@gluon.jit
def masked(
    s, rows, first_key, N, low, high, scale, cap,
    BLOCK_N: gl.constexpr, S_LAYOUT: gl.constexpr, CAPPED: gl.constexpr,
):  # fmt: skip
    """Products of an edge tile, -inf where no key may be seen; capped, if they are to be."""
    if CAPPED:
        s = cap * tanh(s * scale, False)
    keys = first_key + gl.arange(0, BLOCK_N, gl.SliceLayout(0, S_LAYOUT))
    distance = rows[:, None] - keys[None, :]
    visible = (distance >= low) & (distance <= high) & (keys < N)[None, :]
    return gl.where(visible, s, float("-inf"))


@gluon.jit
def soften(s, total, peak, scale, CAPPED: gl.constexpr):
    """The online softmax (`softmax.soften`), of products whose scale is folded into exp2's FMA."""
    if CAPPED:
        new_peak = gl.maximum(peak, gl.max(s, 1))
        shift = finite(new_peak)
        p = gl.exp2(s - shift[:, None])
    else:
        new_peak = gl.maximum(peak, gl.max(s, 1) * scale)
        shift = finite(new_peak)
        p = gl.exp2(s * scale - shift[:, None])
    fade = gl.exp2(peak - shift)
    return p, fade, total * fade + gl.sum(p, 1), new_peak


@gluon.jit
def finite(peak):
    """`softmax.finite`: 0 where it is infinite, so that no inf - inf is taken."""
    return gl.where(gl.abs(peak) == float("inf"), 0.0, peak)
