"""What a warpgroup does with a row tile for the dk and dv of its 64 keys.

Scores are transposed, keys x rows: weights and their gradients come out of the tensor cores as the
next products' left operands, and never leave the registers.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Triton infers what a kernel's arguments are

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from ring_attn_backends.triton.hopper.pipes import receive, release
from ring_attn_backends.triton.hopper.programs import nth, vector_of
from ring_attn_backends.triton.scores import tanh


@gluon.jit
def nth_of_heads(i, each, where, BLOCK_M: gl.constexpr):
    """The i-th of all heads' row tiles: the edges of every head, then every head's whole tiles.

    Returns the head's number, and the tile's first row.
    """
    edges = where[3]
    is_edge = i < each * edges
    j = gl.where(is_edge, i, i - each * edges)
    count = gl.where(is_edge, edges, where[2])
    head = j // count
    return head, nth(j - head * count + gl.where(is_edge, 0, edges), where, BLOCK_M)


@gluon.jit
def numbers(ptr, strides, side, head, first_row, BLOCK_M: gl.constexpr):
    """BLOCK_M of the rows' numbers, for a warp; 0 beyond the last row."""
    layout: gl.constexpr = gl.BlockedLayout([BLOCK_M // 32], [32], [1], [0])
    rows = first_row + gl.arange(0, BLOCK_M, layout)
    return gl.load(vector_of(side, head, ptr, strides) + rows, mask=rows < side[2], other=0.0)


@gluon.jit
def put(
    ptr, stride, share, first_key, N,
    WIDTH: gl.constexpr, BLOCK: gl.constexpr, LAYOUT: gl.constexpr, ADD: gl.constexpr,
):  # fmt: skip
    """Writes a tile (64, BLOCK) of which WIDTH columns count, or adds it to what is there."""
    rows = first_key + gl.arange(0, 64, gl.SliceLayout(1, LAYOUT))
    cols = gl.arange(0, BLOCK, gl.SliceLayout(0, LAYOUT))
    inside = (rows < N)[:, None]
    if WIDTH < BLOCK:
        inside = inside & (cols < WIDTH)[None, :]
    pointers = ptr + rows.to(gl.int64)[:, None] * stride + cols[None, :]
    if ADD:
        share += gl.load(pointers, mask=inside, other=0.0)
    gl.store(pointers, share.to(ptr.dtype.element_ty), mask=inside)


@gluon.jit
def step(
    i, dk, dv, k, v, queries, douts, lses, deltas, keys,
    first_row, M, low, high, scale, cap,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, CAPPED: gl.constexpr,
    DK: gl.constexpr, DV: gl.constexpr, S_LAYOUT: gl.constexpr,
    K_LAYOUT: gl.constexpr, V_LAYOUT: gl.constexpr, EDGE: gl.constexpr,
):  # fmt: skip
    """Adds the i-th row tile's shares to dk and dv, if they are wanted.

    Products start at -lse and -delta where there is no softcap: these then need no registers of
    their own, which makes it a tenth faster.
    """
    dtype: gl.constexpr = k.dtype
    columns: gl.constexpr = gl.SliceLayout(0, S_LAYOUT)
    slot = i % STAGES
    zeros = gl.zeros([64, BLOCK_M], gl.float32, S_LAYOUT)
    dp = zeros
    q = receive(queries, i, STAGES)
    if not CAPPED:
        dout = receive(douts, i, STAGES)
        lse = _known(lses.index(slot).load(columns))
        start = zeros + (lse * (-1.4426950408889634 / scale))[None, :]
        if DK:
            dp_start = zeros - deltas.index(slot).load(columns)[None, :]
        s = warpgroup_mma(k, q.permute([1, 0]), start, is_async=True)
        if DK:
            dp = warpgroup_mma(v, dout.permute([1, 0]), dp_start, is_async=True)
    else:
        s = warpgroup_mma(k, q.permute([1, 0]), zeros, use_acc=False, is_async=True)
        dout = receive(douts, i, STAGES)
        if DK:
            dp = warpgroup_mma(v, dout.permute([1, 0]), zeros, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(1 if DK else 0, deps=[s])
    if not CAPPED:
        p = gl.exp2(s * scale)
    else:
        lse = _known(lses.index(slot).load(columns))
        t = tanh(s * scale, False)
        p = gl.exp2(cap * t - (lse * 1.4426950408889634)[None, :])
    if EDGE:
        rows = first_row + gl.arange(0, BLOCK_M, columns)
        distance = rows[None, :] - keys[:, None]
        visible = (distance >= low) & (distance <= high)
        p = gl.where(visible & (rows < M)[None, :], p, 0.0)
    if DV:
        weights = gl.convert_layout(p.to(dtype), gl.DotOperandLayout(0, V_LAYOUT, 2))
        dv = warpgroup_mma(weights, dout, dv, is_async=True)
    if DK:
        if CAPPED:
            p *= 1.0 - t * t  # the slope of cap * tanh
            if EDGE:  # NaN where an infinite score is masked, or a row beyond the last times inf
                p = gl.where(visible & (rows < M)[None, :], p, 0.0)
        dp = warpgroup_mma_wait(1 if DV else 0, deps=[dp])
        if CAPPED:
            dp = dp - deltas.index(slot).load(columns)[None, :]
        ds = p * dp
        if EDGE:  # with `rows < M` here as well it would spill
            ds = gl.where(visible, ds, 0.0)
        ds = gl.convert_layout(ds.to(dtype), gl.DotOperandLayout(0, K_LAYOUT, 2))
        dk = warpgroup_mma(ds, q, dk, is_async=True)
    if DV:
        dv = warpgroup_mma_wait(1 if DK else 0, deps=[dv])
    release(douts, i, STAGES)
    if DK:
        dk = warpgroup_mma_wait(0, deps=[dk])
    release(queries, i, STAGES)
    return dk, dv


@gluon.jit
def _known(lse):
    """What scores are relative to: finite where lse is -inf, so that no inf - inf is taken.

    All scores of such a row are -inf, or masked. A maximum costs less than `softmax.known`.
    """
    return gl.maximum(lse, -1e30, propagate_nan=tl.PropagateNan.ALL)
