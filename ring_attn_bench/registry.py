"""Names to backends. Nothing is imported until it is asked for, and then it is that one alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ring_attn_bench.errors import BackendUnavailable, RingAttnBenchError, UnknownName

if TYPE_CHECKING:
    from ring_attn_bench.backend import Backend

ENTRY_POINT_GROUP = "ring_attn_bench.backends"
"""Other packages add backends here: name = "module:Class"."""

_CHECKOUT_ROOT = Path(__file__).parents[1] / "backends"


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of `ring-attn-bench list`."""

    name: str
    target: str
    summary: str
    unavailable: str | None


def backends() -> Mapping[str, str]:
    """Name to "module:Class": the backends package's own table, then third parties'.

    A third party cannot take a name of the table. The order is the one in which `auto` asks.
    """
    in_checkout = (_CHECKOUT_ROOT / "ring_attn_backends").is_dir()
    if in_checkout and str(_CHECKOUT_ROOT) not in sys.path:
        # First, so that a checkout never runs with an installed copy's backends.
        sys.path.insert(0, str(_CHECKOUT_ROOT))
    own: Mapping[str, str] = import_module("ring_attn_backends").BACKENDS
    others = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {**own, **{name: target for name, target in others.items() if name not in own}}


@cache
def backend_class(name: str) -> type[Backend]:
    """The class of a backend; raises UnknownName, or BackendUnavailable if importing it fails."""
    table = backends()
    if name not in table:
        raise UnknownName("backend", name, table)
    module, _, attribute = table[name].partition(":")
    try:
        found: type[Backend] = getattr(import_module(module), attribute)
    except Exception as error:  # a broken plug-in must cost nobody else anything
        reason = f"importing {table[name]} failed with {type(error).__name__}: {error}"
        raise BackendUnavailable(name, reason) from error
    return found


@cache
def load(name: str) -> Backend:
    """The backend of that name; raises UnknownName, or BackendUnavailable with the reason."""
    try:
        return backend_class(name)()
    except RingAttnBenchError:
        raise
    except Exception as error:  # as above
        reason = f"making it failed with {type(error).__name__}: {error}"
        raise BackendUnavailable(name, reason) from error


def listing() -> tuple[Listing, ...]:
    """Every backend that is known, and for each that cannot run here the reason."""
    return tuple(_listed(name, target) for name, target in sorted(backends().items()))


def _listed(name: str, target: str) -> Listing:
    try:
        summary = (backend_class(name).__doc__ or "").strip().splitlines()[0]
    except BackendUnavailable as error:
        return Listing(name, target, "", error.reason)
    except IndexError:
        summary = ""
    try:
        load(name)
    except BackendUnavailable as error:
        return Listing(name, target, summary, error.reason)
    return Listing(name, target, summary, None)
