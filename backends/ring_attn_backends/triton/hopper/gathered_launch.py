"""From tensors to calls of the Hopper kernels for gathered keys; shapes as in `launch`."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ring_attn_backends.triton.hopper.launch import L2_SHARE, HopperLaunch, strides_of
from ring_attn_backends.triton.hopper.table import Config
from ring_attn_backends.triton.hopper.tilings import chosen, width
from ring_attn_backends.triton.hopper.worklists import Worklist, worklist
from ring_attn_bench.tensors import Keys

if TYPE_CHECKING:
    from ring_attn_bench.gathered import Gathered
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Gathering


def forward_launch(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score,
    *, config: Config | None = None,
) -> HopperLaunch:  # fmt: skip
    """Writes out (B, M, H, E) and lse (B, H, M); `config` if not the table's."""
    from ring_attn_backends.triton.hopper.gathered_forward import gathered_forward

    config = config or specialised(chosen("forward", q, keys.own))
    work = worklist(where, "rows", config.own, config.block, None, q.device)
    given = {
        **_keys(keys, config.block),
        "q_desc": _tiles(q, 64, packed=False),
        "out_ptr": out,
        "lse_ptr": lse,
        "out_strides": strides_of(out, 3),
        "lse_strides": strides_of(lse, 2),
    }
    return _launch(gathered_forward, config, given, q, keys, work, score, q.shape[2])


def specialised(config: Config) -> Config:
    """The table's configuration for a kernel whose warps are specialised."""
    return replace(config, block=128, stages=2, groups=2, tma=False) if config.tma else config


def merged(keys: Keys) -> Keys:
    """(B, N, G, D) as one batch entry of B * G heads, which packed keys are anyway."""
    if keys.k.shape[0] == 1:
        return keys
    return Keys(*(x.transpose(0, 1).flatten(1, 2)[None] for x in keys))


def _keys(keys: Gathering, block: int) -> dict[str, Any]:
    """Descriptors of tiles of own and of landed keys."""
    own, landed = merged(keys.own), merged(keys.landed)
    tiles = partial(_tiles, tokens=block, packed=True)
    return {
        "own_k_desc": tiles(own.k),
        "own_v_desc": tiles(own.v),
        "landed_k_desc": tiles(landed.k),
        "landed_v_desc": tiles(landed.v),
    }


def _tiles(tensor: Tensor, tokens: int, *, packed: bool) -> Any:  # noqa: ANN401 - Triton ships no types
    from ring_attn_backends.triton.hopper import descriptors

    return descriptors.tiles(tensor, tokens, width(tensor), packed=packed)


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    config: Config,
    given: dict[str, Any],
    q: Tensor,
    keys: Gathering,
    work: Worklist,
    score: Score,
    heads: int,
) -> HopperLaunch:
    """heads: of one batch entry, for each of which there is a program for each tile."""
    (k, v), batch = keys.own, q.shape[0]
    group = q.shape[2] // k.shape[2]
    passed = (k.shape[1] + keys.landed.k.shape[1]) * (k.shape[-1] + v.shape[-1]) * k.element_size()
    together = group * max(1, L2_SHARE // passed)
    log2e, capped = math.log2(math.e), score.softcap > 0
    numbers = {
        "tiles_ptr": work.tiles,
        "entries_ptr": work.entries,
        "words_ptr": keys.arrived,
        "tiles": work.count,
        "heads": heads,
        "all_heads": heads * batch,
        "section": min(together, heads * batch),
        "group": group,
        "M": q.shape[1],
        "scale": score.softmax_scale / score.softcap if capped else score.softmax_scale * log2e,
        "cap": score.softcap * log2e,
        "D": q.shape[-1],
        "E": v.shape[-1],
        "BLOCK_D": width(q),
        "BLOCK_E": width(v),
        "BLOCK_N": config.block,
        "STAGES": config.stages,
        "GROUPS": config.groups,
        "CAPPED": capped,
    }
    given = numbers | given
    arguments = {name: given[name] for name in kernel.arg_names}
    return HopperLaunch(kernel, (work.count * heads * batch, 1, 1), arguments, config, q.device)
