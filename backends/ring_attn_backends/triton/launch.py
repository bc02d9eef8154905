"""From tensors to kernel calls: tiles, grids, strides and the numbers a kernel is handed.

B batch, M rows, N keys, H query heads, G key heads, D head dim of q and k, E head dim of v:
q (B, M, H, D)   k (B, N, G, D)   v (B, N, G, E)   out, dout (B, M, H, E)   lse, delta (B, H, M)
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ring_attn_backends.triton.backward_dkdv import backward_dkdv
from ring_attn_backends.triton.backward_dq import backward_dq
from ring_attn_backends.triton.forward import forward
from ring_attn_bench.errors import Unsupported

if TYPE_CHECKING:
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Score


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program's rows x keys at a time, its warps, and how many tiles it loads ahead."""

    rows: int
    keys: int
    warps: int
    stages: int


Table = dict[tuple[int, int], Tiling]
"""(bytes of an element, the wider head dim padded to at least 64) to a tiling."""

# Chosen by what compiles within shared memory and with few spills on sm_80, sm_90 and sm_100 (the
# README has the figures); 8 warps are two warpgroups, each with 64 of wgmma's rows. float32
# products run on the ordinary cores, where big tiles only spill.
FORWARD: Table = {
    (2, 64): Tiling(rows=128, keys=64, warps=8, stages=3),
    (2, 128): Tiling(rows=128, keys=64, warps=8, stages=3),
    (2, 256): Tiling(rows=128, keys=64, warps=8, stages=2),
    (4, 64): Tiling(rows=64, keys=32, warps=8, stages=2),
    (4, 128): Tiling(rows=32, keys=16, warps=8, stages=2),
    (4, 256): Tiling(rows=32, keys=16, warps=8, stages=2),
}
BACKWARD_DQ: Table = {
    (2, 64): Tiling(rows=128, keys=64, warps=8, stages=3),
    (2, 128): Tiling(rows=128, keys=64, warps=8, stages=2),
    (2, 256): Tiling(rows=64, keys=32, warps=8, stages=2),
    (4, 64): Tiling(rows=32, keys=32, warps=4, stages=2),
    (4, 128): Tiling(rows=32, keys=16, warps=4, stages=2),
    (4, 256): Tiling(rows=16, keys=16, warps=4, stages=1),
}
BACKWARD_DKDV: Table = {
    (2, 64): Tiling(rows=64, keys=128, warps=8, stages=3),
    (2, 128): Tiling(rows=64, keys=128, warps=8, stages=2),
    (2, 256): Tiling(rows=16, keys=64, warps=8, stages=2),
    (4, 64): Tiling(rows=32, keys=32, warps=8, stages=2),
    (4, 128): Tiling(rows=16, keys=32, warps=8, stages=2),
    (4, 256): Tiling(rows=16, keys=16, warps=8, stages=1),
}


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel call, ready to run; the tests compile it where there is no GPU to run it on."""

    kernel: Any  # a triton.JITFunction, or its interpreted twin
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    tiling: Tiling

    def run(self) -> None:
        """Enqueues the kernel on the current stream of the tensors' device."""
        if 0 in self.grid:
            return
        device = self.arguments["q_ptr"].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.kernel[self.grid](
                **self.arguments, num_warps=self.tiling.warps, num_stages=self.tiling.stages
            )


def forward_launch(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, block: Block, score: Score
) -> Launch:
    """Writes out (B, M, H, E), any float dtype, and lse (B, H, M), float32."""
    tiling = FORWARD[_table_key(q, v)]
    arguments = _with_strides(q=q, k=k, v=v, out=out, lse=lse)
    arguments |= _numbers(q, k, block, score) | _constants(q, v, score, tiling)
    return Launch(forward, _row_grid(q, tiling), arguments, tiling)


def backward_dq_launch(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dq: Tensor, block: Block, score: Score,
) -> Launch:  # fmt: skip
    """Writes dq (B, M, H, D), any float dtype."""
    tiling = BACKWARD_DQ[_table_key(q, v)]
    arguments = _with_strides(dout=dout, q=q, k=k, v=v, lse=lse, delta=delta, dq=dq)
    arguments |= _numbers(q, k, block, score) | _constants(q, v, score, tiling)
    arguments["softmax_scale"] = score.softmax_scale
    return Launch(backward_dq, _row_grid(q, tiling), arguments, tiling)


