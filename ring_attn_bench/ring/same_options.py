"""Ranks compare the options of the context that they make, before anything follows from them."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import torch.distributed as dist

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.options import DEFAULTS, RingOptions, texts

_SHORTEST = timedelta(milliseconds=1)
"""Stores count in these, and wait for ever in none of them."""


def agree_on_options(
    group: dist.ProcessGroup, options: RingOptions, timeout: timedelta | None
) -> None:
    """Raises InvalidArgument on every rank of the context's group unless all ask for the same.

    A collective. Options decide which collectives follow, from the choice of a transport on: ranks
    that differ in them would take each other's messages for their own, or wait. By the store in
    which the processes met, as `gpus`, because a GPU that a collective needs may be chosen later.

    timeout: after which ranks that have not come are RingBroken; None is the store's own.
    """
    assert dist.group.WORLD is not None
    store, rank = dist.group.WORLD.get_group_store(), dist.get_rank(group)
    # a context's group has a name of its own: ranks cannot read what another one's left here
    name = f"ring_attn_bench/options/{group.group_name}"
    keys = [f"{name}/{other}" for other in range(dist.get_world_size(group))]
    everyone = []
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    try:
        store.set(keys[rank], json.dumps(texts(options)))
        for key in keys:
            if deadline is not None:
                left = timedelta(seconds=deadline - time.monotonic())
                store.wait([key], max(left, _SHORTEST))
            everyone.append(json.loads(store.get(key)))
    except RuntimeError as error:
        raise broken("the options of the others", group, error) from error
    if any(theirs != everyone[0] for theirs in everyone):
        raise InvalidArgument(_difference(everyone))


def _difference(everyone: list[dict[str, str]]) -> str:
    """Alike on every rank: who asks for what, of each option that is not everybody's."""
    parts = []
    for name in DEFAULTS:
        ranks: dict[str, list[int]] = {}
        for rank, theirs in enumerate(everyone):
            ranks.setdefault(theirs[name], []).append(rank)
        if len(ranks) > 1:
            asked = ", ".join(f"{text} on {_named(where)}" for text, where in ranks.items())
            parts.append(f"{name} is {asked}")
    return (
        f"the ranks of the ring ask for different options: {'; '.join(parts)}; every rank must "
        "make its context with the same RingOptions."
    )


_SHOWN = 4
"""Ranks in a sentence."""


def _named(ranks: list[int]) -> str:
    some = ", ".join(map(str, ranks[:_SHOWN]))
    more = f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {some}{more}"
