"""Who computes a case: our ring, somebody else's, or a kernel that takes documents packed."""

from __future__ import annotations

from ring_attn_bench import registry
from ring_attn_bench.bench import packed_contestant, peer_contestant, ring_contestant
from ring_attn_bench.bench.contestant import Runner
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.context import RingContext


def make(
    case: Case, spec: Contestant, place: WorkerPlace, context: RingContext | None, *, backward: bool
) -> Runner:
    """The contestant on this process; raises Refused with a reason."""
    given = case, spec, place, context
    if registry.is_peer(spec.backend):
        return peer_contestant.make(*given, backward=backward)
    if case.documents is not None and case.world_size == 1:
        return packed_contestant.make(case, spec, place, backward=backward)
    return ring_contestant.make(*given, backward=backward)
