"""A checked call over a cache, without its tensors; and from a caller's arguments to its result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.cached.again import Alike, again, alike_of, keep
from ring_attn_bench.cached.choose import choose_cached
from ring_attn_bench.cached.contents import check_call, check_contents
from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.cached.memory import kept_apart
from ring_attn_bench.cached.validate import checked
from ring_attn_bench.calls import sinks
from ring_attn_bench.calls.autocast import is_enabled, without_autocast
from ring_attn_bench.calls.autograd_limits import check_untransformed
from ring_attn_bench.calls.layout import in_a_row, rows_in_a_row, with_unit_stride
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import within_float32
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.contract.cache import (
    Appended,
    Cache,
    CachedBackend,
    CachedCall,
    repeats,
    takes_sinks,
)
from ring_attn_bench.plan.cached import CachedProblem, Dealt
from ring_attn_bench.plan.problem import Mask, Score


@dataclass(frozen=True, slots=True, eq=False)
class CacheWay:
    """The kernel, and what it computes of which shapes; itself what calls are alike by.

    is_kept: whether the next call of such shapes gets this very one.
    """

    kernel: CachedBackend
    problem: CachedProblem
    score: Score
    is_kept: bool

    @classmethod
    def made(
        cls, given: CacheGiven, options: Options, dealt: Dealt | None, *, is_kept: bool
    ) -> CacheWay:
        """From plain arguments; raises InvalidArgument, or as `choose_cached`."""
        problem = checked(given, options, dealt)
        first = dealt is None or dealt.rank == 0
        kernel = choose_cached(options.backend, problem, announces=first)
        return cls(kernel, problem, options.score(problem.head_dim), is_kept)

    @property
    def mask(self) -> Mask:
        """Counted from the last query and the last key."""
        return self.problem.mask

    def run(
        self, given: CacheGiven, options: Options, *, wide: bool = False
    ) -> tuple[Tensor, Tensor]:
        """out (B, M, H, E), in q's dtype unless wide, and lse (B, H, M)."""
        return computed(self.kernel, self._call(given, options, wide=wide), options.sink)

    def run_and_keep(
        self, given: CacheGiven, options: Options, alike: Alike
    ) -> tuple[Tensor, Tensor]:
        """The same, and how the kernel makes it again is kept, if it has a way to."""
        repeatable = repeats(self.kernel)
        joined_later = options.sink is not None and not takes_sinks(self.kernel)
        if repeatable is None or joined_later:
            return self.run(given, options)
        call = self._call(given, options)
        if options.sink is not None:
            call = call._replace(sink=in_a_row(options.sink))
        with without_autocast(call.q.device.type):
            out, lse, made = repeatable(call)
        keep(alike, call, made)
        return out, lse

    def _call(self, given: CacheGiven, options: Options, *, wide: bool = False) -> CachedCall:
        q, score = self._read(given.q, given), self.score
        if options.alibi_slopes is not None:
            slopes = in_a_row(options.alibi_slopes)
            score = Score(score.softmax_scale, score.softcap, slopes)
        if options.softmax_scale is not None and options.softmax_scale <= 0:
            q = with_unit_stride(options.folded(q))
        lengths = given.cache_seqlens
        if isinstance(lengths, int):
            lengths = torch.full((len(q),), lengths, dtype=torch.int32, device=q.device)
        cache = Cache(
            given.k_cache, given.v_cache, lengths,
            None if given.block_table is None else rows_in_a_row(given.block_table),
            given.cache_batch_idx, given.cache_leftpad, self.problem.dealt,
        )  # fmt: skip
        return CachedCall(
            q, cache, self.mask, score, self._appended(given), splits=given.num_splits, wide=wide,
            alike=self if self.is_kept else None,
        )  # fmt: skip

    @staticmethod
    def _read(x: Tensor, given: CacheGiven) -> Tensor:
        """x as kernels read it, apart from where they put new tokens."""
        x = rows_in_a_row(x)
        return x if given.k is None else kept_apart(x, (given.k_cache, given.v_cache))

    def _appended(self, given: CacheGiven) -> Appended | None:
        if given.k is None or given.v is None:
            return None
        # as in flash-attn: without a mask all queries are taken to stand at one place
        one_place = not (self.mask.causal or self.mask.has_window)
        cos, sin = given.rotary_cos, given.rotary_sin
        return Appended(
            self._read(given.k, given), self._read(given.v, given),
            None if cos is None else rows_in_a_row(cos),
            None if sin is None else rows_in_a_row(sin),
            given.rotary_interleaved, one_place,
        )  # fmt: skip


def computed(kernel: CachedBackend, call: CachedCall, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """out and lse of the kernel, whatever autocast is on, with a sink beside the keys."""
    device_type = call.q.device.type
    if is_enabled(device_type):
        with without_autocast(device_type):
            return computed(kernel, call, sink)
    if sink is None:
        return kernel.cached_forward(call)
    if takes_sinks(kernel):
        return kernel.cached_forward(call._replace(sink=in_a_row(sink)))
    return sinks.joined(*kernel.cached_forward(call), sink)


_ways: Remembered[CacheWay] = Remembered()


def attend_cached(
    given: CacheGiven, options: Options, *, wants_lse: bool = True
) -> tuple[Tensor, Tensor | None]:
    """out and, if it is wanted, lse; raises what `flash_attn_with_kvcache` documents.

    Checks and choice follow from shapes, dtypes and numbers, and are made once for each of them.
    """
    alike = alike_of(given, options)
    if alike is not None:
        found = again(alike, wants_lse=wants_lse)
        if found is not None:
            return found
    way, given, options = way_for(given, options)
    if alike is None:
        return way.run(given, options)
    return way.run_and_keep(given, options, alike)


def way_for(
    given: CacheGiven, options: Options, dealt: Dealt | None = None
) -> tuple[CacheWay, CacheGiven, Options]:
    """The way, and the arguments in plain types; dealt: how the cache lies on ranks."""
    check_untransformed("attention over a cache", *given, options.sink, options.alibi_slopes)
    given = given.plain()
    options = within_float32(options.plain(), given.q)
    key = given.key(options, dealt)
    way = _ways.find(key)
    if way is None:
        way = CacheWay.made(given, options, dealt, is_kept=key is not None)
        _ways.keep(key, way)
    check_call(given, way.problem)
    if not given.q.is_cuda:
        check_contents(given, way.problem)
    return way, given, options
