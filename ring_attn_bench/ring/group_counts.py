"""Ranks that make a process group of their own must belong to equally many: a trap of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch.distributed as dist

APART = 1000
"""More groups than anybody has: so that a group of the caller's own cannot get a ring's name."""


@contextmanager
def evened_out(ranks: list[int]) -> Iterator[None]:
    """While it lasts, these ranks seem to belong to equally many process groups.

    torch names a locally synchronised group after its ranks and the number of groups that its
    maker belongs to. Ranks that differ in the number would wait for each other under two names;
    and the name of a group that was destroyed leads to its closed sockets. So the number is the
    same for all, and another one each time: what is missing is made up, in torch's table of names,
    because real groups would each cost threads and sockets.
    """
    assert dist.group.WORLD is not None
    store, rank = dist.group.WORLD.get_group_store(), dist.get_rank()
    names = cast("dict[object, str]", dist.distributed_c10d._world.pg_names)
    key = f"ring_attn_bench/{'_'.join(map(str, ranks))}"
    made = store.add(f"{key}/{rank}", 1)  # which context of these ranks this is
    unused = int(store.get(f"{key}/{rank}/used")) + 1 if made > 1 else 0
    store.set(f"{key}/{rank}/{made}", str(max(unused, len(names) + APART)))
    most = max(int(store.get(f"{key}/{other}/{made}")) for other in ranks)
    store.set(f"{key}/{rank}/used", str(most))
    missing = [object() for _ in range(most - len(names))]
    names.update(dict.fromkeys(missing, ""))
    try:
        yield
    finally:
        for one in missing:
            del names[one]
