"""Which backend runs a problem: the one asked for, or a refusal; `auto` says what it took."""

from __future__ import annotations

import logging
from functools import cache

from ring_attn_bench import registry
from ring_attn_bench.backend import Backend, abilities
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.plan import Layout, Plan, plans
from ring_attn_bench.problem import Problem

_log = logging.getLogger("ring_attn_bench")


def choose(name: str, problem: Problem, layout: Layout, rank: int) -> tuple[Backend, Plan]:
    """The backend and what `rank` does with it.

    Raises UnknownName, BackendUnavailable, or Unsupported with the backend's reason; for `auto`,
    Unsupported with every backend's.
    """
    if name != "auto":
        return _checked(registry.load(name), problem, layout, rank)
    reasons = []
    for candidate in registry.backends():
        try:
            found = _checked(registry.load(candidate), problem, layout, rank)
        except (BackendUnavailable, Unsupported) as error:
            reasons.append(f"{candidate}: {error.reason}")
            continue
        if rank == 0:
            _announce(candidate, problem.device)
        return found
    raise Unsupported("auto", "; ".join(reasons))


def _checked(backend: Backend, problem: Problem, layout: Layout, rank: int) -> tuple[Backend, Plan]:
    reason = backend.unsupported(problem)
    if reason is not None:
        raise Unsupported(backend.name, reason)
    lowered = plans(layout, abilities(backend, alibi=problem.alibi))
    if isinstance(lowered, str):
        mask, partition = problem.mask, layout.partition.name
        raise Unsupported(backend.name, f"a mask '{mask}' on partition {partition!r}: {lowered}")
    return backend, lowered[rank]


@cache
def _announce(name: str, device: str) -> None:
    """Once for each choice, on one rank: all choose alike."""
    _log.warning("backend 'auto' chose %r on %s; pass backend= to choose yourself.", name, device)
