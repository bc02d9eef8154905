"""Two GPUs: their speeds of light are plausible, and a call that is looked at is seen by events."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench.bench.ceilings import gauge
from ring_attn_bench.bench.messages import Envelope, Look, Prepare, Sample, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.timing import Timer
from ring_attn_bench.bench.tracing import Looked, aligned
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.records.ceilings import Ceilings, Gauged
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions
from tests.distributed.pool import RankPool, Ring

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),
]

LIMIT = 200.0  # of a call: every rank compiles what is new in it
WAYS = {
    "steps by messages": RingOptions("p2p", schedule="steps"),
    "steps by copies": RingOptions("copy_engine", schedule="steps"),
    "one launch": RingOptions("copy_engine", schedule="one_launch"),
}


@pytest.fixture(scope="module")
def ranks():
    pool = RankPool(2, "nccl")
    yield pool
    pool.close()


def _place(ring: Ring) -> WorkerPlace:
    device = torch.device("cuda", ring.rank)
    return WorkerPlace(ring.rank, ring.world_size, device, (ring.rank,), ring.world_size)


def measured(ring: Ring) -> dict[str, object]:
    place = _place(ring)
    return gauge(place, Timer(place), ("bfloat16",)).model_dump()


def looked_at(ring: Ring, options: RingOptions) -> tuple[dict[str, object], float]:
    """What the rank saw, and the shortest of some calls that nobody looked at."""
    case = Case(
        batch=1, seqlen_total=32768, world_size=2, heads_q=32, heads_kv=8, head_dim=128,
        dtype="bfloat16", causal=True,
    )  # fmt: skip
    who = Contestant(backend="triton", partition="zigzag", options=options)
    direction, worker = Direction.FORWARD_BACKWARD, BenchWorker(_place(ring))

    def ask(command):
        return worker.execute(Envelope(about="it", command=command))

    ask(Prepare(case=case, contestant=who, directions=(direction,), seed=1))
    timed = ask(Sample(direction=direction, subject=Subject.RING, count=5, warmup=2))
    return ask(Look(direction=direction))["looked"], min(timed["milliseconds"])


def test_speeds_of_light_are_those_of_such_gpus(ranks):
    found = [Gauged.model_validate(x) for x in ranks.run(measured, limit=LIMIT)]
    ceilings = Ceilings.of("bfloat16", found, "now")

    assert ceilings.unmeasured == ""
    assert 50 < ceilings.matmul < 5000
    assert 500 < ceilings.copy_rate < 20000
    assert 5 < ceilings.link < 2000
    assert len(ceilings.messages_gbs) == 2


@pytest.mark.parametrize("way", WAYS)
def test_launches_and_transfers_lie_within_the_call_and_looking_costs_little(ranks, way):
    answers = ranks.run(looked_at, WAYS[way], limit=LIMIT)
    traces = aligned([Looked.model_validate(found) for found, _ in answers])

    for trace, (_, milliseconds) in zip(traces, answers, strict=True):
        lanes = {span.lane for span in trace.spans}
        assert {"launches", "keys", "gradients"} <= lanes
        outside = [x for x in trace.spans if not -0.1 <= x.start <= x.end <= trace.end + 0.1]
        assert not outside, trace.end
        launched = sum(x.end - x.start for x in trace.spans if x.lane == "launches")
        assert 0.5 * milliseconds < launched < 1.5 * milliseconds
        assert trace.end < 2 * milliseconds + 1.0
