"""From tensors to calls of the Hopper kernels for gathered keys; shapes as in `launch`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ring_attn_backends.triton.hopper import descriptors
from ring_attn_backends.triton.hopper.launch import (
    APART,
    L2_SHARE,
    TOGETHER,
    HopperLaunch,
    of_call,
    strides_of,
    sum_launch,
)
from ring_attn_backends.triton.hopper.table import Config, Kernel
from ring_attn_backends.triton.hopper.tilings import chosen, multiprocessors, splits_for, width
from ring_attn_backends.triton.hopper.worklists import Worklist, worklist
from ring_attn_bench.tensors import Keys

if TYPE_CHECKING:
    from ring_attn_bench.gathered import Gathered
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Gathering, Rows

_INTO = ("own_dk", "own_dv", "landed_dk", "landed_dv")
_WIDE_LINES = 4
"""Numbers of float32 that TMA's lines begin at a multiple of."""


def forward_launch(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score
) -> HopperLaunch:
    """Writes out (B, M, H, E) and lse (B, H, M)."""
    from ring_attn_backends.triton.hopper.gathered_forward import gathered_forward

    config = config_of("forward", q, keys.own)
    work = worklist(where, "rows", config.own, config.block, q.device)
    given = {
        **_keys(keys, config.block),
        "q_desc": _tiles(q, 64),
        "out_ptr": out,
        "lse_ptr": lse,
        "out_strides": strides_of(out, 3),
        "lse_strides": strides_of(lse, 2),
    }
    return _launch(gathered_forward, config, given, q, keys, work, score)


def dq_launch(
    rows: Rows, keys: Gathering, dq: Tensor, where: Gathered, score: Score
) -> HopperLaunch:
    """Writes dq (B, M, H, D)."""
    from ring_attn_backends.triton.hopper.gathered_dq import gathered_dq

    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    config = config_of("backward_dq", q, keys.own)
    work = worklist(where, "rows", config.own, config.block, q.device)
    given = {
        **_keys(keys, config.block),
        "dout_desc": _tiles(dout, 64),
        "q_desc": _tiles(q, 64),
        "lse_ptr": lse,
        "delta_ptr": delta,
        "dq_ptr": dq,
        "lse_strides": strides_of(lse, 2),
        "delta_strides": strides_of(delta, 2),
        "dq_strides": strides_of(dq, 3),
        "gradient_scale": score.softmax_scale,
    }
    return _launch(gathered_dq, config, given, q, keys, work, score)


def dkdv_launch(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool, splits: int | None = None,
) -> HopperLaunch:  # fmt: skip
    """Writes dk and dv into `own` and `landed`; splits as in `launch.backward_dkdv_launch`."""
    from ring_attn_backends.triton.hopper.gathered_dkdv import gathered_dkdv

    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    config = config_of("backward_dkdv", q, keys.own)
    work = worklist(where, "keys", config.own, config.block, q.device, own_first=own_first)
    batch, heads = q.shape[0], keys.own.k.shape[2]
    if splits is None:
        programs, group = work.count * heads * batch, q.shape[2] // heads
        splits = splits_for(programs, group, multiprocessors(q), ragged=where.ragged)
    into = (*own, *landed)
    shares = [x.new_empty(splits, *x.shape, dtype=torch.float32) for x in into if splits > 1]
    targets = dict(zip(_INTO, shares or into, strict=True))
    by_tma = _lines_by_tma(lse, delta, where)
    given = {
        **_keys(keys, 64),
        "dout_desc": _tiles(dout, config.block),
        "q_desc": _tiles(q, config.block),
        "lse_desc": descriptors.lines(lse, config.block) if by_tma else None,
        "delta_desc": descriptors.lines(delta, config.block) if by_tma else None,
        "lse_ptr": lse,
        "delta_ptr": delta,
        "lse_strides": strides_of(lse, 2),
        "delta_strides": strides_of(delta, 2),
        **{f"{name}_ptr": x for name, x in targets.items()},
        **{f"{name}_strides": strides_of(x[0] if shares else x, 3) for name, x in targets.items()},
        **{f"{name}_split": x[0].numel() if shares else 0 for name, x in targets.items()},
        "splits": splits,
        "gradient_scale": score.softmax_scale,
        "BLOCK_M": config.block,
    }
    first, *after = (
        _launch(gathered_dkdv, config, given | which, q, keys, work, score, splits=splits)
        for which in (APART if config.apart else TOGETHER)
    )
    if shares:
        after.append(sum_launch(shares[0], shares[1], *own, False))
        if landed.k.shape[1]:
            after.append(sum_launch(shares[2], shares[3], *landed, False))
    return replace(first, scratch=tuple(shares), after=tuple(after))


