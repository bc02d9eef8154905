"""From gathered tensors to calls of the plain kernels, as `plain.launch` for a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ring_attn_backends.shared.once import once
from ring_attn_backends.triton.plain.gathered.backward_dkdv import gathered_dkdv
from ring_attn_backends.triton.plain.gathered.backward_dq import gathered_dq
from ring_attn_backends.triton.plain.gathered.forward import gathered_forward
from ring_attn_backends.triton.plain.gathered.worklist import worklist
from ring_attn_backends.triton.plain.launch import launch_of, rows_and_keys
from ring_attn_backends.triton.plain.table import chosen

if TYPE_CHECKING:
    from ring_attn_backends.triton.launching import Kernel, TritonLaunch
    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score


def forward_launch(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score
) -> TritonLaunch:
    """As `choice.GatheredLaunches` has it."""
    tensors = {"q": q, **_keys(keys), "out": out, "lse": lse}
    return _launch(gathered_forward, "forward", tensors, keys, where, score)


def dq_launch(
    rows: Rows, keys: Gathering, dq: Tensor, where: Gathered, score: Score
) -> TritonLaunch:
    """As `choice.GatheredLaunches` has it."""
    tensors = {**rows_and_keys(rows, _keys(keys)), "dq": dq}
    return _launch(gathered_dq, "backward_dq", tensors, keys, where, score)


def dkdv_launch(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool,
) -> TritonLaunch:  # fmt: skip
    """As `choice.GatheredLaunches` has it."""
    tensors = {**rows_and_keys(rows, _keys(keys)), "dk": own.k, "dv": own.v}
    tensors |= {"landed_dk": landed.k, "landed_dv": landed.v}
    return _launch(gathered_dkdv, "backward_dkdv", tensors, keys, where, score, own_first)


def _keys(keys: Gathering) -> dict[str, Tensor]:
    own, landed, *_ = keys
    return {"k": own.k, "v": own.v, "landed_k": landed.k, "landed_v": landed.v}


def _launch(
    jitted: Any,  # noqa: ANN401 - Triton ships no types
    kernel: Kernel, tensors: dict[str, Tensor], keys: Gathering, where: Gathered, score: Score,
    own_first: bool | None = None,
) -> TritonLaunch:  # fmt: skip
    """One program for each tile, head and batch entry: all of a tile, then those of the next."""
    q, own, arrived = tensors["q"], keys.own, keys.arrived
    tiling = chosen(kernel, q, own)
    if kernel == "backward_dkdv":
        work = once(where, worklist, "keys", tiling.keys, q.device, own_first)
        heads = own.k.shape[2]
    else:
        work, heads = once(where, worklist, "rows", tiling.rows, q.device), q.shape[2]
    streams = heads * q.shape[0]
    more = {
        "table_ptr": work.table,
        "words_ptr": arrived,
        "heads": heads,
        "streams": streams,
        "head_groups": keys.head_groups,
        "heads_each": own.k.shape[2] * q.shape[0] // keys.head_groups,
        "step": where.step,
        "WAITS": arrived is not None,
    }
    grid = work.tiles * streams, 1, 1
    return launch_of(jitted, tiling, grid, tensors, score, more, (work.table,))
