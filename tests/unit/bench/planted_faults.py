"""Faults that rings have had, each as a faulty part to put in place of a sound one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span, count
from ring_attn_bench.ring.merge import merge
from ring_attn_bench.ring.transports.loopback import LoopbackLink

WORLD_SIZE = 4
EVERY = {"out", "lse", "dq", "dk", "dv"}
GIVEN = {"dk", "dv"}
WINDOW = (20, -1)


class StaleKeys(LoopbackLink):
    """The landing area still holds what the step before left there."""

    def landed(self, index):
        fresh = super().landed(index)
        stale = super().landed(index - 1)[: len(fresh)] if index > 1 else fresh
        return torch.cat([stale, fresh[len(stale) :]])


class KeysOfTheNextOwner(LoopbackLink):
    """... of those that have published any."""

    def landed(self, index):
        fetches, keys = self._plan.steps[index].fetches, self._board.keys
        published = [owner for owner in range(WORLD_SIZE) if len(keys[owner])]
        after = dict(zip(published, published[1:] + published[:1], strict=True))
        return torch.cat([keys[after[f.owner]][f.tokens.slice] for f in fetches]
                         or [super().landed(index)])  # fmt: skip


class OneKeyMissing(LoopbackLink):
    def landed(self, index):
        keys = super().landed(index)
        keys[:1] = 0
        return keys


class OneKeyUnwritten(LoopbackLink):
    def landed(self, index):
        keys = super().landed(index)
        keys[:1] = math.nan
        return keys


class HalvesSwapped(LoopbackLink):
    """k where v belongs."""

    def landed(self, index):
        return torch.cat(super().landed(index).chunk(2, dim=1)[::-1], dim=1)


class GivenHalvesSwapped(LoopbackLink):
    def give(self, index, partials):
        super().give(index, torch.cat(partials.chunk(2, dim=1)[::-1], dim=1))


class OneGivenTokenUnwritten(LoopbackLink):
    def give(self, index, partials):
        partials[:1] = math.nan
        super().give(index, partials)


class LastGiftMissing(LoopbackLink):
    def give(self, index, partials):
        if index < WORLD_SIZE - 1:
            super().give(index, partials)


class GivenTwice(LoopbackLink):
    def give(self, index, partials):
        for _ in range(2 if index == 1 else 1):
            super().give(index, partials)


class GivenToTheNextToken(LoopbackLink):
    def give(self, index, partials):
        super().give(index, partials.roll(1, dims=0))


class GivenToTheNextOwner(LoopbackLink):
    def received(self, outstanding):
        if outstanding == 0:
            yield from self._board.partials.get((self._plan.rank + 1) % WORLD_SIZE, [])


class OnlyTheLastGiftCounts(LoopbackLink):
    """Partials are put where they should be added."""

    def received(self, outstanding):
        yield from list(super().received(outstanding))[-1:]


class Log2Lse(ReferenceBackend):
    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        return out, lse / math.log(2)


class ZeroLse(ReferenceBackend):
    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        return out, torch.zeros_like(lse)


class OtherBlocks(ReferenceBackend):
    """Computes another block than the one it is given."""

    def __init__(self, other):
        self._other = other

    def forward(self, q, keys, block, score):
        return super().forward(q, keys, self._other(block), score)

    def backward(self, rows, keys, block, score, **options):
        block = self._other(block)
        return super().backward(rows, keys, block, score, **options)


def without_window(block):
    return Block(block.rows, block.keys, Band(low=block.band.low))


def with_window_by_index(block):
    """A window passed on as it came, to a kernel that counts inside the block."""
    rows, keys = Span(0, count(block.rows)), Span(0, count(block.keys))
    return Block((rows,), (keys,), block.band)


def with_backend(backend):
    return lambda jobs: [replace(job, backend=backend) for job in jobs]


def with_diagonal(band):
    """Every rank's own keys under another band."""

    def changed(job):
        own, *others = job.plan.steps
        launches = [replace(x, block=Block(x.block.rows, x.block.keys, band)) for x in own.launches]
        steps = (replace(own, launches=tuple(launches)), *others)
        return replace(job, plan=replace(job.plan, steps=steps))

    return lambda jobs: [changed(job) for job in jobs]


def merge_without_lse(out_acc, lse_acc, block_out, block_lse, target):
    merge(out_acc, lse_acc.clone(), block_out, block_lse, target)


def merge_that_replaces(out_acc, lse_acc, block_out, block_lse, target):
    (out_acc if target is None else target).copy_(block_out)
    lse_acc.copy_(block_lse)


@dataclass(frozen=True)
class Fault:
    """What is put in place of sound parts, and the results that it spoils."""

    spoils: set[str]
    link: type[LoopbackLink] = LoopbackLink
    jobs: Callable = list
    merge: Callable = merge
    window: tuple[int, int] = (-1, -1)


FAULTS = {
    "stale keys": Fault(EVERY, StaleKeys),
    "keys of the next owner": Fault(EVERY, KeysOfTheNextOwner),
    "one key missing": Fault(EVERY, OneKeyMissing),
    "one key unwritten": Fault(EVERY, OneKeyUnwritten),
    "k and v swapped": Fault(EVERY, HalvesSwapped),
    "dk and dv swapped": Fault(GIVEN, GivenHalvesSwapped),
    "one given token unwritten": Fault(GIVEN, OneGivenTokenUnwritten),
    "last gift missing": Fault(GIVEN, LastGiftMissing),
    "first gift twice": Fault(GIVEN, GivenTwice),
    "given to the next token": Fault(GIVEN, GivenToTheNextToken),
    "given to the next owner": Fault(GIVEN, GivenToTheNextOwner),
    "only the last gift counts": Fault(GIVEN, OnlyTheLastGiftCounts),
    "lse in base 2": Fault(EVERY, jobs=with_backend(Log2Lse())),
    "lse 0": Fault(EVERY, jobs=with_backend(ZeroLse())),
    "causal dropped on the diagonal": Fault(EVERY, jobs=with_diagonal(Band())),
    "causal a few tokens late": Fault(EVERY, jobs=with_diagonal(Band(low=-WORLD_SIZE))),
    "plans of other ranks": Fault(EVERY, jobs=lambda jobs: jobs[::-1]),
    "merge without lse": Fault(EVERY, merge=merge_without_lse),
    "merge that replaces": Fault(EVERY, merge=merge_that_replaces),
    "window ignored": Fault(EVERY, jobs=with_backend(OtherBlocks(without_window)), window=WINDOW),
    "window by index": Fault(
        EVERY, jobs=with_backend(OtherBlocks(with_window_by_index)), window=WINDOW
    ),
}
