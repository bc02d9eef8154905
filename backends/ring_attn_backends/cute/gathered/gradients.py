"""From tensors to calls of the backward kernels for gathered keys, as `launch` for the forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from ring_attn_backends.cute.arguments import name_of
from ring_attn_backends.cute.gathered.launch import called, check
from ring_attn_backends.cute.gathered.parts import parts
from ring_attn_backends.cute.serves import readable_rows, unreadable_lines
from ring_attn_backends.cute.table import ADDS, BACKWARD, GATHERED, Build, Config, Kernel
from ring_attn_backends.shared.once import once
from ring_attn_backends.shared.worklist import worklist
from ring_attn_bench.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score


def dkdv_call(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool, kernel: Kernel = "backward_dkdv",
) -> Call:  # fmt: skip
    """The contract's `gathered_dkdv` as a launch; Unsupported as `launch.forward_call` raises it.

    The dtypes of own and of landed gradients need not be the same. kernel: as the plain one is
    called, of both gradients or of one.
    """
    config = BACKWARD[kernel, rows.q.shape[-1]]
    work = once(where, worklist, "keys", config.own, config.block, rows.q.device, own_first)
    away = _checked(own, landed)
    build = _build(kernel, config, rows, own, landed, score)
    return called(build, *_read(rows, (*own, *away)), keys, where, work, score)


def adding_call(
    rows: Rows, keys: Gathering, dq: Tensor, own: Keys, landed: Keys, where: Gathered,
    score: Score, *, own_first: bool, part: Literal[0, 1],
) -> Call:  # fmt: skip
    """One of the two launches of the contract's `gathered_backward`, which add to dq, in float32.

    part: of `parts.parts`.
    """
    config = ADDS[rows.q.shape[-1]]
    work = once(where, parts, config.own, config.block, rows.q.device, own_first)[part]
    away = _checked(own, landed)
    check([("dq", dq, torch.float32)])
    build = _build("backward_adding", config, rows, own, landed, score)
    return called(build, *_read(rows, (dq, *own, *away)), keys, where, work, score)


def _checked(own: Keys, landed: Keys) -> Keys:
    """Where gradients of landed keys are written, if the kernel can, and those of own ones."""
    # no tile is of landed keys where there are none
    away = landed if landed.k.shape[1] else own
    check([("own dk", own.k, None), ("own dv", own.v, own.k.dtype)])
    check([("landed dk", away.k, None), ("landed dv", away.v, away.k.dtype)])
    return away


def _build(
    kernel: Kernel, config: Config, rows: Rows, own: Keys, landed: Keys, score: Score
) -> Build:
    return Build(
        config, name_of(rows.q.dtype), name_of(own.k.dtype), score.softcap > 0,
        kernel=GATHERED[kernel], away=name_of(landed.k.dtype),
    )  # fmt: skip


def dq_call(rows: Rows, keys: Gathering, dq: Tensor, where: Gathered, score: Score) -> Call:
    """The contract's `gathered_dq` as a launch that writes dq."""
    config = BACKWARD["backward_dq", rows.q.shape[-1]]
    work = once(where, worklist, "rows", config.own, config.block, rows.q.device)
    check([("dq", dq, None)])
    build = Build(
        config, name_of(rows.q.dtype), name_of(dq.dtype), score.softcap > 0,
        kernel="gathered.backward_dq",
    )  # fmt: skip
    return called(build, *_read(rows, (dq,)), keys, where, work, score)


def _read(rows: Rows, results: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What a backward's signature has before the keys and behind them, but for tables."""
    q, dout, _, lse, delta = readable_rows(rows)
    why = unreadable_lines(rows)
    if why is not None:
        raise Unsupported("cute", why)
    assert delta is not None  # or that would be why
    check([("dout", dout, q.dtype)])
    return (q, dout), (lse, delta, *results)
