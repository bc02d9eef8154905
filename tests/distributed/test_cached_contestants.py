"""The harness's contestants over a cache that is dealt to ranks."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench.bench.cached.prepared import prepare
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.memory import kept_bytes
from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check, Suite
from ring_attn_bench.records.direction import Direction

GRIDS = (
    {"page": ["unset", 16]},
    {"append": [True], "rotary": ["unset", "pairs"]},
    {"leftpad": [70]},
)
BASE = {
    "backends": ["reference"], "seqlen_total": [1000], "heads": ["4:2"], "head_dim": [16],
    "dtype": ["float32"], "directions": ["forward"], "queries": [2],
}  # fmt: skip


def entries(**changes):
    grids = [{**BASE, **axes, **changes} for axes in GRIDS]
    return Suite.model_validate({"name": "dealt", "grid": grids}).entries(4, "real")


def on_a_rank(ring):
    """By case, whether it is right here; what is counted of the last."""
    place = WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )
    contexts, right = Contexts(place), {}
    for entry in entries():
        request = Prepare(
            case=entry.case, contestant=entry.contestant, directions=entry.directions, seed=3
        )
        context = contexts.of(entry.contestant)
        found = prepare(request, place, context)
        accuracy = found.judge(Check(), 0)["forward"]
        right[entry.case.name] = accuracy.is_right, accuracy.invariants is not None
        assert found.repeats()
        out = found.call(Direction.FORWARD, Subject.RING)()  # which is timed, and wants no lse
        assert out.shape == (1, 2, 4, 16)
        assert found.call(Direction.FORWARD, Subject.GRAPH) is None
    kept = kept_bytes(found, Direction.FORWARD, lambda: 0)
    (peer, *_) = entries(backends=["peer:torch_cp[math]"])
    try:
        prepare(request.model_copy(update={"contestant": peer.contestant}), place, context)
    except Refused as refusal:
        return right, found.flops(Direction.FORWARD), kept, str(refusal)
    raise AssertionError("a ring was taken for attention over a cache")


def test_a_dealt_cache_is_right_on_every_rank_and_its_work_is_all_ranks_together(ranks):
    answers = ranks.run(on_a_rank, limit=60.0)

    assert answers == [answers[0]] * 4
    right, work, kept, refusal = answers[0]
    assert list(right.values()) == [(True, True)] * 5
    assert work["devices"] == 4
    assert work["cache_bytes"] == (1000 - 70) * 2 * (16 + 16) * 4
    assert kept == 0
    assert refusal == "it is a ring, and has no attention over a cache"


@pytest.mark.parametrize(
    ("played", "playing", "processes"), [("loopback", (), 1), ("4on2", (0, 3), 2)]
)
def test_a_dealt_cache_is_not_played(played, playing, processes):
    suite = Suite.model_validate({"name": "dealt", "grid": [BASE]})
    (entry,) = suite.entries(4, played, playing)
    place = WorkerPlace(0, processes, torch.device("cpu"), (0,), 4)
    request = Prepare(
        case=entry.case, contestant=entry.contestant, directions=entry.directions, seed=3
    )
    with pytest.raises(Refused, match="has a process for each"):
        prepare(request, place, None)
