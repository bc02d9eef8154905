"""A contestant over a cache with its inputs on one process, ready to be judged and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import torch

from ring_attn_bench.bench import flops
from ring_attn_bench.bench.accuracy import Results
from ring_attn_bench.bench.cached import runners, truth
from ring_attn_bench.bench.cached.inputs import CacheInputs, Tokens, draw, lay, shape_of
from ring_attn_bench.bench.cached.runners import CacheRunner, Step, detached
from ring_attn_bench.bench.contestant import Outputs
from ring_attn_bench.bench.in_graphs import captured
from ring_attn_bench.bench.inputs import dtype_of
from ring_attn_bench.bench.invariants import sums
from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.recorder import Recorder
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.bench.timing import Call
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import Invariants
from ring_attn_bench.records.record import Accuracy, TensorError
from ring_attn_bench.ring.context import RingContext

CALLS = 10
"""In one sample on a GPU at least: what starting a graph takes is a few microseconds once."""
OF_L2 = 4
"""Times the cache of the GPU that the caches of such calls have in all: each comes from memory."""
Errors = dict[str, TensorError]


@dataclass(frozen=True)
class PreparedCache:
    """One contestant on one case over a cache, whose lengths are data on the device."""

    request: Prepare
    contestant: CacheRunner
    place: WorkerPlace

    @cached_property
    def shards(self) -> list[CacheInputs]:
        """The inputs that are timed: on a GPU several, so that none finds its own in the L2."""
        first = self._laid(self._drawn(self.request.seed), self.request.seed)
        if self.place.device.type != "cuda":
            return [first]
        l2 = torch.cuda.get_device_properties(self.place.device).L2_cache_size
        seeds = range(1, max(1, -(-OF_L2 * l2 // first.bytes)))
        others = (self.request.seed + more for more in seeds)
        return [first, *(self._laid(self._drawn(seed), seed) for seed in others)]

    def forget(self) -> None:
        """Nothing: what was made for timing are the inputs, which are judged in their memory."""

    def judge(self, check: Check, seed: int, *, alone: bool = True) -> dict[str, Accuracy]:
        """The accuracy of the forward pass; a collective over the group's processes.

        Entries are of different lengths there, the first as long as those that are timed. Two
        calls in a row and, on a GPU, one in a CUDA graph, each on a cache laid anew in the
        memory of the first that was timed. `alone` says nothing: there is no ring to leave out.
        """
        case, rank = self.request.case, self.place.ranks[0]
        tokens = draw(case, seed, self.place.device, uneven=True)
        fresh = self._laid(tokens, seed)
        expected = truth.expect(case, tokens, fresh, check, seed, rank)
        x = self._where_timed(fresh)
        ways = [self.contestant.step]
        if not self.contestant.interpreted:  # whose call takes minutes
            ways += [self.contestant.step, *([self._replayed] if self._has_graphs else [])]
        errors: Errors = {}
        for call, way in enumerate(ways, 1):
            again = truth.judge(case, self.place, expected, self._results(way, x, fresh, tokens))
            if not all(error.is_right for error in again.values()):
                return {Direction.FORWARD.value: _accuracy(expected, again, call)}
            errors = errors or again
        invariants = None
        if check.invariants and not self.contestant.interpreted:
            x.copy_from(fresh)
            invariants = self._sums(x)
        return {Direction.FORWARD.value: _accuracy(expected, errors, 1, invariants)}

    def repeats(self) -> bool:
        """Whether two calls on the same inputs give the same bits."""
        step = self.contestant.step(self.shards[0])
        first, second = ({n: x.clone() for n, x in detached(step()).items()} for _ in range(2))
        return all(torch.equal(first[name], second[name]) for name in first)

    def sums(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """The invariants that are sums; a collective, which spoils the inputs."""
        return {
            invariant: {name: departure.model_dump() for name, departure in by_result.items()}
            for invariant, by_result in self._sums(self.shards[0]).items()
        }

    def call(self, direction: Direction, subject: Subject) -> Call | None:
        """What to time, as many calls as `calls`, or None if there is no such subject."""
        steps = [self.contestant.timed(x) for x in self.shards]
        every = list(islice(cycle(steps), self.calls))
        if subject is Subject.RING:
            return lambda: _one_after_another(every)
        if subject is Subject.GRAPH and self._has_graphs:
            return captured(lambda: _one_after_another(every))
        return None

    @property
    def calls(self) -> int:
        """In one sample, whose time is shared among them."""
        return 1 if self.place.device.type != "cuda" else max(CALLS, len(self.shards))

    def traced(self, direction: Direction, recorder: Recorder[Any]) -> None:
        """None: a step is one launch or two, and no ring."""

    def with_context(self, context: RingContext | None) -> PreparedCache:
        """The same contestant made anew, on the same inputs, over a context of its own."""
        made = replace(self, contestant=_runner(self.request, self.place, context))
        vars(made)["shards"] = self.shards
        return made

    def flops(self, direction: Direction) -> dict[str, float | int | None]:
        """The fields of `Speed` that say what the work is."""
        case = self.request.case
        return {
            "useful_flops": flops.flops(case, direction, flops.area(case)),
            "devices": self.place.world_size,
            "cache_bytes": flops.cache_bytes(case, dtype_of(case).itemsize),
        }

    @property
    def _has_graphs(self) -> bool:
        return self.request.graphs and self.place.device.type == "cuda"

    def _drawn(self, seed: int) -> Tokens:
        return draw(self.request.case, seed, self.place.device)

    def _laid(self, tokens: Tokens, seed: int) -> CacheInputs:
        return lay(self.request.case, tokens, seed, self.place.ranks[0])

    def _where_timed(self, x: CacheInputs) -> CacheInputs:
        """The first of those that were timed, if any were; what lies in it is replaced later."""
        timed: list[CacheInputs] = vars(self).get("shards") or []
        return timed[0] if timed else x.clone()

    def _replayed(self, x: CacheInputs) -> Step:
        """A call in a graph; where it follows lengths captured with others, as it is in use."""
        lengths = x.cache_seqlens.clone()
        if self.contestant.follows_lengths:
            x.cache_seqlens.sub_(1).clamp_(min=shape_of(self.request.case).leftpad)
        again = captured(self.contestant.step(x))
        x.cache_seqlens.copy_(lengths)

        def replay() -> Outputs:
            again()
            return again.results

        return replay

    def _results(
        self, way: Callable[[CacheInputs], Step], x: CacheInputs, fresh: CacheInputs, tokens: Tokens
    ) -> Results:
        """Of one call on a cache laid anew; where it appends also what the cache holds then."""
        case = self.request.case
        x.copy_from(fresh)
        step = way(x)
        x.copy_from(fresh)  # what a capture has put there is gone
        poison(self.place.device.type, (x.q,))
        results = detached(step())
        if shape_of(case).append:
            results |= truth.held(case, tokens, x, self.place.ranks[0])
        return results

    def _sums(self, x: CacheInputs) -> Invariants:
        """Where v is 1 every out is; what is no token stays NaN.

        The first columns of latent keys are 1 then too, and weights others, whose sum is 1 still.
        """
        x.v_cache.masked_fill_(x.v_cache.isfinite(), 1.0)
        if x.v is not None:
            x.v.fill_(1.0)
        results = detached(self.contestant.step(x)())
        return sums(self.request.case, self.place, [results], None)


def prepare(request: Prepare, place: WorkerPlace, context: RingContext | None) -> PreparedCache:
    """The contestant, ready; raises Refused with its reason."""
    return PreparedCache(request, _runner(request, place, context), place)


def _runner(request: Prepare, place: WorkerPlace, context: RingContext | None) -> CacheRunner:
    return runners.make(request.case, request.contestant, place, context)


def _one_after_another(steps: list[Callable[[], object]]) -> object:
    """As a program decodes; the last one's results."""
    for step in steps[:-1]:
        step()
    return steps[-1]()


def _accuracy(
    expected: truth.Expected, errors: Errors, call: int, invariants: Invariants | None = None
) -> Accuracy:
    return Accuracy(
        oracle=expected.kind,
        oracle_rows=len(expected.rows),
        tensors=errors,
        call=call,
        invariants=invariants,
    )
