"""From tensors to calls of the Hopper kernels, for what `served` lets pass.

The functions take what those of `ring_attn_backends.triton.launch` take; shapes as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ring_attn_backends.triton.hopper.extents import Extent
from ring_attn_backends.triton.hopper.table import Config
from ring_attn_backends.triton.hopper.tilings import chosen, multiprocessors, splits_for, width
from ring_attn_bench.relaunch import Made

if TYPE_CHECKING:
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Documents, Score
    from ring_attn_bench.tensors import Keys, Rows, Running, Sums

TOGETHER = ({"DK": True, "DV": True},)
APART = ({"DK": True, "DV": False}, {"DK": False, "DV": True})
"""Which of dk and dv each of backward_dkdv's launches is for."""
L2_SHARE = 32 << 20
"""Bytes of tiles that are read again and again, at most: of an H200's L2 cache of 50 MiB."""


@dataclass(frozen=True, slots=True)
class HopperLaunch:
    """One kernel call, ready to run, and what is to run after it.

    scratch: the tensors among the arguments that nobody needs afterwards. tables: those that say
    what the programs of a gathered launch do.
    """

    kernel: Any  # a gluon kernel
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    config: Config | None
    device: torch.device
    scratch: tuple[Tensor, ...] = ()
    tables: tuple[Tensor, ...] = ()
    after: tuple[HopperLaunch, ...] = ()

    @property
    def options(self) -> dict[str, int]:
        """For the compiler: a Gluon kernel begins with four warps, and takes more itself."""
        if self.config is None or not self.config.tma:
            return {"num_warps": 4}
        return {"num_warps": self.config.warps, "num_stages": self.config.stages}

    def run(self) -> None:
        """Enqueues it on the current stream of the tensors' device."""
        self.made()

    def made(self) -> tuple[Made, ...]:
        """Runs it, and returns the calls that were made: this one, and those after."""
        with torch.cuda.device(self.device):
            compiled = self.kernel[self.grid](**self.arguments, **self.options)
        call = Made(compiled, self.grid, tuple(self.arguments.values()))
        return call, *(part for launch in self.after for part in launch.made())


def forward_launch(
    q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
    *, first: bool, config: Config | None = None,
) -> HopperLaunch:  # fmt: skip
    """As the plain one; `config` if not the table's."""
    from ring_attn_backends.triton.hopper import descriptors
    from ring_attn_backends.triton.hopper.forward import forward
    from ring_attn_backends.triton.hopper.forward_tma import forward_tma

    (k, v), acc, out, lse = keys, running.out, running.result, running.lse
    config = config or chosen("forward", q, keys)
    extent = Extent.of(where, q.shape[0])
    tiles = partial(descriptors.tiles, packed=extent.packed, gluon=not config.tma)
    given = {
        "q_desc": tiles(q, config.own if config.tma else 64, width(q)),
        "k_desc": tiles(k, config.block, width(k)),
        "v_desc": tiles(v, config.block, width(v)),
        "BLOCK_M": config.own,
        "acc_ptr": acc,
        "out_ptr": out,
        "lse_ptr": lse,
        "acc_strides": strides_of(acc, 3),
        "out_strides": strides_of(out, 3),
        "lse_strides": strides_of(lse, 2),
        "CARRIED": not first,
    }
    return _launch(forward_tma if config.tma else forward, config, given, q, keys, extent, score)


def backward_dq_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, config: Config | None = None,
) -> HopperLaunch:  # fmt: skip
    """As the plain one."""
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
        "lse_ptr": lse,
        "delta_ptr": delta,
        "dq_ptr": dq,
        "lse_strides": strides_of(lse, 2),
        "delta_strides": strides_of(delta, 2),
        "dq_strides": strides_of(dq, 3),
        "gradient_scale": score.softmax_scale,
        "ADD": add,
    }
    return _launch(backward_dq, config, given, q, keys, extent, score)