def config_of(kernel: Kernel, q: Tensor, keys: Keys) -> Config:
    """The table's configuration, of those whose warps are specialised."""
    return specialised(chosen(kernel, q, keys))


def specialised(config: Config) -> Config:
    """The table's configuration for a kernel whose warps are specialised."""
    return replace(config, block=128, stages=2, groups=2, tma=False) if config.tma else config


def merged(keys: Keys) -> Keys:
    """(B, N, G, D) as one batch entry of B * G heads, which packed keys are anyway."""
    if keys.k.shape[0] == 1:
        return keys
    return Keys(*(x.transpose(0, 1).flatten(1, 2)[None] for x in keys))


def _lines_by_tma(lse: Tensor, delta: Tensor, where: Gathered) -> bool:
    """Whether TMA can read lse and delta from where visits of rows begin."""
    starts = {visit.tokens.start for line in where.keys for visit in line.visits}
    aligned = all(start % _WIDE_LINES == 0 for start in starts)
    return aligned and descriptors.fits(lse) and descriptors.fits(delta)


def _keys(keys: Gathering, block: int) -> dict[str, Any]:
    """Descriptors of tiles of own and of landed keys."""
    own, landed = merged(keys.own), merged(keys.landed)
    return {
        "own_k_desc": _tiles(own.k, block, packed=True),
        "own_v_desc": _tiles(own.v, block, packed=True),
        "landed_k_desc": _tiles(landed.k, block, packed=True),
        "landed_v_desc": _tiles(landed.v, block, packed=True),
    }


def _tiles(tensor: Tensor, tokens: int, *, packed: bool = False) -> Any:  # noqa: ANN401 - Triton ships no types
    return descriptors.tiles(tensor, tokens, width(tensor), packed=packed)


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    config: Config,
    given: dict[str, Any],
    q: Tensor,
    keys: Gathering,
    work: Worklist,
    score: Score,
    *,
    splits: int = 0,
) -> HopperLaunch:
    """splits: of a key head's queries; 0 where a program has rows, and not keys."""
    (k, v), batch = keys.own, q.shape[0]
    group, of_keys = q.shape[2] // k.shape[2], splits > 0
    heads = k.shape[2] * splits if of_keys else q.shape[2]
    # bytes of the other side's tiles that the programs of one key head pass through
    columns = (k.shape[-1] + v.shape[-1]) * k.element_size()
    tokens = q.shape[1] * group if of_keys else k.shape[1] + keys.landed.k.shape[1]
    together = (splits if of_keys else group) * max(1, L2_SHARE // max(1, tokens * columns))
    numbers = {
        "tiles_ptr": work.tiles,
        "entries_ptr": work.entries,
        "words_ptr": keys.arrived,
        "tiles": work.count,
        "heads": heads,
        "all_heads": heads * batch,
        # programs go by groups of heads, as keys arrive
        "section": min(together, heads * batch // keys.head_groups),
        "head_groups": keys.head_groups,
        "heads_each": k.shape[2] * batch // keys.head_groups,
        "group": group,
        "M": q.shape[1],
    }
    given = of_call(q, v, config, score) | numbers | given
    arguments = {name: given[name] for name in kernel.arg_names}
    grid = (work.count * heads * batch, 1, 1)
    tables = (work.tiles, work.entries)
    return HopperLaunch(kernel, grid, arguments, config, q.device, tables=tables)
