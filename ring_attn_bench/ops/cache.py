"""Attention over a cache as operators, on one device and dealt to ranks; forward only.

One that appends is another operator, which changes the cache in place: torch copies what it cannot
prove to be free, and inductor proves it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.cached.call import attend_cached
from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.cached.on_ring import attend_dealt
from ring_attn_bench.calls.options import Options
from ring_attn_bench.ops.asked import check_untransformed, results
from ring_attn_bench.ops.registered import operator, own
from ring_attn_bench.ops.ring import Where
from ring_attn_bench.ring.context import RingContext


class _Asked(NamedTuple):
    """The arguments in the order of `_SCHEMA`; length: cache_seqlens that are one number.

    recorded: whether an input requires a gradient, which is refused. block: of a dealt cache.
    """

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    k: Tensor | None
    v: Tensor | None
    rotary_cos: Tensor | None
    rotary_sin: Tensor | None
    cache_seqlens: Tensor | None
    cache_batch_idx: Tensor | None
    cache_leftpad: Tensor | None
    block_table: Tensor | None
    alibi_slopes: Tensor | None
    sink: Tensor | None
    length: int | None
    rotary_interleaved: bool
    num_splits: int
    backend: str
    softmax_scale: float | None
    causal: bool
    left: int
    right: int
    softcap: float
    recorded: bool
    block: int = 0
    group: str = ""
    context: str = ""

    @property
    def given(self) -> CacheGiven:
        """What is attended over, a q that says of itself whether it requires a gradient."""
        q = self.q.detach().requires_grad_() if self.recorded else self.q
        lengths = self.length if self.cache_seqlens is None else self.cache_seqlens
        return CacheGiven(
            q, *self[1:7], lengths, *self[8:11], self.rotary_interleaved, self.num_splits
        )

    @property
    def options(self) -> Options:
        """The options, as the functions make them."""
        return Options(
            self.backend, softmax_scale=self.softmax_scale, causal=self.causal,
            window_size=(self.left, self.right), softcap=self.softcap,
            alibi_slopes=self.alibi_slopes, sink=self.sink,
        )  # fmt: skip


def _schema(cache: tuple[str, str], *more: str) -> str:
    optional = (
        "k", "v", "rotary_cos", "rotary_sin", "cache_seqlens", "cache_batch_idx", "cache_leftpad",
        "block_table", "alibi_slopes", "sink",
    )  # fmt: skip
    arguments = (
        "Tensor q", *cache, *(f"Tensor? {name}" for name in optional), "SymInt? length",
        "bool rotary_interleaved", "SymInt num_splits", "str backend", "float? softmax_scale",
        "bool causal", "SymInt left", "SymInt right", "float softcap", "bool recorded", *more,
    )  # fmt: skip
    return f"({', '.join(arguments)}) -> (Tensor, Tensor)"


_READ = "Tensor k_cache", "Tensor v_cache"
_WRITTEN = "Tensor(a!) k_cache", "Tensor(b!) v_cache"
_RING = "SymInt block", "str group", "str context"


def attention(given: CacheGiven, options: Options) -> tuple[Tensor, Tensor]:
    """out and lse of a call that is traced."""
    operators = torch.ops.ring_attn_bench
    call = operators.cached if given.k is None and given.v is None else operators.cached_append
    out, lse = call(*_asked(given, options)[:-3])
    return out, lse


def dealt_attention(
    given: CacheGiven,
    options: Options,
    block: int,
    group: dist.ProcessGroup | DeviceMesh | None,
    context: RingContext | None,
) -> tuple[Tensor, Tensor]:
    """out and lse of a call that is traced, over a cache that is dealt to ranks."""
    operators = torch.ops.ring_attn_bench
    appends = given.k is not None or given.v is not None
    call = operators.ring_cached_append if appends else operators.ring_cached
    where = Where.of("", group, context)
    out, lse = call(*_asked(given, options)[:-3], block, where.group, where.context)
    return out, lse


def _asked(given: CacheGiven, options: Options) -> _Asked:
    check_untransformed()
    options = options.plain()
    lengths = given.cache_seqlens
    in_tensor = lengths if isinstance(lengths, Tensor) else None
    number = None if isinstance(lengths, Tensor) else lengths
    left, right = cast(tuple[int, int], options.window_size)
    recorded = torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in (*given[:7], options.sink)
    )
    if recorded:  # which the operator refuses in a sentence, if autograd does not before
        given = CacheGiven(*(x.detach() if isinstance(x, Tensor) else x for x in given))  # type: ignore[arg-type]
        options = options._replace(sink=None if options.sink is None else options.sink.detach())
    return _Asked(
        *given[:7], in_tensor, *given[8:11],
        alibi_slopes=options.alibi_slopes, sink=options.sink,
        length=number, rotary_interleaved=given.rotary_interleaved,
        num_splits=given.num_splits, backend=options.backend, softmax_scale=options.softmax_scale,
        causal=options.causal, left=left, right=right, softcap=options.softcap, recorded=recorded,
    )  # fmt: skip


def _attend(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - as the schema says
    asked = _Asked(*arguments)
    with torch.set_grad_enabled(asked.recorded):
        out, lse = attend_cached(asked.given, asked.options)
    assert lse is not None  # nobody said that it is not wanted
    return own(out), own(lse)


def _attend_dealt(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    asked = _Asked(*arguments)
    ring = Where("", asked.group, asked.context).ring()
    with torch.set_grad_enabled(asked.recorded):
        out, lse = attend_dealt(asked.given, asked.options, asked.block, ring)
    return own(out), own(lse)


def _results(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    return results(arguments[0], arguments[2])


_WRITES = "k_cache", "v_cache"
operator("cached", _schema(_READ), _attend, _results)
operator("cached_append", _schema(_WRITTEN), _attend, _results, mutates=_WRITES)
operator("ring_cached", _schema(_READ, *_RING), _attend_dealt, _results, ordered=True)
operator("ring_cached_append", _schema(_WRITTEN, *_RING), _attend_dealt, _results, mutates=_WRITES)
