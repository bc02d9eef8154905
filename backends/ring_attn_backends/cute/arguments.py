"""A block and its score as the numbers that the kernel is told at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from ring_attn_backends.cute.signatures import SIGNATURES
from ring_attn_backends.cute.table import ADDS, BACKWARD, Build, Config, Dtype, Kernel, chosen
from ring_attn_backends.shared.gpus import multiprocessors

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.positions import Band
    from ring_attn_bench.plan.problem import Score

FAR = 2**30
"""An open side of a band, and more tokens than there may be: indices and bands are of 32 bits."""
L2_SHARE = 32 << 20
"""Bytes of keys and values that are read again and again, at most: of an H200's L2 of 50 MiB."""


class Numbers(NamedTuple):
    """Integers and factors, in the kernel's order.

    sizes: batch, M, N, heads, key heads, and how many heads at a time share the L2 cache; over
    gathered keys without N, and with the number of tiles and of groups of heads that arrive; of
    packed documents how many, M and N of all, heads as before, and the most tiles that they have.
    band: low and high, by index; over gathered keys none. factors: scale and cap, see `factors`; of
    a backward also what dq and dk are multiplied by at last.
    """

    sizes: tuple[int, ...]
    band: tuple[int, ...]
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Call:
    """A launch: what it is compiled for, and what it is told.

    tensors: as `signatures` has them; the results are the last. acc is what a carried forward goes
    on from, else out again, which is not read then. strides: of each tensor but for the last dim, 0
    for a dim of one; over gathered keys those of keys with the heads of all batch entries in one.
    tables: which of the tensors are of the launch itself, and the same again.
    """

    build: Build
    tensors: tuple[Tensor, ...]
    strides: tuple[tuple[int, ...], ...]
    numbers: Numbers
    tables: tuple[Tensor, ...] = ()

    @property
    def results(self) -> tuple[Tensor, ...]:
        """Of a backward, its gradients; of a forward, out."""
        kinds = SIGNATURES[self.build.kernel].tensors
        named = zip(self.tensors, kinds, strict=True)
        return tuple(x for x, kind in named if kind in ("out", "away"))

    @property
    def is_empty(self) -> bool:
        """Whether there are no rows, or no keys."""
        return 0 in self.numbers.sizes


def forward_call(
    q: Tensor, keys: Keys, running: Running, block: Block, score: Score,
    *, first: bool, config: Config | None = None,
) -> Call:  # fmt: skip
    """The contract's `forward_into` as a launch; what `serves` refuses must not come here."""
    out = running.result
    tensors = (q, *keys, out if first else running.out, out, running.lse)
    config = config or chosen(q.shape[-1], q.shape[1], q.shape[0] * q.shape[2], multiprocessors(q))
    return _called("forward", tensors, block, score, first, config)


def dkdv_call(
    rows: Rows, keys: Keys, dk: Tensor, dv: Tensor, block: Block, score: Score,
    *, first: bool, kernel: Kernel = "backward_dkdv", config: Config | None = None,
) -> Call:  # fmt: skip
    """The part of `backward_into` that is dk and dv, or that of them which the kernel is of."""
    config = config or BACKWARD[kernel, rows.q.shape[-1]]
    return _called(kernel, (*_read(rows, keys), dk, dv), block, score, first, config)


def dq_call(
    rows: Rows, keys: Keys, dq: Tensor, block: Block, score: Score,
    *, first: bool, config: Config | None = None,
) -> Call:  # fmt: skip
    """The part of `backward_into` that is dq."""
    config = config or BACKWARD["backward_dq", rows.q.shape[-1]]
    return _called("backward_dq", (*_read(rows, keys), dq), block, score, first, config)


def adding_call(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score,
    *, first: bool, config: Config | None = None,
) -> Call:  # fmt: skip
    """All of `backward_into` but that dq is added to, in float32. first: of dk and dv."""
    config = config or ADDS[rows.q.shape[-1]]
    tensors = (*_read(rows, keys), *sums)
    return _called("backward_adding", tensors, block, score, first, config)


def _read(rows: Rows, keys: Keys) -> tuple[Tensor, ...]:
    assert rows.delta is not None  # the backend needs it, and says so
    return rows.q, *keys, rows.dout, rows.lse, rows.delta


def _called(
    kernel: Kernel, tensors: tuple[Tensor, ...], block: Block, score: Score, first: bool,
    config: Config,
) -> Call:  # fmt: skip
    lying = tuple((x.dtype, x.shape, x.stride()) for x in tensors)
    build, strides, numbers = _told(
        kernel, lying, block, score.softmax_scale, score.softcap, first, config
    )
    return Call(build, tensors, strides, numbers)


@lru_cache(maxsize=1024)  # a layer makes the same call again and again
def _told(
    kernel: Kernel, lying: tuple[tuple[torch.dtype, torch.Size, tuple[int, ...]], ...],
    block: Block, softmax_scale: float, softcap: float, first: bool, config: Config,
) -> tuple[Build, tuple[tuple[int, ...], ...], Numbers]:  # fmt: skip
    """All of a call but where its tensors are. lying: their dtypes, shapes and strides."""
    (dtype, (batch, rows, heads, width), _), (_, (_, tokens, key_heads, _), _), values, *_ = lying
    result = lying[SIGNATURES[kernel].tensors.index("out")][0]
    build = Build(config, name_of(dtype), name_of(result), softcap > 0, not first, kernel)
    group = heads // key_heads
    if SIGNATURES[kernel].tensors[-2:] == ("out", "out"):  # dk and dv: of all rows of a group
        all_heads, passed, together = key_heads * batch, rows * group, 1
    else:
        all_heads, passed, together = heads * batch, tokens, group
    both = width + values[1][-1]
    together *= max(1, L2_SHARE // max(1, both * passed * dtype.itemsize))
    sizes = (batch, rows, tokens, heads, key_heads, max(1, min(together, all_heads)))
    assert block.index_band is not None  # the form would be GENERAL
    told = factors(softmax_scale, softcap) + (() if kernel == "forward" else (softmax_scale,))
    numbers = Numbers(sizes, of_band(block.index_band), told)
    return build, tuple(strides_of(shape, stride) for _, shape, stride in lying), numbers


def of_band(band: Band) -> tuple[int, int]:
    """low and high as integers."""
    low = -FAR if band.low is None else max(band.low, -FAR)
    return low, FAR if band.high is None else min(band.high, FAR)


def factors(softmax_scale: float, softcap: float) -> tuple[float, float]:
    """scale and cap: a score in base 2 is scale * q.k, or where capped cap * tanh(scale * q.k)."""
    log2e = math.log2(math.e)
    if softcap > 0:
        return softmax_scale / softcap, softcap * log2e
    return softmax_scale * log2e, 0.0


def strides_of(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Of all dims but the last; a dim of one element may have any, and gets what TMA takes."""
    outer = zip(shape[:-1], strides[:-1], strict=True)
    return tuple(stride if count > 1 else shape[-1] for count, stride in outer)


def name_of(dtype: torch.dtype) -> Dtype:
    """As "bfloat16"."""
    return cast(Dtype, str(dtype).removeprefix("torch."))
