"""Packed documents on a ring as operators, ordered like `ring_attn`.

Where documents begin is an input of the graph, a tensor, and what follows from it follows when an
operator runs: a batch of other documents compiles nothing. A value that `documents(...)` made has
such a tensor with it, of everything that it says.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.options import Options
from ring_attn_bench.document_sharding import CuSeqlens, starts_of
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.ops import passes
from ring_attn_bench.ops.asked import SCHEMA, Asked, traced
from ring_attn_bench.ops.pair import pair
from ring_attn_bench.ops.registered import own
from ring_attn_bench.ops.ring import Where, called, passed, separated, shapes
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.written import documents_of
from ring_attn_bench.ring.call import OnRing, Packed
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.packed import AnyTold, EachDealt, Prepared, Sides, Told

_ASKED = len(Asked._fields)


class _OfGraph(NamedTuple):
    """What a call is told of its documents, in the order of `_SCHEMA`.

    cu_seqlens, queries: where documents begin, or uint8, all that a value says (`is_value`,
    `are_values`). pieces: of documents that are dealt one by one; 0 of a sequence that is dealt.
    of_rank: which rank they were prepared for; -1 any.
    """

    cu_seqlens: Tensor
    queries: Tensor | None
    is_value: bool
    are_values: bool
    max_seqlen: int | None
    pieces: int
    of_rank: int
    partition: str | None
    group: str
    context: str

    def sides(self, asked: Asked, ring: RingContext) -> Sides:
        """As eager calls make them; raises InvalidArgument."""
        return Sides.of(asked[:3], self._told().deal, ring)

    def _told(self) -> AnyTold:
        cu_seqlens = _read(self.cu_seqlens, is_value=self.is_value)
        if self.of_rank >= 0:
            assert isinstance(cu_seqlens, DealtDocuments)  # as `attention` makes them
            return Prepared(cu_seqlens, self.of_rank)
        if self.pieces:
            assert not isinstance(cu_seqlens, DealtDocuments)
            assert self.max_seqlen is not None
            return EachDealt(cu_seqlens, self.max_seqlen, self.pieces)
        queries = None
        if self.queries is not None:
            queries = _read(self.queries, is_value=self.are_values)
        return Told(cu_seqlens, self.partition, self.max_seqlen, queries)

    @property
    def ring(self) -> RingContext:
        """The ring; raises InvalidArgument."""
        return Where("", self.group, self.context).ring()


_SCHEMA = (
    f"{SCHEMA}, Tensor cu_seqlens, Tensor? queries, bool is_value, bool are_values, "
    "SymInt? max_seqlen, int pieces, int of_rank, str? partition, str group, str context"
)


def attention(
    tensors: tuple[Tensor, ...],
    told: AnyTold,
    options: Options,
    return_attn_probs: bool,
    group: dist.ProcessGroup | DeviceMesh | None,
    context: RingContext | None,
) -> Output:
    """out or (out, lse, None) of a call that is traced; raises InvalidArgument."""
    q, k, v = tensors
    of_graph = _of_graph(told, Where.of("", group, context))
    asked = traced(q, k, v, options)
    out, lse, _ = torch.ops.ring_attn_bench.ring_attn_varlen(*asked, *of_graph)
    return (out, lse, None) if return_attn_probs else out


def _of_graph(told: AnyTold, where: Where) -> _OfGraph:
    ring = where.group, where.context
    if isinstance(told, EachDealt):
        starts, is_value = _as_tensor(told.cu_seqlens)
        each = told.max_seqlen, told.pieces, -1, None
        return _OfGraph(starts, None, is_value, False, *each, *ring)
    if isinstance(told, Prepared):
        value, is_value = _as_tensor(told.documents)
        return _OfGraph(value, None, is_value, False, None, 0, told.rank, None, *ring)
    starts, is_value = _as_tensor(told.cu_seqlens)
    queries, are_values = (None, False) if told.queries is None else _as_tensor(told.queries)
    whole = told.max_seqlen, 0, -1, _name(told.partition)
    return _OfGraph(starts, queries, is_value, are_values, *whole, *ring)


def _name(partition: object) -> str | None:
    if partition is None or isinstance(partition, str):
        return partition
    raise InvalidArgument(
        f"partition is {type(partition).__name__}, and a graph takes one by name; pass "
        "documents(cu_seqlens, partition, ...), made outside of it, in place of cu_seqlens."
    )


def _as_tensor(given: CuSeqlens | DealtDocuments) -> tuple[Tensor, bool]:
    """What a graph takes, and whether that is all of a value."""
    if isinstance(given, DealtDocuments):
        if not isinstance(given.traced, Tensor):
            raise InvalidArgument(
                "these documents have no tensor that a graph could take; make them by "
                "documents(...), outside of the graph, of a partition by name or one that "
                "documents(...) made."
            )
        return given.traced, True
    if isinstance(given, Tensor):
        return given, False
    return torch.tensor(starts_of(given), dtype=torch.int64, device="cpu"), False


def _read(given: Tensor, *, is_value: bool) -> Tensor | DealtDocuments:
    return _documents_of(given.numpy().tobytes()) if is_value else given


_documents_of = lru_cache(maxsize=16)(documents_of)
"""Layers of a batch read one value each, forward and backward."""


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - as the schema says
    asked, told = Asked(*arguments[:_ASKED]).as_recorded(), _OfGraph(*arguments[_ASKED:])
    ring = told.ring
    known: list[Sides] = []

    def packed() -> Packed:
        known.append(told.sides(asked, ring))
        return known[0].packed

    def separate() -> tuple[Tensor, Tensor, Tensor, Options]:
        (sides,) = known
        return *sides.whole(*asked[:3]), separated(asked, sides.partition, ring)

    out, lse, agreed = passed(asked, ring, separate, packed)
    out, lse = known[0].held(out, lse)
    return own(out), own(lse), agreed


def _backward(
    dout: Tensor | None,
    dlse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    agreed: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    asked, told = Asked(*arguments[:_ASKED]).as_recorded(), _OfGraph(*arguments[_ASKED:])
    ring = told.ring
    sides = told.sides(asked, ring)
    rows, keys = sides.rows, sides.keys
    with torch.set_grad_enabled(asked.grad_enabled):
        tensors = sides.whole(*asked[:3])
    way = OnRing(ring, *sides.packed)
    call, given = called(asked, tensors, sides.partition, way, agreed)
    # rows of padding see nothing but a sink
    padding = float("-inf") if asked.sink is None else asked.sink
    results = rows.whole(out), rows.whole_lse(lse, padding)
    dout = None if dout is None else rows.whole(dout)
    dlse = None if dlse is None else rows.whole_lse(dlse, 0.0)
    dq, dk, dv, dsink = passes.backward(call, given, results, (dout, dlse))
    return own(rows.held(dq[0])), own(keys.held(dk[0])), own(keys.held(dv[0])), dsink


pair(
    "ring_attn_varlen", _SCHEMA, ("out", "lse", "told"), (_forward, _backward), shapes,
    ordered=True,
)  # fmt: skip