def backward_dkdv_launch(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dk: Tensor, dv: Tensor, block: Block, score: Score,
) -> Launch:  # fmt: skip
    """Writes dk (B, N, G, D) and dv (B, N, G, E), any float dtype."""
    tiling = BACKWARD_DKDV[_table_key(q, v)]
    arguments = _with_strides(dout=dout, q=q, k=k, v=v, lse=lse, delta=delta, dk=dk, dv=dv)
    arguments |= _numbers(q, k, block, score) | _constants(q, v, score, tiling)
    arguments["softmax_scale"] = score.softmax_scale
    grid = (-(-k.shape[1] // tiling.keys), k.shape[2], k.shape[0])
    return Launch(backward_dkdv, grid, arguments, tiling)


def _row_grid(q: Tensor, tiling: Tiling) -> tuple[int, int, int]:
    batch, rows, heads, _ = q.shape
    return -(-rows // tiling.rows), heads, batch


def _table_key(q: Tensor, v: Tensor) -> tuple[int, int]:
    return q.element_size(), max(64, _padded(q.shape[-1]), _padded(v.shape[-1]))


def _padded(head_dim: int) -> int:
    """The width of a tile of that head dim: a power of two, at least the 16 that tl.dot needs."""
    return max(16, 1 << (head_dim - 1).bit_length())


def _with_strides(**tensors: Tensor) -> dict[str, Any]:
    """Pointer and strides, all but the last dim's, of every tensor."""
    arguments: dict[str, Any] = {}
    for name, tensor in tensors.items():
        assert tensor.stride(-1) == 1 or tensor.shape[-1] <= 1, f"{name}'s last dim has a stride"
        arguments[f"{name}_ptr"] = tensor
        arguments[f"{name}_strides"] = _strides(tensor)
        if tensor.ndim == 4 and tensor.stride(1) >= 2**23:  # x 128 tokens of a tile: in 32 bits
            reason = f"{name} has a token stride of {tensor.stride(1)} elements, 2^23 or more"
            raise Unsupported("triton", reason)
    return arguments


def _strides(tensor: Tensor) -> tuple[int, ...]:
    # A dim of one element may have any stride; 0 spares the kernels a variant for each.
    sizes, strides = tensor.shape[:-1], tensor.stride()[:-1]
    return tuple(stride if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True))


def _numbers(q: Tensor, k: Tensor, block: Block, score: Score) -> dict[str, int | float]:
    """What a kernel gets at run time: sizes, the band of indices and the scaling of scores."""
    assert block.index_band is not None  # not in the backend's forms
    assert score.alibi_slopes is None  # refused by `unsupported`
    rows, keys = q.shape[1], k.shape[1]
    low, high = block.index_band.low, block.index_band.high
    log2e = math.log2(math.e)
    capped = score.softcap > 0
    return {
        "group": q.shape[2] // k.shape[2],
        "M": rows,
        "N": keys,
        # an open side is closed where it binds no pair, and far sides there, to stay in 32 bits
        "low": -keys if low is None else min(max(low, -keys), rows),
        "high": rows if high is None else max(min(high, rows), -keys),
        "scale": score.softmax_scale / score.softcap if capped else score.softmax_scale * log2e,
        "cap": score.softcap * log2e,
    }


def _constants(q: Tensor, v: Tensor, score: Score, tiling: Tiling) -> dict[str, int | bool]:
    """What a kernel is compiled for."""
    head_dim, head_dim_v = q.shape[-1], v.shape[-1]
    return {
        "D": head_dim,
        "E": head_dim_v,
        "BLOCK_D": _padded(head_dim),
        "BLOCK_E": _padded(head_dim_v),
        "BLOCK_M": tiling.rows,
        "BLOCK_N": tiling.keys,
        "CAPPED": score.softcap > 0,
        "PRECISE": q.dtype is torch.float32,
    }
