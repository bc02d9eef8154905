"""A group that was destroyed while somebody holds it is named as that, whatever is asked of it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from ring_attn_bench import NoProcessGroup, RingContext, unshard, zigzag_ring_flash_attn_func
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.sharding import shard
from tests.distributed.pool import Ring

X = torch.ones(1, 4, 2, 8)


def said(use: object) -> str:
    try:
        use()
    except NoProcessGroup as error:
        return str(error)
    return "nothing"


def uses_of_a_destroyed(ring: Ring, handshake: bool | None) -> dict[str, str]:
    group = dist.new_group([0, 1, 2, 3])
    x = X.clone().requires_grad_()
    whole = unshard(x, "zigzag", group, handshake=handshake)
    context = RingContext()
    dist.barrier()
    dist.destroy_process_group(group)
    return {
        "backward": said(lambda: whole.sum().backward()),
        "unshard": said(lambda: unshard(x, "zigzag", group, handshake=handshake)),
        "context": said(lambda: RingContext(group)),
        "call": said(lambda: zigzag_ring_flash_attn_func(X, X, X, group=group)),
        "beside": said(lambda: zigzag_ring_flash_attn_func(X, X, X, group=group, context=context)),
        "message": str(broken("a message", group, RuntimeError("communicator was aborted"))),
    }


@pytest.mark.parametrize("handshake", [True, False])
def test_a_group_destroyed_while_somebody_holds_it_is_no_process_group(ranks, handshake):
    for texts in ranks.run(uses_of_a_destroyed, handshake):
        for use, text in texts.items():
            assert "the process group was destroyed before" in text, use
        assert "before the backward of this unshard" in texts["backward"]


def gone_context(ring: Ring) -> tuple[str, str]:
    context = RingContext()
    own = context.group
    dist.barrier()
    dist.destroy_process_group(own)
    texts = (
        said(lambda: RingContext(own)),
        str(broken("a message", own, RuntimeError("communicator was aborted"))),
    )
    context.close()
    return texts


def test_a_context_whose_communicator_was_destroyed_says_so_where_a_message_fails(ranks):
    for texts in ranks.run(gone_context):
        assert all("the process group was destroyed before" in text for text in texts)


def still_dealt(ring: Ring) -> bool:
    group = dist.new_group([0, 1, 2, 3])
    dist.destroy_process_group(group)
    again = dist.new_group([0, 1, 2, 3])
    whole = torch.arange(16.0)[None]
    return torch.equal(unshard(shard(whole, ring.rank, 4, "zigzag"), "zigzag", again), whole)


def test_a_group_that_is_made_again_serves(ranks):
    assert ranks.run(still_dealt) == [True] * 4
