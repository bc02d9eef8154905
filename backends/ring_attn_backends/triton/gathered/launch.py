"""From gathered tensors to kernel calls, as `ring_attn_backends.triton.launch` for a block.

Shapes as there; the landed keys are L tokens, piece behind piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ring_attn_backends.triton import arguments
from ring_attn_backends.triton.gathered.backward_dkdv import gathered_dkdv
from ring_attn_backends.triton.gathered.backward_dq import gathered_dq
from ring_attn_backends.triton.gathered.forward import gathered_forward
from ring_attn_backends.triton.gathered.worklist import Side, Worklist, worklist
from ring_attn_backends.triton.launch import Launch, chosen

if TYPE_CHECKING:
    from ring_attn_backends.triton.tables import Kernel
    from ring_attn_bench.gathered import Gathered
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Gathering, Keys, Rows

SIDES: dict[Kernel, Side] = {"forward": "rows", "backward_dq": "rows", "backward_dkdv": "keys"}


def forward_launch(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score
) -> Launch:
    """Writes out and lse."""
    tensors = {"q": q, **_keys(keys), "out": out, "lse": lse}
    work = worklist_of("forward", q, keys, where)
    return _launch(gathered_forward, "forward", tensors, keys, work, where, score)


def dq_launch(rows: Rows, keys: Gathering, dq: Tensor, where: Gathered, score: Score) -> Launch:
    """Writes dq."""
    tensors = {**_rows(rows), **_keys(keys), "dq": dq}
    work = worklist_of("backward_dq", rows.q, keys, where)
    return _launch(gathered_dq, "backward_dq", tensors, keys, work, where, score)


def dkdv_launch(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool,
) -> Launch:  # fmt: skip
    """Writes dk and dv into `own` and `landed`."""
    tensors = {**_rows(rows), **_keys(keys), "dk": own.k, "dv": own.v}
    tensors |= {"landed_dk": landed.k, "landed_dv": landed.v}
    work = worklist_of("backward_dkdv", rows.q, keys, where, own_first=own_first)
    return _launch(gathered_dkdv, "backward_dkdv", tensors, keys, work, where, score)


def worklist_of(
    kernel: Kernel, q: Tensor, keys: Gathering, where: Gathered, *, own_first: bool | None = None
) -> Worklist:
    """What the programs of a kernel do, in tiles as its table has them."""
    side, tiling = SIDES[kernel], chosen(kernel, q, keys.own.v)
    block = tiling.rows if side == "rows" else tiling.keys
    return worklist(where, side, block, q.device, own_first=own_first)


def _rows(rows: Rows) -> dict[str, Tensor]:
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    return {"q": q, "dout": dout, "lse": lse, "delta": delta}


def _keys(keys: Gathering) -> dict[str, Tensor]:
    own, landed, *_ = keys
    return {"k": own.k, "v": own.v, "landed_k": landed.k, "landed_v": landed.v}


def _launch(
    jitted: Any,  # noqa: ANN401 - Triton ships no types
    kernel: Kernel, tensors: dict[str, Tensor], keys: Gathering, work: Worklist, where: Gathered,
    score: Score,
) -> Launch:  # fmt: skip
    """One program for each tile, head and batch entry: all of a tile, then those of the next."""
    q, own, arrived = tensors["q"], keys.own, keys.arrived
    heads = (q if SIDES[kernel] == "rows" else own.k).shape[2]
    streams = heads * q.shape[0]
    tiling = chosen(kernel, q, own.v)
    given = {
        **arguments.of_tensors(tensors),
        **arguments.of_score(score),
        "PRECISE": arguments.needs_precise_tanh(q.dtype, score),
        **arguments.of_shapes(q, *own, tiling),
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
    named = {name: given[name] for name in jitted.arg_names}
    return Launch(jitted, grid, named, tiling, tables=(work.table,))
