"""From tensors to calls of the Hopper kernels for gathered keys; shapes as in `launching`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_backends.shared.once import once
from ring_attn_backends.shared.worklist import Worklist, worklist
from ring_attn_backends.triton.arguments import Arguments, pointers
from ring_attn_backends.triton.hopper.launch import (
    APART,
    TOGETHER,
    gradients,
    launch_of,
    sum_launch,
)
from ring_attn_backends.triton.hopper.splits import splits_for
from ring_attn_backends.triton.hopper.table import Config, chosen, width
from ring_attn_bench.contract.tensors import Keys

if TYPE_CHECKING:
    from ring_attn_backends.triton.launching import Kernel, TritonLaunch
    from ring_attn_bench.contract.tensors import Gathering, Rows
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score

_AREAS = ("own_k", "own_v", "landed_k", "landed_v")
_INTO = ("own_dk", "own_dv", "landed_dk", "landed_dv")
_WIDE_LINES = 4
"""Numbers of float32 that TMA's lines begin at a multiple of."""


def forward_launch(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score
) -> TritonLaunch:
    """As `choice.GatheredLaunches` has it."""
    from ring_attn_backends.triton.hopper.gathered.forward import gathered_forward

    config = specialised("forward", q, keys.own)
    work = once(where, worklist, "rows", config.own, config.block, q.device)
    given = {
        **_keys(keys, config.block),
        "q_desc": _tiles(q, 64),
        **pointers({"out": out, "lse": lse}),
    }
    return _launch(gathered_forward, config, given, q, keys, work, score)


def dq_launch(
    rows: Rows, keys: Gathering, dq: Tensor, where: Gathered, score: Score
) -> TritonLaunch:
    """As `choice.GatheredLaunches` has it."""
    from ring_attn_backends.triton.hopper.gathered.backward_dq import gathered_dq

    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    config = specialised("backward_dq", q, keys.own)
    work = once(where, worklist, "rows", config.own, config.block, q.device)
    given = {
        **_keys(keys, config.block),
        "dout_desc": _tiles(dout, 64),
        "q_desc": _tiles(q, 64),
        **pointers({"lse": lse, "delta": delta, "dq": dq}),
    }
    return _launch(gathered_dq, config, given, q, keys, work, score)


def dkdv_launch(
    rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
    *, own_first: bool, splits: int | None = None,
) -> TritonLaunch:  # fmt: skip
    """As there; splits as in `hopper.launch.backward_dkdv_launch`."""
    from ring_attn_backends.triton.hopper import descriptors
    from ring_attn_backends.triton.hopper.gathered.backward_dkdv import gathered_dkdv

    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    config = specialised("backward_dkdv", q, keys.own)
    work = once(where, worklist, "keys", config.own, config.block, q.device, own_first)
    batch, heads = q.shape[0], keys.own.k.shape[2]
    if splits is None:
        programs, group = work.count * heads * batch, q.shape[2] // heads
        splits = splits_for(programs, group, multiprocessors(q), ragged=where.ragged)
    into, shares = gradients(dict(zip(_INTO, (*own, *landed), strict=True)), splits)
    by_tma = _lines_by_tma(lse, delta, where)
    given = {
        **_keys(keys, 64),
        "dout_desc": _tiles(dout, config.block),
        "q_desc": _tiles(q, config.block),
        "lse_desc": descriptors.lines(lse, config.block) if by_tma else None,
        "delta_desc": descriptors.lines(delta, config.block) if by_tma else None,
        **pointers({"lse": lse, "delta": delta}),
        **into,
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


def specialised(kernel: Kernel, q: Tensor, keys: Keys) -> Config:
    """The table's configuration, of those whose warps are specialised."""
    config = chosen(kernel, q, keys)
    return replace(config, block=128, stages=2, groups=2, tma=False) if config.tma else config


def merged(keys: Keys) -> Keys:
    """(B, N, G, D) as one batch entry of B * G heads, which packed keys are anyway."""
    if keys.k.shape[0] == 1:
        return keys
    return Keys(*(x.transpose(0, 1).flatten(1, 2)[None] for x in keys))


def _lines_by_tma(lse: Tensor, delta: Tensor, where: Gathered) -> bool:
    """Whether TMA can read lse and delta from where visits of rows begin."""
    from ring_attn_backends.triton.hopper.descriptors import fits

    if where.place is not None:  # other batches may begin anywhere
        return False
    starts = {visit.tokens.start for line in where.keys for visit in line.visits}
    aligned = all(start % _WIDE_LINES == 0 for start in starts)
    return aligned and fits(lse) and fits(delta)


def _keys(keys: Gathering, block: int) -> dict[str, Any]:
    """Descriptors of tiles of own and of landed keys."""
    own = merged(keys.own)
    # TMA has no tiles of nothing, and where nothing landed no tile of it is asked for
    landed = merged(keys.landed) if keys.landed.k.shape[1] else own
    areas = dict(zip(_AREAS, (*own, *landed), strict=True))
    return {f"{name}_desc": _tiles(x, block, packed=True) for name, x in areas.items()}


def _tiles(tensor: Tensor, tokens: int, *, packed: bool = False) -> Any:  # noqa: ANN401 - Triton ships no types
    from ring_attn_backends.triton.hopper.descriptors import tiles

    return tiles(tensor, tokens, width(tensor), packed=packed)


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    config: Config, given: Arguments, q: Tensor, keys: Gathering, work: Worklist, score: Score,
    *, splits: int = 0,
) -> TritonLaunch:  # fmt: skip
    """Programs go by groups of heads, as keys arrive."""
    k, batch, groups = keys.own.k, q.shape[0], keys.head_groups
    more = {
        "tiles_ptr": work.tiles,
        "entries_ptr": work.entries,
        "words_ptr": keys.arrived,
        "head_groups": groups,
        "heads_each": k.shape[2] * batch // groups,
    }
    programs = work.count, batch
    tokens = q.shape[1], k.shape[1] + keys.landed.k.shape[1]
    launch = launch_of(
        kernel, config, more | given, q, keys.own, score, programs, tokens, splits=splits,
        head_groups=groups,
    )  # fmt: skip
    return replace(launch, tables=(work.tiles, work.entries))
