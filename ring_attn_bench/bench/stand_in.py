"""What is judged in place of a ring that fewer processes play, whose own results mean nothing."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.ring.options import RingOptions

JUDGED_TOKENS = 65536
"""Of the longest sequence that stands in for a played one, all of whose ranks one process plays."""
ROUND = 128
"""A multiple of it has every partition's number of chunks."""


def by_loopback(request: Prepare, took: RingOptions | None) -> Prepare:
    """The same ring on one process, of a length that fits one: the plans cut it the same way.

    took: what `auto` took in its place, which by loopback it might not.
    """
    case, spec = request.case, request.contestant
    tokens = case.seqlen_per_gpu
    if case.seqlen_total > JUDGED_TOKENS:
        most = JUDGED_TOKENS // case.world_size
        tokens = min(tokens, max(1, most // ROUND) * ROUND)
    short = case.model_copy(update={"seqlen_total": tokens * case.world_size})
    options = spec.options if took is None else replace(took, transport="auto")
    changed = {"played": "loopback", "playing": (), "options": options}
    other = spec.model_copy(update=changed)
    return request.model_copy(update={"case": short, "contestant": other})
