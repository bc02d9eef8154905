"""From tensors to calls of the kernels for gathered keys; shapes as in `contract.backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.cute.arguments import (
    L2_SHARE,
    Call,
    Numbers,
    factors,
    name_of,
    strides_of,
)
from ring_attn_backends.cute.serves import readable, unreadable
from ring_attn_backends.cute.table import Build, Config, chosen
from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_backends.shared.once import once
from ring_attn_backends.shared.worklist import Worklist, worklist
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ring_attn_bench.contract.tensors import Gathering
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Score

Strides = tuple[tuple[int, ...], ...]


def forward_call(
    q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score,
    *, config: Config | None = None,
) -> Call:  # fmt: skip
    """The contract's `gathered_forward` as a launch that writes out and lse.

    Raises Unsupported where TMA cannot read what lands: a copy would be of what has not landed.
    """
    batch, rows, heads, width = q.shape
    config = config or chosen(width, rows, batch * heads, multiprocessors(q))
    work = once(where, worklist, "rows", config.own, config.block, q.device)
    check([("out", out, None)])
    build = Build(
        config, name_of(q.dtype), name_of(out.dtype), score.softcap > 0, kernel="gathered.forward"
    )
    return called(build, (readable(q),), (out, lse), keys, where, work, score)


def called(
    build: Build, read: tuple[Tensor, ...], rest: tuple[Tensor, ...], keys: Gathering,
    where: Gathered, work: Worklist, score: Score,
) -> Call:  # fmt: skip
    """A launch. read: what its signature has before the keys, q first; rest: what it has behind
    them, but for tables."""
    q, words = read[0], keys.arrived
    tables: tuple[Tensor, ...] = (work.tiles, work.entries)
    if words is None:
        words = once(where, all_landed, q.device)
        tables = (*tables, words)
    areas, strides = areas_of(keys, q.dtype)
    told: tuple[float, ...] = factors(score.softmax_scale, score.softcap)
    if build.kernel != "gathered.forward":
        told = (*told, score.softmax_scale)
    return Call(
        build,
        (*read, *areas, *rest, work.tiles, work.entries, words),
        (*_strides(read), *strides, *_strides(rest), (), (), ()),
        Numbers(_sizes(build, q, keys, work), (), told),
        tables,
    )


def _sizes(build: Build, q: Tensor, keys: Gathering, work: Worklist) -> tuple[int, ...]:
    """As `arguments.Numbers` has them."""
    batch, rows, heads, width = q.shape
    key_heads = keys.own.k.shape[2]
    group = heads // key_heads
    # a program goes through a group's rows
    if build.source in ("gathered.backward_dkdv", "gathered.backward_adding"):
        all_heads, passed, together = key_heads * batch, rows * group, 1
    else:
        tokens = keys.own.k.shape[1] + keys.landed.k.shape[1]
        all_heads, passed, together = heads * batch, tokens, group
    both = width + keys.own.v.shape[-1]
    together *= max(1, L2_SHARE // max(1, both * passed * q.element_size()))
    groups = 1 if keys.arrived is None else keys.head_groups
    # programs go by groups of heads, as keys arrive
    section = max(1, min(together, all_heads // groups))
    return batch, rows, heads, key_heads, section, work.count, groups


def areas_of(keys: Gathering, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Strides]:
    """Own k and v, landed k and v, and strides of each with the heads of all entries in one.

    Tensors are those that were given, but for own ones that had to be copied.
    """
    own, landed = Keys(*map(readable, merged(keys.own))), merged(keys.landed)
    pairs = [*zip(keys.own, own, strict=True)]
    if landed.k.shape[1]:
        check([("landed k", landed.k, dtype), ("landed v", landed.v, dtype)])
        if any(map(_is_copy, keys.landed, landed)):
            raise Unsupported("cute", "the landed heads of all batch entries are not in a row")
        pairs += zip(keys.landed, landed, strict=True)
    else:  # no tile is asked of landed keys
        pairs *= 2
    given = (told if _is_copy(x, told) else x for x, told in pairs)
    return tuple(given), _strides(told for _, told in pairs)


def _is_copy(given: Tensor, told: Tensor) -> bool:
    return given.data_ptr() != told.data_ptr()


def check(named: Iterable[tuple[str, Tensor, torch.dtype | None]]) -> None:
    """Raises Unsupported where a kernel cannot read or write one of them where it lies."""
    why = next((why for x in named if (why := unreadable(*x)) is not None), None)
    if why is not None:
        raise Unsupported("cute", why)


def merged(keys: Keys) -> Keys:
    """(B, N, G, D) as one batch entry of B * G heads, which packed keys are anyway."""
    if keys.k.shape[0] == 1:
        return keys
    return Keys(*(x.transpose(0, 1).flatten(1, 2)[None] for x in keys))


def all_landed(where: Gathered, device: torch.device) -> Tensor:
    """Words that say of each piece that it has landed, of a kernel that always asks."""
    words = torch.ones(1 + where.pieces, dtype=torch.int32, device=device)
    words[0] = 0
    return words


def _strides(tensors: Iterable[Tensor]) -> Strides:
    return tuple(strides_of(x.shape, x.stride()) for x in tensors)
