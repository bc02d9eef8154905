"""Ranks that make a process group of their own must belong to equally many: a trap of torch."""

from __future__ import annotations

from collections.abc import Sized

import torch.distributed as dist


def even_out(ranks: list[int]) -> None:
    """Makes these ranks belong to equally many process groups, by adding groups of one rank.

    torch names a locally synchronised group after its ranks and the number of groups that its
    maker belongs to. Ranks that differ in the number would wait for each other under two names;
    and the name of a group that was destroyed leads to its closed sockets.
    """
    assert dist.group.WORLD is not None
    store, rank = dist.group.WORLD.get_group_store(), dist.get_rank()
    key = f"ring_attn_bench/{'_'.join(map(str, ranks))}"
    made = store.add(f"{key}/{rank}", 1)  # which context of these ranks this is
    unused = int(store.get(f"{key}/{rank}/used")) + 1 if made > 1 else 0
    store.set(f"{key}/{rank}/{made}", str(max(unused, len(_groups()))))
    most = max(int(store.get(f"{key}/{other}/{made}")) for other in ranks)
    store.set(f"{key}/{rank}/used", str(most))
    while len(_groups()) < most:
        dist.new_group([rank], use_local_synchronization=True)


def _groups() -> Sized:
    """The process groups that this rank belongs to: what torch counts, which it has no call for."""
    groups: Sized = dist.distributed_c10d._world.pg_names
    return groups
