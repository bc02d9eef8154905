"""What a warpgroup does with a key tile for the dq of its 64 rows (Dao 2023, FlashAttention-2)."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from ring_attn_backends.triton.hopper.pipes import receive, release
from ring_attn_backends.triton.scores import tanh


@gluon.jit
def step(
    i, dq, q, dout, keys, values, lse, delta, rows, first_key, is_edge, N, low, high, scale, cap,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, CAPPED: gl.constexpr,
    S_LAYOUT: gl.constexpr, P_LAYOUT: gl.constexpr,
):  # fmt: skip
    """Adds the i-th key tile's share to dq; is_edge: whether it needs a mask."""
    zeros = gl.zeros([64, BLOCK_N], gl.float32, S_LAYOUT)
    k = receive(keys, i, STAGES)
    s = warpgroup_mma(q, k.permute([1, 0]), zeros, use_acc=False, is_async=True)
    v = receive(values, i, STAGES)
    dp = warpgroup_mma(dout, v.permute([1, 0]), zeros, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(1, deps=[s])
    s = s * scale
    if CAPPED:
        t = tanh(s, False)
        s = cap * t
    p = gl.exp2(s - lse[:, None])
    if CAPPED:
        p *= 1.0 - t * t  # the slope of cap * tanh
    if is_edge:
        key_numbers = first_key + gl.arange(0, BLOCK_N, gl.SliceLayout(0, S_LAYOUT))
        distance = rows[:, None] - key_numbers[None, :]
        visible = (distance >= low) & (distance <= high)
        p = gl.where(visible & (key_numbers < N)[None, :], p, 0.0)
    dp = warpgroup_mma_wait(0, deps=[dp])
    release(values, i, STAGES)
    ds = p * (dp - delta[:, None])
    ds = gl.convert_layout(ds.to(q.dtype), P_LAYOUT)
    dq = warpgroup_mma(ds, k, dq, is_async=True)
    dq = warpgroup_mma_wait(0, deps=[dq])
    release(keys, i, STAGES)
    return dq
