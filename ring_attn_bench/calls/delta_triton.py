"""The row sums of dout * out on a GPU: one kernel that reads every element once."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ring_attn_bench.relaunch import Kept, Made, relaunch, signature

ELEMENTS = 8192
"""Of out and of dout that a program reads: 64 of each for each of its 128 threads."""


_kept = Kept()


def delta(dout: Tensor, out: Tensor) -> Tensor:
    """delta (B, H, M), contiguous float32, of dout and out (B, M, H, E), contiguous last dims."""
    batch, tokens, heads, _ = out.shape
    result = out.new_empty(batch, heads, tokens, dtype=torch.float32)
    if out.numel() == 0:
        return result.zero_()
    tensors = dout, out, result
    key = signature(tensors)
    kept = _kept.get(key)
    if kept is None:
        _kept[key] = relaunch([_first(*tensors)], tensors)
    else:
        kept.run(tensors)
    return result


def _first(dout: Tensor, out: Tensor, result: Tensor) -> Made:
    batch, tokens, heads, head_dim = out.shape
    block_e = triton.next_power_of_2(head_dim)
    block_m = max(1, ELEMENTS // block_e)
    # heads before tokens: neighbours in the grid are neighbours in token-major memory
    grid = (triton.cdiv(tokens, block_m) * heads, batch, 1)
    arguments = (
        dout, out, result, dout.stride()[:3], out.stride()[:3], tokens, heads,
        head_dim, block_e, block_m,
    )  # fmt: skip
    with torch.cuda.device(out.device):
        compiled = _delta[grid](*arguments, num_warps=4)
    return Made(compiled, grid, arguments)


@triton.jit(do_not_specialize=["M", "H"])
def _delta(
    dout_ptr, out_ptr, delta_ptr, dout_strides, out_strides,
    M, H, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr,
) -> None:  # fmt: skip
    """BLOCK_M tokens of one head; grid (token tiles x H, B); strides (batch, token, head)."""
    head = (tl.program_id(0) % H).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    tokens = (tl.program_id(0) // H).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_E)[None, :]
    inside = (tokens < M)[:, None] & (columns < E)
    rows = tokens[:, None]
    dout_ptr += batch * dout_strides[0] + head * dout_strides[2]
    out_ptr += batch * out_strides[0] + head * out_strides[2]
    dout = tl.load(dout_ptr + rows * dout_strides[1] + columns, mask=inside, other=0.0)
    out = tl.load(out_ptr + rows * out_strides[1] + columns, mask=inside, other=0.0)
    total = tl.sum(dout.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + (batch * H + head) * M + tokens, total, mask=tokens < M)
