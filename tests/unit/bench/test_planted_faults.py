"""Rings with one fault each: the harness must find each wrong, and the sound ring right."""

from dataclasses import replace

import pytest
import torch

from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring import forward
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.transports import loopback
from tests.unit.bench.planted_faults import FAULTS, WINDOW, WORLD_SIZE, Fault

TOKENS = 32
WAYS = {
    "float32, every row": ("float32", Check()),
    "bfloat16, every row": ("bfloat16", Check()),
    "bfloat16, sampled rows": ("bfloat16", Check(full_up_to=64, sampled_rows=24)),
}
every_way = pytest.mark.parametrize(("dtype", "check"), WAYS.values(), ids=WAYS.keys())
every_partition = pytest.mark.parametrize("partition", PARTITIONS)


def wrong(monkeypatch, partition, dtype, check, fault):
    """The results that the harness finds wrong in a ring with the fault."""
    place = WorkerPlace(0, 1, torch.device("cpu"), tuple(range(WORLD_SIZE)), WORLD_SIZE)
    case = Case(batch=1, seqlen_total=WORLD_SIZE * TOKENS, world_size=WORLD_SIZE, heads_q=4,
                heads_kv=2, head_dim=16, dtype=dtype, causal=True, window=fault.window)  # fmt: skip
    spec = Contestant(
        backend="reference", partition=partition, options=RingOptions(), played="loopback"
    )
    request = Prepare(case=case, contestant=spec, directions=tuple(Direction), seed=1)
    sound = prepare(request, place, Contexts(place))
    jobs = tuple(fault.jobs(sound.contestant.jobs))
    monkeypatch.setattr(loopback, "LoopbackLink", fault.link)
    monkeypatch.setattr(forward, "merge", fault.merge)
    found = replace(sound, contestant=replace(sound.contestant, jobs=jobs)).judge(check, 0)
    tensors = found[Direction.FORWARD_BACKWARD.value].tensors
    return {name for name, error in tensors.items() if not error.is_right}


@every_way
@every_partition
@pytest.mark.parametrize("window", [(-1, -1), WINDOW], ids=str)
def test_the_sound_ring_is_right(monkeypatch, partition, dtype, check, window):
    assert wrong(monkeypatch, partition, dtype, check, Fault(set(), window=window)) == set()


@every_way
@every_partition
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_in_what_it_spoils_and_nowhere_else(
    monkeypatch, partition, dtype, check, fault
):
    assert wrong(monkeypatch, partition, dtype, check, fault) == fault.spoils
