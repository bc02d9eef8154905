"""What a record says that a link moves is what ranks send and receive in that call."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.registry import EVERYWHERE
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.transports.p2p import Messages

WAYS = {
    "steps": RingOptions(EVERYWHERE),
    "narrow": RingOptions(EVERYWHERE, gradients="input"),
    "gather": RingOptions(EVERYWHERE, schedule="gather", slots="auto"),
    "kept": RingOptions(EVERYWHERE, slots="auto", keep_keys=True),
}


def moved(ring, options, partition, window):
    """By direction, what is said, and what this rank received and sent."""
    case = Case(batch=2, seqlen_total=64, world_size=4, heads_q=4, heads_kv=2, head_dim=16,
                dtype="bfloat16", causal=True, window=window)  # fmt: skip
    place = WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )
    spec = Contestant(backend="reference", partition=partition, options=options)
    request = Prepare(case=case, contestant=spec, directions=tuple(Direction), seed=3)
    found = prepare(request, place, Contexts(place))
    start, counts = Messages.batch, [0, 0]

    def counted(self, to, sent, by, received):
        counts[0] += sum(x.nbytes for x in received)
        counts[1] += sum(x.nbytes for x in sent)
        return start(self, to, sent, by, received)

    answers = {}
    for direction in Direction:
        call = found.call(direction, Subject.RING)
        counts[:] = 0, 0
        with patch.object(Messages, "batch", counted):
            call()
        answers[direction] = found.flops(direction)["link_bytes"], tuple(counts)
    return answers


@pytest.mark.parametrize("window", [(-1, -1), (20, 0)], ids=["causal", "window"])
@pytest.mark.parametrize("partition", ["zigzag", "contiguous"])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_most_that_a_rank_receives_or_sends(ranks, way, partition, window):
    answers = ranks.run(moved, WAYS[way], partition, window)

    for direction in Direction:
        said = {answer[direction][0] for answer in answers}
        counted = [answer[direction][1] for answer in answers]
        assert said == {max(map(max, counted))}, direction
        assert sum(x for x, _ in counted) == sum(x for _, x in counted)
