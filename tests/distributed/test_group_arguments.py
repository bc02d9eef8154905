"""Which ranks a call is of: a group, a context, both if they agree; anything else is a sentence."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from ring_attn_bench import RingContext, zigzag_ring_flash_attn_func
from tests.distributed.pool import Raised, Ring
from tests.distributed.truth import Case, attend, faults

X = torch.randn(1, 4, 2, 8)
FOUR = Case(4, "zigzag", 6, heads=4, dtype=torch.float32)


def pair_beside_world(ring: Ring) -> None:
    own = dist.new_group([0, 1]), dist.new_group([2, 3])
    context = RingContext(own[ring.rank // 2])
    zigzag_ring_flash_attn_func(X, X, X, group=dist.group.WORLD, context=context)


def test_a_group_beside_a_context_of_other_ranks_is_refused(ranks):
    for answer in ranks.outcomes(pair_beside_world):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds
        assert "group is of ranks [0, 1, 2, 3], and context a ring of ranks" in answer.text


def both(ring: Ring) -> object:
    return attend(Ring(ring.rank, 4, dist.new_group([0, 1, 2, 3])), FOUR, RingContext())


def test_a_group_beside_a_context_of_its_own_ranks_is_fine(ranks):
    assert faults(FOUR, ranks.run(both)) == []


def wrong(ring: Ring, name: str) -> None:
    zigzag_ring_flash_attn_func(X, X, X, **{name: "cp"})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("group", "group must be a process group or a DeviceMesh of one dim, got str"),
        ("context", "context must be a RingContext, got str"),
    ],
)
def test_what_is_no_group_and_no_context_is_a_sentence(ranks, name, sentence):
    for answer in ranks.outcomes(wrong, name, world_size=2):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds
        assert sentence in answer.text


def distributed(ring: Ring) -> None:
    mesh = init_device_mesh("cpu", (4,))
    x = DTensor.from_local(X, mesh, [Shard(1)])
    zigzag_ring_flash_attn_func(x, x, x)


def test_a_dtensor_is_told_how_to_become_a_shard(ranks):
    for answer in ranks.outcomes(distributed):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds
        assert "pass q.to_local()" in answer.text
