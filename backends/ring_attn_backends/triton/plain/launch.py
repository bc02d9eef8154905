"""From tensors to calls of the plain kernels: with which tiling, over which grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ring_attn_backends.triton import arguments
from ring_attn_backends.triton.launching import Side, TritonLaunch
from ring_attn_backends.triton.lines import Places
from ring_attn_backends.triton.plain.backward_dkdv import backward_dkdv
from ring_attn_backends.triton.plain.backward_dq import backward_dq
from ring_attn_backends.triton.plain.forward import forward
from ring_attn_backends.triton.plain.table import Tiling, chosen
from ring_attn_bench.plan.problem import Documents

if TYPE_CHECKING:
    from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import Score


def forward_launch(
    q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
    *, first: bool, config: Tiling | None = None,
) -> TritonLaunch:  # fmt: skip
    """As `choice.Launches` has it."""
    tensors = {"q": q, **keys._asdict()}
    tensors |= {"acc": running.out, "out": running.result, "lse": running.lse}
    config = config or chosen("forward", q, keys)
    return _launch(forward, config, "rows", tensors, where, score, CARRIED=not first)


def backward_dq_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, config: Tiling | None = None,
) -> TritonLaunch:  # fmt: skip
    """As `choice.Launches` has it."""
    tensors = rows_and_keys(rows, keys._asdict()) | {"dq": sums.dq}
    config = config or chosen("backward_dq", rows.q, keys)
    return _launch(backward_dq, config, "rows", tensors, where, score, ADD=add)


def backward_dkdv_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, config: Tiling | None = None,
) -> TritonLaunch:  # fmt: skip
    """As `choice.Launches` has it."""
    tensors = rows_and_keys(rows, keys._asdict()) | {"dk": sums.dk, "dv": sums.dv}
    config = config or chosen("backward_dkdv", rows.q, keys)
    return _launch(backward_dkdv, config, "keys", tensors, where, score, ADD=add)


def rows_and_keys(rows: Rows, keys: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a backward kernel reads."""
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    return {"dout": dout, "q": q, **keys, "lse": lse, "delta": delta}


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    tiling: Tiling,
    side: Side,
    tensors: dict[str, Tensor],
    where: Block | Documents,
    score: Score,
    **switches: bool,
) -> TritonLaunch:
    """One program for each tile of that side and head."""
    q, heads = tensors["q"], tensors["q" if side == "rows" else "k"].shape[2]
    if isinstance(where, Documents):
        given = arguments.of_documents(where)
        longest = where.max_seqlen_q if side == "rows" else where.max_seqlen_k
        # documents first: there is room for 2^31 programs there, and for 65535 elsewhere
        grid = where.cu_seqlens_q.numel() - 1, heads, _tiles(longest, tiling, side)
    else:
        places = Places.of(where, positions=arguments.needs_positions(score))
        given = arguments.of_places(places)
        line = places.rows if side == "rows" else places.keys
        grid = sum(_tiles(count, tiling, side) for count in line.chunks), heads, q.shape[0]
    return launch_of(kernel, tiling, grid, tensors, score, given | switches)


def launch_of(
    kernel: Any,  # noqa: ANN401
    tiling: Tiling, grid: tuple[int, int, int], tensors: dict[str, Tensor], score: Score,
    more: arguments.Arguments, tables: tuple[Tensor, ...] = (),
) -> TritonLaunch:  # fmt: skip
    """A launch with what all plain kernels are told of tensors, scores and tiles, and with more."""
    q, k, v = tensors["q"], tensors["k"], tensors["v"]
    given = {
        **arguments.of_tensors(tensors),
        **arguments.of_score(score),
        "PRECISE": arguments.needs_precise_tanh(q.dtype, score),
        **arguments.of_shapes(q, k, v),
        "BLOCK_M": tiling.rows,
        "BLOCK_N": tiling.keys,
        **more,
    }
    named = {name: given[name] for name in kernel.arg_names}
    return TritonLaunch(kernel, grid, named, q.device, tiling, tables=tables)


def _tiles(tokens: int, tiling: Tiling, side: Side) -> int:
    return -(-tokens // (tiling.rows if side == "rows" else tiling.keys))
