"""All ranks' keys by one collective, and partial gradients home by another: no ring at all.

An all-gather brings every shard whole, whatever a rank's rows see of it, and nothing is launched
over a part of it before all of it is there. It is here to be measured beside rings.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.errors import NoProcessGroup, RingBroken, Unsupported
from ring_attn_bench.plan.fetches import Fetch
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.carriers import all_gather_single
from ring_attn_bench.ring.options import RingOptions, resolved
from ring_attn_bench.ring.transports.memory import FreshMemory

# torch 2.13's name, and that which older ones have
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class AllGatherLink:
    """Every rank takes part in both collectives, whether or not it reads keys or has its own read.

    A shard, or neighbours in the order of ranks, is launched over where it has landed; other plans
    have their keys laid out once more, as the launches read them.
    """

    def __init__(self, group: dist.ProcessGroup, plan: Plan) -> None:
        self._group, self._plan = group, plan
        self._keys_work: dist.Work | None = None
        self._gift: tuple[dist.Work | None, Tensor, Tensor] | None = None

    def publish(self, keys: Tensor) -> None:
        """Keeps the keys; where nobody reads them, others get what nobody looks at."""
        plan = self._plan
        self._keys = keys if len(keys) else keys.new_empty(plan.tokens, keys.shape[1])

    def post(self, index: int) -> None:
        """Starts the all-gather."""
        shape = self._plan.world_size * self._plan.tokens, self._keys.shape[1]
        self._gathered = self._keys.new_empty(shape)
        try:
            self._keys_work = all_gather_single(
                self._gathered, self._keys, group=self._group, async_op=True
            )
        except RuntimeError as error:
            raise self._broken("the keys", error) from error

    def landed(self, index: int) -> Tensor:
        """The step's keys, when all ranks' are here."""
        self._await_keys()
        runs = [self._place(fetch) for fetch in self._plan.steps[index].fetches]
        if not runs:
            return self._gathered[:0]
        if all(before.stop == after.start for before, after in pairwise(runs)):
            return self._gathered[runs[0].start : runs[-1].stop]
        return torch.cat([self._gathered[run.slice] for run in runs])

    def give(self, index: int, partials: Tensor) -> None:
        """Starts the reduce-scatter, with zeros for what was not read and for this rank's own."""
        plan = self._plan
        shares = partials.new_zeros(plan.world_size * plan.tokens, partials.shape[1])
        for fetch in plan.steps[index].fetches:
            shares[self._place(fetch).slice].copy_(partials[fetch.landing.slice])
        total = partials.new_empty(plan.tokens, partials.shape[1])
        try:
            work = _reduce_scatter(total, shares, group=self._group, async_op=True)
        except RuntimeError as error:
            raise self._broken("the gradients", error) from error
        self._gift = work, total, shares

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """The sum of all ranks' partials: added up in the dtype in which they travel."""
        if outstanding or self._gift is None:
            return
        (work, total, _), self._gift = self._gift, None
        self._await(work, "the gradients")
        if any(step.sends for step in self._plan.steps):
            yield Range(0, self._plan.tokens), total

    def finish(self) -> None:
        """Waits for an all-gather that no `landed` waited for."""
        self._await_keys()

    def _place(self, fetch: Fetch) -> Range:
        return fetch.tokens.shifted(fetch.owner * self._plan.tokens)

    def _await_keys(self) -> None:
        work, self._keys_work = self._keys_work, None
        self._await(work, "the keys")

    def _await(self, work: dist.Work | None, what: str) -> None:
        try:
            if work is not None:
                work.wait()
        except RuntimeError as error:
            raise self._broken(what, error) from error

    def _broken(self, what: str, error: RuntimeError) -> RingBroken | NoProcessGroup:
        return broken(f"{what} of all ranks", self._group, error)


class AllGather(FreshMemory):
    """One all-gather and one reduce-scatter, for schedules gather and one_launch: NCCL or gloo.

    Raises Unsupported where the options have keys come in more than one step.
    """

    def __init__(self, group: dist.ProcessGroup, options: RingOptions) -> None:
        others = dist.get_world_size(group) - 1
        if options.landing_tokens is not None:
            raise Unsupported(
                options.transport,
                "it brings all ranks' whole shards at once, so that landing_tokens cannot limit "
                f"what lies here to {options.landing_tokens} tokens; leave it at None, or take "
                "another transport",
            )
        grouping = resolved(options, others + 1).grouping
        if (others if grouping is None else len(grouping)) > 1:
            raise Unsupported(
                options.transport,
                "it brings all ranks' keys at once, and these options have them come in steps; "
                "it takes schedule 'gather' or 'one_launch'",
            )
        self._group = group

    @staticmethod
    def unsupported(group: dist.ProcessGroup) -> str | None:
        """None: every group has these collectives."""
        return None

    def begin(self, plan: Plan) -> AllGatherLink:
        """This rank's end of a pass."""
        return AllGatherLink(self._group, plan)

    def resume(self, plan: Plan) -> AllGatherLink:
        """As `begin`: nothing is posted but gradients."""
        return self.begin(plan)
