"""From tensors to kernel calls: which kernel, with which tiling, over which grid.

B batch, M rows, N keys, H query heads, G key heads, D head dim of q and k, E head dim of v:
q (B, M, H, D)   k (B, N, G, D)   v (B, N, G, E)   out, dout (B, M, H, E)   lse, delta (B, H, M)

A block here is one that `lines.pieces` made. Where documents are packed, B is 1, and M and N count
the tokens of all of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ring_attn_backends.triton import arguments
from ring_attn_backends.triton.backward_dkdv import backward_dkdv
from ring_attn_backends.triton.backward_dq import backward_dq
from ring_attn_backends.triton.forward import forward
from ring_attn_backends.triton.lines import Places
from ring_attn_backends.triton.tables import TABLES, Kernel, Tiling
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.problem import Documents
from ring_attn_bench.relaunch import Made

if TYPE_CHECKING:
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Keys, Rows, Running, Sums

Grid = tuple[int, int, int]
Side = Literal["rows", "keys"]
"""Of which a program has a tile; it visits tiles of the other."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel call, ready to run; the tests compile it where there is no GPU to run it on."""

    kernel: Any  # a triton.JITFunction, or its interpreted twin
    grid: Grid
    arguments: arguments.Arguments
    tiling: Tiling
    scratch: tuple[Tensor, ...] = ()  # none
    tables: tuple[Tensor, ...] = ()
    """Those among the arguments that say what the programs of a gathered launch do."""

    def run(self) -> None:
        """Enqueues the kernel on the current stream of the tensors' device."""
        self.made()

    def made(self) -> tuple[Made, ...]:
        """Runs it, and returns the call that was made, if there was anything to do."""
        if 0 in self.grid:
            return ()
        device = self.arguments["q_ptr"].device
        if device.type not in ("cuda", "cpu"):
            raise Unsupported(
                "triton", f"it reads memory, and a tensor on {device} has none for it"
            )
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            compiled = self.kernel[self.grid](
                **self.arguments, num_warps=self.tiling.warps, num_stages=self.tiling.stages
            )
        return (Made(compiled, self.grid, tuple(self.arguments.values())),)


def forward_launch(
    q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
    *, first: bool, tiling: Tiling | None = None,
) -> Launch:  # fmt: skip
    """Writes the running result, any float dtype, and lse.

    first: for these keys alone. Else the running out and lse hold what other keys gave, and the
    result and lse will hold what all of them give. tiling: if not the table's.
    """
    tensors = {"q": q, **keys._asdict()}
    tensors |= {"acc": running.out, "out": running.result, "lse": running.lse}
    tiling = tiling or chosen("forward", q, keys.v)
    return _launch(forward, tiling, "rows", tensors, where, score, CARRIED=not first)


def backward_dq_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, tiling: Tiling | None = None,
) -> Launch:  # fmt: skip
    """Writes the sums' dq, any float dtype, or adds to it."""
    tensors = _read(rows, keys) | {"dq": sums.dq}
    tiling = tiling or chosen("backward_dq", rows.q, keys.v)
    return _launch(backward_dq, tiling, "rows", tensors, where, score, ADD=add)


def backward_dkdv_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, tiling: Tiling | None = None,
) -> Launch:  # fmt: skip
    """Writes the sums' dk and dv, any float dtype, or adds to them."""
    tensors = _read(rows, keys) | {"dk": sums.dk, "dv": sums.dv}
    tiling = tiling or chosen("backward_dkdv", rows.q, keys.v)
    return _launch(backward_dkdv, tiling, "keys", tensors, where, score, ADD=add)


def chosen(kernel: Kernel, q: Tensor, v: Tensor) -> Tiling:
    """The table's tiling for queries and values of that dtype and those head dims."""
    widest = max(64, *(arguments.padded(x.shape[-1]) for x in (q, v)))
    return TABLES[kernel][q.element_size(), widest].tiling


def _read(rows: Rows, keys: Keys) -> dict[str, Tensor]:
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    return {"dout": dout, "q": q, **keys._asdict(), "lse": lse, "delta": delta}


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    tiling: Tiling,
    side: Side,
    tensors: dict[str, Tensor],
    where: Block | Documents,
    score: Score,
    **switches: bool,
) -> Launch:
    """One program for each tile of that side and head."""
    q, k, v = tensors["q"], tensors["k"], tensors["v"]
    heads = (q if side == "rows" else k).shape[2]
    given = {
        **arguments.of_tensors(tensors),
        **arguments.of_score(score),
        "PRECISE": arguments.needs_precise_tanh(q.dtype, score),
        **arguments.of_shapes(q, k, v, tiling),
        **switches,
    }
    if isinstance(where, Documents):
        given |= arguments.of_documents(where)
        longest = where.max_seqlen_q if side == "rows" else where.max_seqlen_k
        # documents first: there is room for 2^31 programs there, and for 65535 elsewhere
        grid = where.cu_seqlens_q.numel() - 1, heads, _tiles(longest, tiling, side)
    else:
        places = Places.of(where, positions=arguments.needs_positions(score))
        given |= arguments.of_places(places)
        line = places.rows if side == "rows" else places.keys
        grid = sum(_tiles(count, tiling, side) for count in line.chunks), heads, q.shape[0]
    return Launch(kernel, grid, {name: given[name] for name in kernel.arg_names}, tiling)


def _tiles(tokens: int, tiling: Tiling, side: Side) -> int:
    return -(-tokens // (tiling.rows if side == "rows" else tiling.keys))
