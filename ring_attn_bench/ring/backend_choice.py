"""Which backend runs a problem: the one asked for, or a refusal; `auto` says what it took."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from ring_attn_bench import registry
from ring_attn_bench.contract.backend import (
    Backend,
    abilities,
    drops_by_position,
    gathering,
    packed,
    reason_against,
)
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.plan.block import Abilities
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.plans import Plan, plan, plans
from ring_attn_bench.plan.problem import Mask, Problem

_log = logging.getLogger("ring_attn_bench")


Planner = Callable[[Abilities], Plan | str]
"""What to do with a kernel of such abilities, or why nothing can be done with it."""
PlannerOf = Callable[[str], Planner]
"""That of a backend, by its name: what is fastest depends on it."""


def ring_planner(layout: Layout, rank: int, mask: Mask) -> Planner:
    """The plan of `rank` in a ring."""

    def planned(able: Abilities) -> Plan | str:
        # of one launch nothing is refused on one rank alone, so that the others' are not made
        made = plan(layout, rank, able) if layout.one_launch else plans(layout, able)
        if isinstance(made, str):
            return f"a mask '{mask}' on partition {layout.partition.name!r}: {made}"
        return made if isinstance(made, Plan) else made[rank]

    return planned


def able(backend: Backend, problem: Problem, *, documents: bool = False) -> Abilities:
    """The blocks that a backend can be given for a problem, or packed calls of its documents."""
    packs = documents and _packs(backend, problem)
    return abilities(backend, alibi=problem.alibi, dropout=problem.dropout_p > 0, packs=packs)


def _packs(backend: Backend, problem: Problem) -> bool:
    """Whether documents on a ring are packed calls: of kernels with one launch they are that."""
    if gathering(backend) is not None or packed(backend) is None or problem.batch != 1:
        return False
    if problem.dropout_p and drops_by_position(backend):  # which a packed call does not know
        return False
    return reason_against(backend, replace(problem, packed=True)) is None


def choose(
    name: str,
    problem: Problem,
    planner_of: PlannerOf,
    *,
    announces: bool = True,
    gathers: bool = False,
    documents: bool = False,
) -> tuple[Backend, Plan]:
    """The backend and what to do with it.

    announces: whether to log what `auto` chose. gathers: whether it asks kernels that take the keys
    of all ranks in one launch before the others. documents: whether a ring's tokens are of several.
    Raises UnknownName, BackendUnavailable, or Unsupported with the backend's reason; for `auto`,
    Unsupported with every backend's.
    """
    if name != "auto":
        return _checked(registry.load(name), problem, planner_of, documents)
    reasons = []
    names = list(registry.backends())
    for candidate in sorted(names, key=lambda x: not _gathers(x)) if gathers else names:
        try:
            chosen = _checked(registry.load(candidate), problem, planner_of, documents)
        except (BackendUnavailable, Unsupported) as error:
            reasons.append(f"{candidate}: {error.reason}")
            continue
        if announces:
            announce(candidate, problem.device)
        return chosen
    raise Unsupported("auto", "; ".join(reasons))


def _gathers(name: str) -> bool:
    try:
        return gathering(registry.load(name)) is not None
    except BackendUnavailable:
        return False


def _checked(
    backend: Backend, problem: Problem, planner_of: PlannerOf, documents: bool
) -> tuple[Backend, Plan]:
    reason = reason_against(backend, problem)
    if reason is not None:
        raise Unsupported(backend.name, reason)
    plan = planner_of(backend.name)(able(backend, problem, documents=documents))
    if isinstance(plan, str):
        raise Unsupported(backend.name, plan)
    return backend, plan


@cache
def announce(name: str, device: str) -> None:
    """Says what `auto` chose: once for each choice, on one rank, because all choose alike."""
    _log.warning("backend 'auto' chose %r on %s; pass backend= to choose yourself.", name, device)
