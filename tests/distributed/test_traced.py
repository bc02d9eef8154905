"""A ring that is looked at computes what it computes, and says what its plan has it do."""

from __future__ import annotations

import time
from unittest.mock import patch

import pytest
import torch

from ring_attn_bench.bench import recorder
from ring_attn_bench.bench.messages import Envelope, Look, Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.recorder import HostClock, Recorder
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.tracing import Looked, aligned
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.registry import EVERYWHERE
from ring_attn_bench.ring.options import RingOptions
from tests.patience import limit

CASE = Case(batch=1, seqlen_total=128, world_size=4, heads_q=4, heads_kv=2, head_dim=16,
            dtype="float32", causal=True)  # fmt: skip
WAYS = {
    "steps": RingOptions(EVERYWHERE),
    "gather": RingOptions(EVERYWHERE, schedule="gather", slots="auto"),
    "kept": RingOptions(EVERYWHERE, slots="auto", keep_keys=True),
    "one_launch": RingOptions(EVERYWHERE, schedule="one_launch"),
}


def _place(ring):
    return WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )


def _request(options, partition="zigzag"):
    spec = Contestant(backend="reference", partition=partition, options=options)
    return Prepare(case=CASE, contestant=spec, directions=tuple(Direction), seed=3)


def seen(ring, options):
    """Whether results are the same bits, what was seen, and what the plan has."""
    place = _place(ring)
    found = prepare(_request(options), place, Contexts(place))
    seen_by = Recorder(HostClock())
    runner = found.contestant.traced(seen_by)
    both = []
    for one in (found.contestant, runner):
        (outputs,) = one.forward(found.shards)
        (gradients,) = one.backward(found.shards, [outputs])
        both.append((*outputs, *gradients))
    same = all(torch.equal(x, y) for x, y in zip(*both, strict=True))
    plan = found.contestant.jobs[0].plan
    steps = [
        (len(step.launches), bool(step.fetches), bool(step.fetches or step.sends))
        for step in plan.steps
    ]
    return same, seen_by.told(), steps


@pytest.mark.parametrize("way", WAYS)
def test_results_are_the_same_bits_and_every_launch_and_transfer_is_seen(ranks, way):
    for same, spans, steps in ranks.run(seen, WAYS[way]):
        assert same
        assert all(span["end"] >= span["start"] for span in spans)
        launches = [x["step"] for x in spans if x["lane"] == "launches"]
        keys = [x["step"] for x in spans if x["lane"] == "keys"]
        gradients = {x["step"] for x in spans if x["lane"] == "gradients"}
        passes = 1 if way == "kept" else 2
        fetched = [at for at, (_, fetches, _) in enumerate(steps) if fetches]
        assert sorted(keys) == sorted(passes * fetched)
        assert gradients == set(range(1, len(steps)))
        if way == "one_launch":
            assert launches == [None] * 3  # forward; dk and dv; dq
            continue
        assert sorted(launches) == sorted(
            2 * [at for at, (count, _, _) in enumerate(steps) for _ in range(count)]
        )
        waits = [x["step"] for x in spans if x["lane"] == "waits" and x["name"].startswith("keys")]
        assert waits == passes * list(range(1, len(steps)))


APART = 1e3
"""Seconds by which the clocks of neighbours differ, as those of two hosts may."""


def looked_at(ring, options):
    """What a worker answers, which goes as JSON, on a rank whose clock is its own."""
    worker, real = BenchWorker(_place(ring)), time.perf_counter
    worker.execute(Envelope(about="it", command=_request(options)))
    look = Envelope(about="it", command=Look(direction=Direction.FORWARD))
    with patch.object(recorder.time, "perf_counter", lambda: real() + APART * ring.rank):
        return worker.execute(look)["looked"]


def test_all_ranks_of_a_call_stand_on_one_clock(ranks):
    looks = [Looked.model_validate(found) for found in ranks.run(looked_at, WAYS["steps"])]
    traces = aligned(looks)

    assert [trace.rank for trace in traces] == [0, 1, 2, 3]
    assert looks[3].began - looks[0].began > 2e6  # milliseconds
    for trace in traces:
        starts = [span.start for span in trace.spans]
        ends = [span.end for span in trace.spans]
        assert 0 <= min(starts) < max(ends) <= trace.end
        assert trace.end < limit(10) * 1e3