def backward_dkdv_launch(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, config: Config | None = None, splits: int | None = None,
) -> HopperLaunch:  # fmt: skip
    """As the plain one; splits: how many programs share a key head's queries, if not by the GPU."""
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
    shares = [x.new_empty(splits, *x.shape, dtype=torch.float32) for x in keys if splits > 1]
    into = shares or [dk, dv]
    strides = [strides_of(x[0] if shares else x, 3) for x in into]
    by_tma = not extent.packed and descriptors.fits(lse) and descriptors.fits(delta)
    tiles = partial(descriptors.tiles, packed=extent.packed)
    given = {
        "dout_desc": tiles(dout, config.block, width(v)),
        "q_desc": tiles(q, config.block, width(q)),
        "k_desc": tiles(k, 64, width(k)),
        "v_desc": tiles(v, 64, width(v)),
        "lse_desc": descriptors.lines(lse, config.block) if by_tma else None,
        "delta_desc": descriptors.lines(delta, config.block) if by_tma else None,
        "lse_ptr": lse,
        "delta_ptr": delta,
        "lse_strides": strides_of(lse, 2),
        "delta_strides": strides_of(delta, 2),
        "dk_ptr": into[0],
        "dv_ptr": into[1],
        "dk_strides": strides[0],
        "dv_strides": strides[1],
        "dk_split": k.numel() if shares else 0,
        "dv_split": v.numel() if shares else 0,
        "splits": splits,
        "gradient_scale": score.softmax_scale,
        "ADD": add and not shares,
    }
    first, *others = (
        _launch(backward_dkdv, config, given | which, q, keys, extent, score, splits=splits)
        for which in (APART if config.apart else TOGETHER)
    )
    if shares:
        others.append(sum_launch(shares[0], shares[1], dk, dv, add, extent.cu_keys))
    return replace(first, scratch=tuple(shares), after=tuple(others))


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    config: Config,
    given: dict[str, Any],
    q: Tensor,
    keys: Keys,
    extent: Extent,
    score: Score,
    *,
    splits: int = 0,
) -> HopperLaunch:
    """splits: of a key head's queries; 0 where a program has rows, and not keys."""
    (k, v), of_keys = keys, splits > 0
    tiles = -(-(extent.keys if of_keys else extent.rows) // config.own)
    group = q.shape[2] // k.shape[2]
    heads = k.shape[2] * splits if of_keys else q.shape[2]
    # bytes of the other side's tiles that the programs of one key head pass through
    columns = (k.shape[-1] + v.shape[-1]) * k.element_size()
    passed = (extent.rows * group if of_keys else extent.keys) * columns
    together = (splits if of_keys else group) * max(1, L2_SHARE // passed)
    numbers = {
        "tiles": tiles,
        "heads": heads,
        "all_heads": heads * extent.entries,
        "section": min(together, heads * extent.entries),
        "group": group,
        "M": extent.rows,
        "N": extent.keys,
        "low": extent.low,
        "high": extent.high,
        "cu_rows_ptr": extent.cu_rows,
        "cu_keys_ptr": extent.cu_keys,
    }
    given = of_call(q, v, config, score) | numbers | given
    arguments = {name: given[name] for name in kernel.arg_names}
    grid = (tiles * heads * extent.entries, 1, 1)
    return HopperLaunch(kernel, grid, arguments, config, q.device)


def of_call(q: Tensor, v: Tensor, config: Config, score: Score) -> dict[str, Any]:
    """What kernels are told of scores, head dims and tiles, whichever keys they read."""
    log2e, capped = math.log2(math.e), score.softcap > 0
    return {
        "scale": score.softmax_scale / score.softcap if capped else score.softmax_scale * log2e,
        "cap": score.softcap * log2e,
        "D": q.shape[-1],
        "E": v.shape[-1],
        "BLOCK_D": width(q),
        "BLOCK_E": width(v),
        "BLOCK_N": config.block,
        "BLOCK_M": config.block,
        "STAGES": config.stages,
        "GROUPS": config.groups,
        "CAPPED": capped,
    }


def sum_launch(
    dk_shares: Tensor, dv_shares: Tensor, dk: Tensor, dv: Tensor, add: bool,
    cu_keys: Tensor | None = None,
) -> HopperLaunch:  # fmt: skip
    """Writes the sums of shares (splits, B, N, G, .) to dk and dv, or adds them to these."""
    from ring_attn_backends.triton.hopper.sum_splits import sum_splits

    splits, batch, tokens, heads, _ = dk_shares.shape
    block = 2048 // max(width(dk), width(dv))
    arguments = {
        "dk_shares_ptr": dk_shares, "dv_shares_ptr": dv_shares, "dk_ptr": dk, "dv_ptr": dv,
        "cu_keys_ptr": cu_keys, "dk_strides": strides_of(dk, 3), "dv_strides": strides_of(dv, 3),
        "splits": splits, "documents": 0 if cu_keys is None else len(cu_keys) - 1,
        "N": tokens, "G": heads, "D": dk.shape[-1], "E": dv.shape[-1],
        "BLOCK_D": width(dk), "BLOCK_E": width(dv), "BLOCK": block, "ADD": add,
    }  # fmt: skip
    assert list(arguments) == sum_splits.arg_names  # in their order they are made again
    grid = (-(-tokens * heads // block), batch, 2)
    return HopperLaunch(sum_splits, grid, arguments, None, dk.device)


def strides_of(tensor: Tensor, dims: int) -> tuple[int, ...]:
    """Of the first dims, as kernels take them."""
    # a dim of one element may have any stride; 0 spares the kernels a variant for each
    sizes, strides = tensor.shape[:dims], tensor.stride()[:dims]
    return tuple(stride if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True))
