"""One rank's gathered launch, and what it is to give: a block over all keys that have come."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Range, count, part
from tests.triton_interpreted.checking import BACKEND, Case, row_sum

NAN = float("nan")
PLAIN = Case(heads=1, groups=1, head_dim=32)


@dataclass(frozen=True)
class Ring:
    """A rank of a ring, and what it fetches: the others' shards, or a part of each, in an order.

    case: how it is scored; its rows and keys are the ring's.
    """

    partition: str = "zigzag"
    world: int = 3
    rank: int = 1
    tokens: int = 90  # of a rank
    order: tuple[int, ...] | None = None  # of arrival
    parts: tuple[Range, ...] | None = None  # of each fetched shard
    case: Case = PLAIN

    @property
    def shards(self):
        """Spans: the rank's own, then those of the pieces."""
        others = self.order or [r for r in range(self.world) if r != self.rank]
        own, *pieces = (
            PARTITIONS[self.partition].spans(r, self.world, self.tokens)
            for r in (self.rank, *others)
        )
        parts = self.parts or [Range(0, self.tokens)] * len(pieces)
        return own, *(part(spans, of) for spans, of in zip(pieces, parts, strict=True))

    @property
    def where(self):
        own, *pieces = self.shards
        keys, at = [(0, chunk) for chunk in chunks(own)], 0
        for piece, spans in enumerate(pieces, 1):
            keys += [(piece, chunk) for chunk in chunks(spans, at)]
            at += count(spans)
        join = not (self.case.alibi or self.case.dropout_p)
        return gathered(chunks(own), keys, self.case.band, join=join)

    @property
    def block(self):
        """The same as a block: all of the keys, in the order in which they lie."""
        own, *pieces = self.shards
        return replace(self.case, rows=own, keys=own + tuple(s for p in pieces for s in p))

    def words(self):
        return torch.tensor([0] + [1] * (self.world - 1), dtype=torch.int32)


def poisoned(x, more=37):
    """A copy in the midst of a token-major buffer of NaN."""
    batch, tokens, heads, dim = x.shape
    buffer = torch.full((tokens + 2 * more, batch, heads, dim + 8), NAN, dtype=x.dtype)
    return buffer[more : more + tokens, ..., :dim].transpose(0, 1).copy_(x)


def gathering(ring, k, v, words):
    """Own and landed keys, with nothing but NaN around them."""
    own = Keys(poisoned(k[:, : ring.tokens]), poisoned(v[:, : ring.tokens]))
    landed = Keys(poisoned(k[:, ring.tokens :]), poisoned(v[:, ring.tokens :]))
    return Gathering(own, landed, words)


def surroundings(x, more=37):
    """What is in the buffer around a poisoned tensor."""
    base = x._base.clone()
    base[more : more + x.shape[1], ..., : x.shape[3]] = 0
    base[more : more + x.shape[1], ..., x.shape[3] :] = NAN
    return base


def computed(ring, tensors, words=None, *, own_first=True, backend=BACKEND, lse=None, delta=None):
    """out, lse, dq, dk, dv, the last two of own keys and then landed ones."""
    q, k, v, dout = tensors
    keys, where, score = gathering(ring, k, v, words), ring.where, ring.case.score
    out, own_lse = backend.gathered_forward(poisoned(q), keys, where, score)
    lse = own_lse if lse is None else lse
    delta = row_sum(dout, out, torch.float32) if delta is None else delta
    rows = Rows(poisoned(q), poisoned(dout), out, lse, delta)
    dq = backend.gathered_dq(rows, keys, where, score)
    own, landed = (Keys(*(poisoned(torch.full_like(x, 9.0)) for x in pair)) for pair in keys[:2])
    backend.gathered_dkdv(rows, keys, own, landed, where, score, own_first=own_first)
    for x in (*own, *landed):
        edge = surroundings(x)
        assert (edge.isnan() | (edge == 0)).all(), "written where no key is"
    dk, dv = (torch.cat(pair, 1) for pair in zip(own, landed, strict=True))
    return out, own_lse, dq, dk, dv
