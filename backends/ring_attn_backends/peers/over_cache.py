"""Other people's attention over a cache, called as their users call it. They have no ring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ring_attn_backends.shared import flash_2_cache, flash_2_limits
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.errors import BackendUnavailable, Unsupported

if TYPE_CHECKING:
    import torch.distributed as dist

    from ring_attn_bench.contract.cache import CachedCall
    from ring_attn_bench.contract.peer import PeerRing
    from ring_attn_bench.plan.cached import CachedProblem
    from ring_attn_bench.plan.problem import Mask, Problem

Step = Callable[[], tuple[Tensor, Tensor | None]]
_NO_RING = "it attends over a cache on one GPU, and has no ring"
_WORKSPACE = 128 * 2**20
"""Bytes, as FlashInfer's documentation recommends."""
_TENSOR_CORES = 4
"""Query heads of a key head from which on FlashInfer's decoding is faster by them, as it says."""


class _OverCache:
    """A package with attention over a cache; a subclass says how it is called."""

    name: str
    package: str
    command: str
    kernel = None
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        try:
            self._package = import_module(self.package)
        except Exception as error:  # a build for another torch fails in many ways
            reason = f"importing {self.package} failed with {type(error).__name__}: {error}"
            raise BackendUnavailable(
                self.name, f"{reason}; try: {COMMANDS[self.command]}"
            ) from error
        if not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")

    def unsupported(self, problem: Problem, partition: str, world_size: int) -> str:
        """Every problem of a ring."""
        return _NO_RING

    def join(self, problem: Problem, partition: str, group: dist.ProcessGroup) -> PeerRing:
        """Raises Unsupported."""
        raise Unsupported(self.name, _NO_RING)


class FlashAttn(_OverCache):
    """flash-attn 2's own function: what our backend of that name adds in checks is not in it."""

    name = "flash_attn[flash_attn_2]"
    package = command = "flash_attn"

    def version(self) -> str:
        """The version of flash-attn."""
        return f"flash-attn {version('flash-attn')}"

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """What its kernels cannot do over a cache, and what was left out of the build."""
        if problem.device != "cuda" or problem.dtype not in ("float16", "bfloat16"):
            return f"it takes float16 and bfloat16 on CUDA (got {problem.dtype}, {problem.device})"
        reason = flash_2_cache.unsupported(problem)
        reason = reason or flash_2_limits.unsupported(problem.without_cache)
        return reason or self.build_refusal(problem)

    def build_refusal(self, problem: CachedProblem) -> str | None:
        """What was left out of the installed build, by its own words."""
        return flash_2_cache.build_refusal(self._package.flash_attn_with_kvcache, problem)

    def over_cache(self, call: CachedCall) -> Step:
        """One call of the package."""
        cache, new, score = call.cache, call.appended, call.score
        appended: dict[str, Any] = {}
        if new is not None:
            appended = {
                "k": new.k, "v": new.v, "rotary_cos": new.cos, "rotary_sin": new.sin,
                "rotary_interleaved": new.interleaved,
            }  # fmt: skip
        return partial(
            self._package.flash_attn_with_kvcache, call.q, cache.k, cache.v,
            cache_seqlens=cache.lengths,
            cache_batch_idx=cache.rows,
            cache_leftpad=cache.skipped,
            block_table=cache.table,
            softmax_scale=score.softmax_scale,
            causal=call.mask.causal,
            window_size=_sides(call.mask),
            softcap=score.softcap,
            num_splits=call.splits,
            return_softmax_lse=True,
            **appended,
        )  # fmt: skip


class FlashInfer(_OverCache):
    """FlashInfer's wrappers over pages: planned by lengths on the host, then run.

    A row of a cache is a page as long as its room. One query takes the wrapper for decoding, more
    the one for prefill, as its documentation has it.
    """

    name = "flashinfer[pages]"
    package = "flashinfer"
    command = "flashinfer_python"

    def version(self) -> str:
        """The version of FlashInfer."""
        return f"flashinfer {version('flashinfer-python')}"

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """What its wrappers have no argument for, or do in calls of their own."""
        if problem.device != "cuda" or problem.dtype not in ("float16", "bfloat16"):
            return f"it takes float16 and bfloat16 on CUDA (got {problem.dtype}, {problem.device})"
        if problem.appended or problem.rotary_dim:
            return "it appends, and rotates, in calls of their own before the attention"
        if problem.padded:
            return "it has no left padding"
        if problem.splits:
            return "it chooses itself how many programs share the keys of a head"
        if problem.mask.window_right is not None and not problem.mask.causal:
            return "its window has a left side only"
        if problem.indexed or problem.packed or problem.alibi or problem.dealt is not None:
            return "it is not asked for rows by number, packed queries, ALiBi or a dealt cache"
        if problem.latent:
            return "it has latent keys in wrappers of their own, which are not asked here"
        if problem.queries == 1 and problem.head_dim != problem.head_dim_v:
            return "its decoding has one head dim for k and v"
        return None

    def over_cache(self, call: CachedCall) -> Step:
        """Plans for the lengths that the cache has now."""
        q, cache = call.q, call.cache
        batch, queries = q.shape[:2]
        lengths = cache.lengths
        if lengths is None:
            lengths = torch.full((batch,), cache.capacity, dtype=torch.int32, device=q.device)
        size = cache.k.shape[1]
        table = cache.table
        if table is None:  # each row is a page
            table = torch.arange(batch, dtype=torch.int32, device=q.device)[:, None]
        used = (lengths + size - 1) // size
        ends = used.cumsum(0, dtype=torch.int32)
        pages = ends.new_zeros(batch + 1)
        pages[1:] = ends
        within = torch.arange(table.shape[1], device=q.device)[None] < used[:, None]
        last = lengths - (used - 1) * size
        where = pages, table[within], last.to(torch.int32)
        space = torch.zeros(_WORKSPACE, dtype=torch.uint8, device=q.device)
        heads, key_heads = q.shape[2], cache.k.shape[2]
        told = {
            "sm_scale": call.score.softmax_scale,
            "window_left": -1 if call.mask.window_left is None else call.mask.window_left,
            "logits_soft_cap": call.score.softcap,
            "q_data_type": q.dtype,
            "kv_data_type": cache.k.dtype,
        }
        if queries == 1:
            wrapper = self._package.BatchDecodeWithPagedKVCacheWrapper(
                space, "NHD", use_tensor_cores=heads >= _TENSOR_CORES * key_heads
            )
            wrapper.plan(*where, heads, key_heads, q.shape[3], size, **told)
        else:
            wrapper = self._package.BatchPrefillWithPagedKVCacheWrapper(space, "NHD")
            starts = torch.arange(batch + 1, dtype=torch.int32, device=q.device) * queries
            wrapper.plan(
                starts, *where, heads, key_heads, q.shape[3], size,
                head_dim_vo=cache.v.shape[3], causal=call.mask.causal, **told,
            )  # fmt: skip
        return partial(_run, wrapper, q, (cache.k, cache.v))


def _run(wrapper: Any, q: Tensor, pages: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:  # noqa: ANN401 - untyped
    """Without lse, which is of base 2 there: turning it would be in the time."""
    out: Tensor = wrapper.run(q.flatten(0, 1), pages)
    return out.unflatten(0, q.shape[:2]), None


def _sides(mask: Mask) -> tuple[int, int]:
    """The window in flash-attn's argument, where -1 is unlimited."""
    left, right = mask.window_left, mask.window_right
    return -1 if left is None else left, -1 if right is None else right
