"""On a GPU: the suite decode's cases are judged and timed, in a loop and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench.bench.cached.prepared import prepare
from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Check, Suite
from ring_attn_bench.bench.timing import Timer
from ring_attn_bench.records.direction import Direction

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]
BASE = {
    "backends": ["triton"], "batch": [2], "seqlen_total": [4000], "heads": ["8:2"],
    "head_dim": [128], "dtype": ["bfloat16"], "directions": ["forward"], "queries": [1],
}  # fmt: skip
AXES = (
    {"page": ["unset", 16], "queries": [1, 8]},
    {"append": [True], "rotary": ["unset", "pairs", "halves"], "page": ["unset", 64]},
    {"leftpad": [100], "splits": [0, 16]},
    {"window": [[500, 0]], "softcap": [0.0, 30.0]},
    {"queries": [1000], "head_dim": [192], "head_dim_v": [128]},
)


def entries(axes):
    return Suite.model_validate({"name": "gpu", "grid": [{**BASE, **axes}]}).entries(1, "real")


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_a_step_is_right_three_times_and_takes_no_longer_in_a_graph_than_in_a_loop(axes):
    place = WorkerPlace(0, 1, torch.device("cuda", torch.cuda.current_device()), (0,), 1)
    timer = Timer(place)
    for entry in entries(axes):
        request = Prepare(
            case=entry.case, contestant=entry.contestant, directions=entry.directions, seed=0,
            graphs=True,
        )  # fmt: skip
        found = prepare(request, place, None)
        for _ in range(2):  # before there is anything that was timed, and in its memory
            accuracy = found.judge(Check(), 1)["forward"]
            assert accuracy.is_right, (entry.case.name, accuracy)
            assert accuracy.invariants is not None
            calls = [found.call(Direction.FORWARD, way) for way in (Subject.RING, Subject.GRAPH)]
            loop, graph = (min(timer.sample(call, 5, 2)) / found.calls for call in calls)
            assert 0 < graph <= 1.5 * loop
