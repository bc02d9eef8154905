"""The backward that adds to dq, for who does not ask for the same bits, where it is faster.

Its sums of dq are float32 and hold something before: where the caller's do, they are those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ring_attn_backends.cute import table
from ring_attn_backends.cute.arguments import adding_call
from ring_attn_backends.cute.kept import enqueue
from ring_attn_backends.cute.serves import readable_backward, refused, unreadable_backward
from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.gathered import Gathered

if TYPE_CHECKING:
    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.plans import Launch
    from ring_attn_bench.plan.problem import Problem, Score


def takes(rows: Rows, keys: Keys, block: Block) -> bool:
    """Whether the table has it for these, and they are enough to do for it."""
    (batch, tokens, heads, width), band = keys.k.shape, block.index_band
    return table.adds(
        width, tokens, batch * heads, multiprocessors(rows.q),
        alike=band is not None and band.is_open,
    )  # fmt: skip


def scratch_bytes(problem: Problem, launch: Launch | Gathered) -> int:
    """The contract's own: sums of dq where a call has none, and what they are rounded to."""
    if problem.deterministic or refused(problem, torch.cuda.get_device_capability()):
        return 0
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    heads, units = problem.batch * problem.heads_kv, gpu.multi_processor_count
    row = problem.batch * problem.heads_q * problem.head_dim
    if isinstance(launch, Gathered):
        rows, keys = (sum(len(x.tokens) for x in side) for side in (launch.rows, launch.keys))
        there = launch.place is None and table.gathered_adds(problem.head_dim, keys, heads, units)
        return (4 + 2) * row * rows * there
    band = launch.block.index_band
    there = launch.first and launch.last and table.adds(
        problem.head_dim, len(launch.keys), heads, units, alike=band is not None and band.is_open
    )  # fmt: skip
    return 4 * row * len(launch.rows) * there


def backward_into(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score,
    *, first: bool, first_keys: bool,
) -> None:  # fmt: skip
    """The contract's: dq is zeroed, added to, and rounded, where it is written and of 16 bits."""
    there = not first or sums.dq.dtype is torch.float32
    wide = sums.dq if there else torch.empty_like(sums.dq, dtype=torch.float32)
    if first:
        wide.zero_()
    into = sums._replace(dq=wide)
    delta = () if rows.delta is None else (rows.delta,)
    enqueue(
        ("backward adding", block, first_keys), score,
        (rows.q, *keys, rows.dout, rows.lse, *into, *delta),
        lambda: _calls(rows, keys, into, block, score, first_keys=first_keys),
    )  # fmt: skip
    if not there:
        sums.dq.copy_(wide)


def _calls(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score, *, first_keys: bool
) -> Iterator[Call]:
    rows, keys = readable_backward(rows, keys)
    why = unreadable_backward(rows, keys, sums, first=False, first_keys=first_keys)
    if why is not None:
        raise Unsupported("cute", why)
    yield adding_call(rows, keys, sums, block, score, first=first_keys)
