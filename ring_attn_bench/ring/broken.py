"""What becomes of torch's words when a message of a ring does not arrive."""

from __future__ import annotations

import torch.distributed as dist

from ring_attn_bench.errors import NoProcessGroup, RingBroken
from ring_attn_bench.ring.groups import destroyed, is_destroyed


def broken(what: str, group: dist.ProcessGroup, error: RuntimeError) -> RingBroken | NoProcessGroup:
    """The error that says who waited for what, where torch raised a RuntimeError.

    what: as in "waited for the arguments of the others in vain". The group's being destroyed is
    said instead, if that is why.
    """
    if is_destroyed(group):
        return destroyed(f"{what} came")
    ranks = dist.get_process_group_ranks(group)
    words = str(error).strip().splitlines() or ["no reason given"]
    return RingBroken(
        f"rank {dist.get_rank(group)} of the ring over ranks {ranks} waited for {what} in vain: "
        f"another rank has died, hangs, or makes other calls. torch says: {words[0]}"
    )
