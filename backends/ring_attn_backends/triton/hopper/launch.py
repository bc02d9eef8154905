"""From tensors to calls of the Hopper kernels, for what `serves` lets pass, as in `launching`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_backends.triton.arguments import Arguments, of_score, pointers, strides
from ring_attn_backends.triton.hopper.extents import Extent
from ring_attn_backends.triton.hopper.splits import splits_for
from ring_attn_backends.triton.hopper.table import Config, chosen, width
from ring_attn_backends.triton.launching import TritonLaunch

if TYPE_CHECKING:
    from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import Documents, Score

TOGETHER = ({"DK": True, "DV": True},)
APART = ({"DK": True, "DV": False}, {"DK": False, "DV": True})
"""Which of dk and dv each of backward_dkdv's launches is for."""
L2_SHARE = 32 << 20
"""Bytes of tiles that are read again and again, at most: of an H200's L2 cache of 50 MiB."""


def forward_launch(
    q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
    *, first: bool, config: Config | None = None,
) -> TritonLaunch:  # fmt: skip
    """As `choice.Launches` has it."""
    extent = Extent.of(where, q.shape[0])
    return forward_over(q, keys, running, extent, score, first=first, config=config)


def forward_over(
    q: Tensor, keys: Keys, running: Running, extent: Extent, score: Score,
    *, first: bool = True, config: Config | None = None,
) -> TritonLaunch:  # fmt: skip
    """The same of any extent."""
    from ring_attn_backends.triton.hopper import descriptors
    from ring_attn_backends.triton.hopper.forward import forward
    from ring_attn_backends.triton.hopper.forward_tma import forward_tma

    (k, v), acc, out, lse = keys, running.out, running.result, running.lse
    config = config or chosen("forward", q, keys)
    tiles = partial(descriptors.tiles, gluon=not config.tma)
    given = {
        "q_desc": tiles(q, config.own if config.tma else 64, width(q), packed=extent.packed),
        "k_desc": tiles(k, config.block, width(k), packed=extent.packed_keys),
        "v_desc": tiles(v, config.block, width(v), packed=extent.packed_keys),
        "BLOCK_M": config.own,
        **pointers({"acc": acc, "out": out, "lse": lse}),
        "CARRIED": not first,
    }
    return _launch(forward_tma if config.tma else forward, config, given, q, keys, extent, score)


def backward_dq_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, config: Config | None = None,
) -> TritonLaunch:  # fmt: skip
    """As `choice.Launches` has it."""
    from ring_attn_backends.triton.hopper import descriptors
    from ring_attn_backends.triton.hopper.backward_dq import backward_dq

    (q, dout, _, lse, delta), (k, v), (dq, _, _) = rows, keys, sums
    assert delta is not None  # needs_delta
    config = config or chosen("backward_dq", q, keys)
    extent = Extent.of(where, q.shape[0])
    tiles = partial(descriptors.tiles, packed=extent.packed)
    given = {
        "dout_desc": tiles(dout, 64, width(v)),
        "q_desc": tiles(q, 64, width(q)),
        "k_desc": tiles(k, config.block, width(k)),
        "v_desc": tiles(v, config.block, width(v)),
        **pointers({"lse": lse, "delta": delta, "dq": dq}),
        "ADD": add,
    }
    return _launch(backward_dq, config, given, q, keys, extent, score)


