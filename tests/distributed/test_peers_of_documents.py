"""ring-flash-attention's rings of packed documents, run by the harness, judged by its oracle."""

from __future__ import annotations

import warnings
from unittest.mock import patch

import pytest
import torch

from ring_attn_bench import registry
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Accuracy, Case, Contestant
from tests.distributed.plain_peers import PEERS, missing
from tests.distributed.test_peers import contexts

CASE = Case(
    batch=1, seqlen_total=512, world_size=4, heads_q=8, heads_kv=4, head_dim=16, dtype="bfloat16",
    causal=True, documents="histogram:1",
)  # fmt: skip
EVEN = CASE.model_copy(update={"documents": "histogram:1:8"})
WINDOW = CASE.model_copy(update={"window": (40, 0)})
FULL = CASE.model_copy(update={"causal": False})
RINGS = ("peer:ring_flash_attn[ours]", "peer:ring_flash_attn[plain_4]")


def on_a_rank(ring, case, name, partition):
    """The peer's accuracy and what beside it can be timed, or why it was refused."""
    place = WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )
    spec = Contestant(backend=name, partition=partition, options=None)
    request = Prepare(case=case, contestant=spec, directions=tuple(Direction), seed=3)
    with warnings.catch_warnings(), patch.object(registry, "load_peer", lambda n: PEERS[n]()):
        warnings.simplefilter("ignore")  # the package's own
        try:
            found = prepare(request, place, contexts(place))
        except Refused as refusal:
            return str(refusal)
        accuracy = found.judge(Check(), 0)[Direction.FORWARD_BACKWARD.value]
        for direction in Direction:
            found.call(direction, Subject.RING)()
    return accuracy.model_dump()


def run(ranks, case, name, partition):
    package = missing(name)
    if package:
        pytest.skip(f"{package} is not installed")
    return ranks.run(on_a_rank, case, name, partition, limit=100.0)[0]


@pytest.mark.parametrize("name", RINGS)
@pytest.mark.parametrize(
    ("partition", "case"),
    [("contiguous", CASE), ("contiguous", WINDOW), ("contiguous", FULL), ("head_tail", EVEN)],
    ids=["llama3", "llama3 window", "llama3 full", "zigzag"],
)  # fmt: skip
def test_ring_flash_attns_rings_of_documents_are_right_lse_included(ranks, name, partition, case):
    found = Accuracy.model_validate(run(ranks, case, name, partition))

    assert set(found.tensors) == {"out", "lse", "dq", "dk", "dv"}
    assert found.is_right, [name for name, error in found.tensors.items() if not error.is_right]


@pytest.mark.parametrize(
    ("name", "case", "partition", "reason"),
    [
        (RINGS[0], CASE, "head_tail", "multiples of 8 tokens on 4 ranks, and one has 198"),
        (RINGS[0], CASE, "balanced", "not balanced"),
        (RINGS[0], EVEN.model_copy(update={"causal": False}), "head_tail", "causal attention only"),
        (RINGS[0], CASE.model_copy(update={"softcap": 9.0}), "contiguous", "no softcap"),
        ("peer:torch_cp[math]", CASE, "contiguous", "no packed documents"),
    ],
)
def test_what_a_peer_cannot_be_asked_of_documents_is_refused_with_its_reason(
    ranks, name, case, partition, reason
):
    assert reason in run(ranks, case, name, partition)
