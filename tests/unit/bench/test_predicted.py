"""What a contestant's calls should take is said when it is prepared, by the plan that it runs."""

from __future__ import annotations

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.triton.hopper.splits import scratch_bytes, shares_bytes

from ring_attn_bench.bench import ring_contestant
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.predicted import predicted
from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.contract.scratch import scratch_of
from ring_attn_bench.plan import memory
from ring_attn_bench.plan.memory import KernelMemory, ShardShape
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.problem import Mask, Problem
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import layout_of

CPU = torch.device("cpu")
CASE = Case(batch=2, seqlen_total=96, world_size=4, heads_q=4, heads_kv=2, head_dim=16,
            dtype="float32", causal=True)  # fmt: skip


class Context:
    """A ring's, as far as a contestant is made of it; over that transport."""

    arrives, gpu, hands_on, group = False, None, True, None

    def __init__(self, transport):
        self.transport = transport


def request(case=CASE, directions=tuple(Direction), **who):
    spec = {"backend": "reference", "partition": "zigzag", "options": RingOptions("p2p"), **who}
    return Prepare(case=case, contestant=Contestant(**spec), directions=directions, seed=0)


def made(asked, rank=2, transport="p2p", ranks=None):
    size = asked.case.world_size
    place = WorkerPlace(rank, size, CPU, ranks or (rank,), size)
    context = None if ranks else Context(transport)
    return ring_contestant.make(asked.case, asked.contestant, place, context, backward=True)


def by_hand(rank, *, symmetric):
    layout = layout_of("zigzag", 4, 24, Mask(causal=True), RingOptions("p2p"))
    one = plan(layout, rank, abilities(ReferenceBackend(), alibi=False))
    given = (
        one,
        ShardShape(2, 4, 2, 16, 16, 4, 4, 4),
        KernelMemory(False, ReferenceBackend.needs_delta),
    )
    ways = memory.forward, memory.backward, memory.forward_backward
    return [way(*given, symmetric=symmetric).bytes for way in ways]


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("transport", ["p2p", "copy_engine"])
def test_it_is_what_the_plan_of_the_rank_says_over_its_transport(rank, transport):
    asked = request()
    found = predicted(made(asked, rank, transport), asked, CPU)
    expected = by_hand(rank, symmetric=transport == "copy_engine")
    assert found["call_bytes"] == dict(zip(map(str, Direction), expected, strict=True))
    assert found["with_kernel"] is False  # the reference does not say what it takes


def test_only_what_was_asked_for_is_predicted():
    asked = request(directions=(Direction.FORWARD,))
    found = predicted(made(asked), asked, CPU)
    assert found["call_bytes"] == {"forward": by_hand(2, symmetric=False)[0]}


def test_nobody_guesses_what_a_transport_takes_for_itself_or_ranks_in_one_process():
    asked = request()
    assert predicted(made(asked, transport="all_gather"), asked, CPU) is None
    looped = request(played="loopback")
    assert predicted(made(looped, 0, ranks=tuple(range(4))), looped, CPU) is None


def test_a_ring_of_one_takes_nothing_by_its_transport():
    alone = request(CASE.model_copy(update={"world_size": 1}))
    found = [predicted(made(alone, 0, way), alone, CPU) for way in ("p2p", "all_gather")]
    assert found[0] == found[1] is not None


PROBLEM = Problem(1, 4096, 32, 8, 128, 128, "bfloat16", "cpu")


class Frugal:
    def scratch_bytes(self, problem, launch):
        return problem.batch * launch


def test_a_kernel_is_asked_what_it_takes_only_where_it_says():
    assert scratch_of(Frugal(), PROBLEM)(7) == 7
    assert scratch_of(ReferenceBackend(), PROBLEM) is None


def test_our_kernels_take_shares_of_dk_and_dv_on_hopper_and_nothing_elsewhere():
    triton = pytest.importorskip("ring_attn_backends.triton").TritonBackend()
    layout = layout_of("zigzag", 2, 2048, Mask(causal=True), RingOptions("p2p"))
    one = plan(layout, 0, abilities(triton, alibi=False))
    for launch in one.launches:
        band = launch.block.index_band
        sizes = 1, len(launch.keys), 32, 8, 128, 128
        ragged = band is None or not band.is_open
        assert scratch_bytes(PROBLEM, launch) == shares_bytes(*sizes, ragged=ragged)
        assert scratch_of(triton, PROBLEM)(launch) == 0  # there is no GPU
