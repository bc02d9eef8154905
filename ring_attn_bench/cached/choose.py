"""Which kernel attends over a cache: the one asked for, or the first that can."""

from __future__ import annotations

from ring_attn_bench import registry
from ring_attn_bench.contract.cache import CachedBackend, caching, reason_over_cache
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.ring.backend_choice import announce


def choose_cached(name: str, problem: CachedProblem, *, announces: bool = True) -> CachedBackend:
    """announces: whether to log what `auto` chose.

    Raises UnknownName, BackendUnavailable, or Unsupported with the reasons.
    """
    if name != "auto":
        return _checked(name, problem)
    reasons = []
    for candidate in registry.over_a_cache():
        try:
            chosen = _checked(candidate, problem)
        except (BackendUnavailable, Unsupported) as error:
            reasons.append(f"{candidate}: {error.reason}")
            continue
        if announces:
            announce(candidate, problem.device)
        return chosen
    raise Unsupported("auto", "; ".join(reasons))


def _checked(name: str, problem: CachedProblem) -> CachedBackend:
    backend = caching(registry.load(name))
    if backend is None:
        raise Unsupported(name, "it has no attention over a cache")
    reason = reason_over_cache(backend, problem)
    if reason is not None:
        raise Unsupported(name, reason)
    return backend