def backward_dkdv_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, config: Config | None = None, splits: int | None = None,
) -> TritonLaunch:  # fmt: skip
    """As there; splits: how many programs share a key head's queries, if not by the GPU."""
    from ring_attn_backends.triton.hopper import descriptors
    from ring_attn_backends.triton.hopper.backward_dkdv import backward_dkdv

    (q, dout, _, lse, delta), (k, v), (_, dk, dv) = rows, keys, sums
    assert delta is not None  # needs_delta
    config = config or chosen("backward_dkdv", q, keys)
    extent = Extent.of(where, q.shape[0])
    batch, tokens, heads, _ = k.shape
    if splits is None:
        programs = -(-tokens // config.own) * heads * batch
        splits = splits_for(programs, q.shape[2] // heads, multiprocessors(q), ragged=extent.ragged)
    into, shares = gradients({"dk": dk, "dv": dv}, splits)
    by_tma = not extent.packed and descriptors.fits(lse) and descriptors.fits(delta)
    tiles = partial(descriptors.tiles, packed=extent.packed)
    given = {
        "dout_desc": tiles(dout, config.block, width(v)),
        "q_desc": tiles(q, config.block, width(q)),
        "k_desc": tiles(k, 64, width(k)),
        "v_desc": tiles(v, 64, width(v)),
        "lse_desc": descriptors.lines(lse, config.block) if by_tma else None,
        "delta_desc": descriptors.lines(delta, config.block) if by_tma else None,
        **pointers({"lse": lse, "delta": delta}),
        **into,
        "ADD": add and not shares,
    }
    first, *others = (
        _launch(backward_dkdv, config, given | which, q, keys, extent, score, splits=splits)
        for which in (APART if config.apart else TOGETHER)
    )
    if shares:
        others.append(sum_launch(shares[0], shares[1], dk, dv, add, extent.cu_keys))
    return replace(first, scratch=tuple(shares), after=tuple(others))


def gradients(wanted: dict[str, Tensor], splits: int) -> tuple[Arguments, list[Tensor]]:
    """What kernels are told of where they write dk and dv, and the shares that they write to."""
    split = wanted.values() if splits > 1 else ()
    shares = [x.new_empty(splits, *x.shape, dtype=torch.float32) for x in split]
    into = dict(zip(wanted, shares, strict=True)) if shares else wanted
    given: Arguments = {"splits": splits}
    for name, x in into.items():
        given[f"{name}_ptr"] = x
        given[f"{name}_strides"] = strides(x[0] if shares else x, 3)
        given[f"{name}_split"] = x[0].numel() if shares else 0
    return given, shares


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    config: Config, given: Arguments, q: Tensor, keys: Keys, extent: Extent, score: Score,
    *, splits: int = 0,
) -> TritonLaunch:  # fmt: skip
    tokens = extent.rows, extent.keys
    more = {
        "N": extent.keys,
        "low": extent.low,
        "high": extent.high,
        "cu_rows_ptr": extent.cu_rows,
        "cu_keys_ptr": extent.cu_keys,
    }
    tiles = -(-(extent.keys if splits else extent.rows) // config.own)
    return launch_of(
        kernel, config, more | given, q, keys, score, (tiles, extent.entries), tokens, splits=splits
    )


def launch_of(
    kernel: Any,  # noqa: ANN401
    config: Config, more: Arguments, q: Tensor, keys: Keys, score: Score,
    programs: tuple[int, int], tokens: tuple[int, int], *, splits: int, head_groups: int = 1,
) -> TritonLaunch:  # fmt: skip
    """A launch with what all Hopper kernels are told of scores, tiles and programs, and with more.

    programs: tiles, and entries of the batch. tokens: rows and keys of an entry. splits: of a key
    head's queries; 0 where a program has rows, and not keys. head_groups: how many arrive apart.
    """
    (k, v), (tiles, entries), of_keys = keys, programs, splits > 0
    group = q.shape[2] // k.shape[2]
    heads = k.shape[2] * splits if of_keys else q.shape[2]
    # bytes of the other side's tiles that the programs of one key head pass through
    columns = (k.shape[-1] + v.shape[-1]) * k.element_size()
    passed = (tokens[0] * group if of_keys else tokens[1]) * columns
    together = (splits if of_keys else group) * max(1, L2_SHARE // max(1, passed))
    given = {
        **of_score(score),
        "D": q.shape[-1],
        "E": v.shape[-1],
        "BLOCK_D": width(q),
        "BLOCK_E": width(v),
        "BLOCK_N": config.block,
        "BLOCK_M": config.block,
        "STAGES": config.stages,
        "GROUPS": config.groups,
        "tiles": tiles,
        "heads": heads,
        "all_heads": heads * entries,
        "section": min(together, heads * entries // head_groups),
        "group": group,
        "M": tokens[0],
        **more,
    }
    arguments = {name: given[name] for name in kernel.arg_names}
    return TritonLaunch(kernel, (tiles * heads * entries, 1, 1), arguments, q.device, config)


def sum_launch(
    dk_shares: Tensor, dv_shares: Tensor, dk: Tensor, dv: Tensor, add: bool,
    cu_keys: Tensor | None = None,
) -> TritonLaunch:  # fmt: skip
    """Writes the sums of shares (splits, B, N, G, .) to dk and dv, or adds them to these."""
    from ring_attn_backends.triton.hopper.sum_splits import sum_splits

    splits, batch, tokens, heads, _ = dk_shares.shape
    block = 2048 // max(width(dk), width(dv))
    arguments = {
        "dk_shares_ptr": dk_shares, "dv_shares_ptr": dv_shares, "dk_ptr": dk, "dv_ptr": dv,
        "cu_keys_ptr": cu_keys, "dk_strides": strides(dk, 3), "dv_strides": strides(dv, 3),
        "splits": splits, "documents": 0 if cu_keys is None else len(cu_keys) - 1,
        "N": tokens, "G": heads, "D": dk.shape[-1], "E": dv.shape[-1],
        "BLOCK_D": width(dk), "BLOCK_E": width(dv), "BLOCK": block, "ADD": add,
    }  # fmt: skip
    assert list(arguments) == sum_splits.arg_names  # in their order they are made again
    grid = (-(-tokens * heads // block), batch, 2)
    return TritonLaunch(sum_splits, grid, arguments, dk.device)
