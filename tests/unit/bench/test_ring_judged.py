"""Sound rings are right by the harness's own rule, in every dtype and with narrow gradients."""

import pytest
import torch

from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.stand_in import by_loopback
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions

DEFAULT = RingOptions()
every_partition = pytest.mark.parametrize("partition", PARTITIONS)


def judged(backend, dtype, partition, *, causal=True, options=DEFAULT, check=None):
    """What the harness says of a ring of four, 48 tokens each."""
    place = WorkerPlace(0, 1, torch.device("cpu"), (0, 1, 2, 3), 4)
    case = Case(batch=2, seqlen_total=192, world_size=4, heads_q=4, heads_kv=2, head_dim=32,
                dtype=dtype, causal=causal)  # fmt: skip
    spec = Contestant(backend=backend, partition=partition, options=options, played="loopback")
    request = Prepare(case=case, contestant=spec, directions=tuple(Direction), seed=3)
    accuracy = prepare(request, place, Contexts(place)).judge(check or Check(), 0)
    return accuracy[Direction.FORWARD_BACKWARD.value]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@every_partition
def test_torchs_own_kernel_is_right_in_the_ring_by_the_rule(partition, dtype, causal):
    found = judged("aten", dtype, partition, causal=causal)
    assert found.is_right, found
    assert set(found.tensors) == {"out", "lse", "dq", "dk", "dv"}


@every_partition
def test_sixteen_bit_gradients_on_the_wire_are_right_by_the_rule_and_not_the_same(partition):
    narrow, wide = (
        judged("aten", "bfloat16", partition, options=RingOptions(gradients=wire))
        for wire in ("input", "float32")
    )
    assert narrow.is_right, narrow
    assert wide.is_right, wide
    for name in ("dk", "dv"):
        assert narrow.tensors[name].rmse > wide.tensors[name].rmse
    assert narrow.tensors["dq"] == wide.tensors["dq"]


@every_partition
@pytest.mark.parametrize("schedule", ["steps", "grouped", "gather"])
def test_every_schedule_is_right_by_the_rule(partition, schedule):
    found = judged("aten", "float32", partition, options=RingOptions(schedule=schedule))
    assert found.is_right, found


@every_partition
def test_a_sample_of_rows_finds_a_sound_ring_right(partition):
    found = judged("aten", "float32", partition, check=Check(full_up_to=64, sampled_rows=40))
    assert found.is_right, found
    assert (found.oracle, found.oracle_rows) == ("sampled", 40)


@pytest.mark.parametrize(
    ("tokens", "world_size", "judged"),
    [(2048, 4, 2048), (16384, 4, 16384), (65536, 4, 16384), (65536, 16, 4096), (65536, 5, 13056)],
)
def test_what_stands_in_for_a_played_ring_is_the_same_at_a_length_that_fits_one_process(
    tokens, world_size, judged
):
    case = Case(batch=1, seqlen_total=tokens * world_size, world_size=world_size, heads_q=4,
                heads_kv=2, head_dim=32, dtype="float32", causal=True)  # fmt: skip
    spec = Contestant(
        backend="aten", partition="zigzag", options=RingOptions(), played=f"{world_size}on2",
        playing=(0, world_size - 1),
    )  # fmt: skip
    found = by_loopback(Prepare(case=case, contestant=spec, directions=(), seed=0), None)

    assert found.case.seqlen_per_gpu == judged
    assert found.case.world_size == world_size
    assert (found.contestant.played, found.contestant.options) == ("loopback", spec.options)
