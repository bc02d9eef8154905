"""Ranks that make a process group of their own must belong to equally many: a trap of torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist

from ring_attn_bench.errors import RingBroken

APART = 1000
"""More groups than anybody has: so that a group of the caller's own cannot get a ring's name."""


_SHORTEST = timedelta(milliseconds=1)
"""Stores count in these, and wait for ever in none of them."""


@contextmanager
def evened_out(ranks: list[int], timeout: timedelta | None) -> Iterator[None]:
    """While it lasts, these ranks seem to belong to equally many process groups.

    torch names a locally synchronised group after its ranks and the number of groups that its
    maker belongs to. Ranks that differ in the number would wait for each other under two names;
    and the name of a group that was destroyed leads to its closed sockets. So the number is the
    same for all, and another one each time: what is missing is made up, in torch's table of names,
    because real groups would each cost threads and sockets.

    timeout: after which ranks that have not come are RingBroken; None is the default group's.
    """
    assert dist.group.WORLD is not None
    store, rank = dist.group.WORLD.get_group_store(), dist.get_rank()
    names = cast("dict[object, str]", dist.distributed_c10d._world.pg_names)
    key = f"ring_attn_bench/{'_'.join(map(str, ranks))}"
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    most = 0
    with _reached(ranks):
        made = store.add(f"{key}/{rank}", 1)  # which context of these ranks this is
        unused = int(store.get(f"{key}/{rank}/used")) + 1 if made > 1 else 0
        store.set(f"{key}/{rank}/{made}", str(max(unused, len(names) + APART)))
        for other in ranks:
            try:
                most = max(most, _count(store, f"{key}/{other}/{made}", deadline))
            except dist.DistNetworkError:
                raise
            except RuntimeError as error:
                # this context is none: the next one has its number
                store.delete_key(f"{key}/{rank}/{made}")
                store.add(f"{key}/{rank}", -1)
                raise _absent(other, ranks, timeout) from error
        store.set(f"{key}/{rank}/used", str(most))
    missing = [object() for _ in range(most - len(names))]
    names.update(dict.fromkeys(missing, ""))
    try:
        yield
    finally:
        for one in missing:
            del names[one]


@contextmanager
def _reached(ranks: list[int]) -> Iterator[None]:
    """Makes RingBroken of what torch raises where the store is gone, in whatever words."""
    try:
        yield
    except RingBroken:
        raise
    except RuntimeError as error:
        words = str(error).strip().splitlines() or ["no reason given"]
        raise RingBroken(
            f"rank {dist.get_rank()} cannot make the context of a ring over ranks {ranks}: the "
            "process that holds torch.distributed's store does not answer, and has died or left "
            f"(it is rank 0, unless init_process_group was told otherwise). torch says: {words[0]}"
        ) from error


def _count(store: Any, key: str, deadline: float | None) -> int:  # noqa: ANN401 - torch lends no type
    """The number that a rank has set; raises a RuntimeError of torch's if it has not in time."""
    if deadline is not None:
        left = timedelta(seconds=deadline - time.monotonic())
        store.wait([key], max(left, _SHORTEST))
    return int(store.get(key))


def _absent(rank: int, ranks: list[int], timeout: timedelta | None) -> RingBroken:
    waited = "" if timeout is None else f", for {timeout.total_seconds():g} s"
    return RingBroken(
        f"rank {dist.get_rank()} waited for rank {rank} to make the context of a ring over ranks "
        f"{ranks} in vain{waited}: it has died, hangs, or makes other calls; every rank of a ring "
        "must make its context, or the first call that brings none, together."
    )
