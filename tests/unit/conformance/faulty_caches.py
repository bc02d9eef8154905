"""The reference, spoilt in one place of what it does over a cache."""

from dataclasses import replace

import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.calls import sinks


class WithSinks(ReferenceBackend):
    """Sound: a sink of its own."""

    cached_sinks = True

    def cached_forward(self, call):
        out, lse = super().cached_forward(call._replace(sink=None))
        return (out, lse) if call.sink is None else sinks.joined(out, lse, call.sink)


class SinkDropped(ReferenceBackend):
    """It says that it takes sinks, and does not look at them."""

    cached_sinks = True


class AllTheRoom(ReferenceBackend):
    """What no token lies in is attended over too."""

    def cached_forward(self, call):
        return super().cached_forward(call._replace(cache=call.cache._replace(lengths=None)))


class PaddingSeen(ReferenceBackend):
    """Tokens at the beginning that are not there are there."""

    def cached_forward(self, call):
        return super().cached_forward(call._replace(cache=call.cache._replace(skipped=None)))


class RowsInOrder(ReferenceBackend):
    """Entry after entry has the next row, whichever is its own."""

    def cached_forward(self, call):
        if call.cache.rows is not None:
            rows = torch.arange(len(call.q), dtype=torch.int32)
            call = call._replace(cache=call.cache._replace(rows=rows))
        return super().cached_forward(call)


class PagesInOrder(ReferenceBackend):
    """Page after page is the next in memory, whichever the table says."""

    def cached_forward(self, call):
        table = call.cache.table
        if table is not None:
            order = torch.arange(table.numel(), dtype=torch.int32) % len(call.cache.k)
            call = call._replace(cache=call.cache._replace(table=order.view(table.shape)))
        return super().cached_forward(call)


class Forgetful(ReferenceBackend):
    """New tokens are attended over, and the cache is left as it was."""

    def cached_forward(self, call):
        cache = call.cache._replace(k=call.cache.k.clone(), v=call.cache.v.clone())
        return super().cached_forward(call._replace(cache=cache))


class Untidy(ReferenceBackend):
    """A token that was there before is another one afterwards."""

    def cached_forward(self, call):
        results = super().cached_forward(call)
        call.cache.v[tuple(call.cache.v.isfinite().nonzero()[0])] += 1
        return results


class TurnedAlike(ReferenceBackend):
    """All queries are rotated by one place, whatever the mask."""

    def cached_forward(self, call):
        new = call.appended
        return super().cached_forward(
            call._replace(appended=None if new is None else new._replace(one_place=True))
        )


class TurnedInHalves(ReferenceBackend):
    """Columns are rotated by halves, never in pairs."""

    def cached_forward(self, call):
        new = call.appended
        return super().cached_forward(
            call._replace(appended=None if new is None else new._replace(interleaved=False))
        )


class EndsAtTheLastOfOld(ReferenceBackend):
    """A causal mask that counts from the cache as it was before the append."""

    def cached_forward(self, call):
        count = 0 if call.appended is None else call.appended.k.shape[1]
        band = call.mask
        if band.causal and count:
            call = call._replace(mask=replace(band, causal=False, window_right=count))
        return super().cached_forward(call)
