"""Names to backends, peers and transports. Nothing is imported until asked for, then that alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache, partial, update_wrapper
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ring_attn_bench.errors import (
    BackendUnavailable,
    RingAttnBenchError,
    TransportUnavailable,
    UnknownName,
)

if TYPE_CHECKING:
    from ring_attn_bench.contract.backend import Backend
    from ring_attn_bench.contract.peer import Peer

ENTRY_POINT_GROUP = "ring_attn_bench.backends"
"""Other packages add backends here: name = "module:Class"."""
PEER_ENTRY_POINT_GROUP = "ring_attn_bench.peers"
"""Other packages add peers here, in the same way and without the prefix."""
TRANSPORT_ENTRY_POINT_GROUP = "ring_attn_bench.transports"
"""Other packages add transports here, each a `ring.link.GroupTransport`."""
TRANSPORTS: Mapping[str, str] = {
    "copy_engine": "ring_attn_bench.ring.transports.copy_engine.transport:CopyEngine",
    "p2p": "ring_attn_bench.ring.transports.p2p:P2P",
    "all_gather": "ring_attn_bench.ring.transports.all_gather:AllGather",
}
"""Name to "module:Class", in the order in which `auto` asks: the best first."""
EVERYWHERE = "p2p"
"""Serves every group and all options: what suites take unless they name another, and what `auto`
asks last. Those behind it have to be asked for by name."""
PEER_PREFIX = "peer:"
"""What tells the name of a peer from that of a backend, in suites and in records."""

Made = TypeVar("Made")
_CHECKOUT_ROOT = Path(__file__).parents[1] / "backends"


def backends() -> Mapping[str, str]:
    """Name to "module:Class": the backends package's own table, then third parties'.

    A third party cannot take a name of the table. The order is the one in which `auto` asks.
    """
    return _table("BACKENDS", ENTRY_POINT_GROUP)


def over_a_cache() -> tuple[str, ...]:
    """The same names in the order in which `auto` asks over a cache."""
    known = backends()
    first = [name for name in _of_package("FIRST_OVER_A_CACHE") if name in known]
    return (*first, *(name for name in known if name not in first))


def peers() -> Mapping[str, str]:
    """ "peer:name" to "module:Class": other people's whole rings, found like backends."""
    table = _table("PEERS", PEER_ENTRY_POINT_GROUP)
    return {f"{PEER_PREFIX}{name}": target for name, target in table.items()}


def is_peer(name: str) -> bool:
    """Whether a contestant of that name would be a peer, known or not."""
    return isinstance(name, str) and name.startswith(PEER_PREFIX)


def check_known(name: str) -> None:
    """Raises UnknownName unless there is such a backend or peer."""
    if is_peer(name):
        _check_peer(name)
    else:
        check_backend(name)


def check_backend(name: str) -> None:
    """Raises UnknownName unless there is such a backend."""
    if not isinstance(name, str) or name not in backends():
        raise UnknownName("backend", name, backends())


def _check_peer(name: str) -> None:
    if not isinstance(name, str) or name not in peers():
        raise UnknownName("peer", name, peers())


def _table(attribute: str, group: str) -> Mapping[str, str]:
    return _with_others(_of_package(attribute), group)


def _of_package(attribute: str) -> Any:  # noqa: ANN401 - a table or a tuple of names
    in_checkout = (_CHECKOUT_ROOT / "ring_attn_backends").is_dir()
    if in_checkout and str(_CHECKOUT_ROOT) not in sys.path:
        # First, so that a checkout never runs with an installed copy's backends.
        sys.path.insert(0, str(_CHECKOUT_ROOT))
    return getattr(import_module("ring_attn_backends"), attribute)


def transports() -> Mapping[str, str]:
    """Name to "module:Class": this project's, then third parties', who cannot take a name of it."""
    return _with_others(TRANSPORTS, TRANSPORT_ENTRY_POINT_GROUP)


def check_transport(name: str) -> None:
    """Raises UnknownName unless `auto` or a transport is called so."""
    if isinstance(name, str) and name in ("auto", *TRANSPORTS):
        return
    known = transports()
    if not isinstance(name, str) or name not in known:
        raise UnknownName("transport", name, ("auto", *known))


def _with_others(own: Mapping[str, str], group: str) -> Mapping[str, str]:
    others = {point.name: point.value for point in entry_points(group=group)}
    return {**own, **{name: target for name, target in others.items() if name not in own}}


class _MadeOnce(Generic[Made]):
    """What is made by a name, once for each; what is no name at all is refused, and not looked up.

    check: raises UnknownName.
    """

    def __init__(self, check: Callable[[str], None], make: Callable[[str], Made]) -> None:
        self._check, self._make = check, cache(make)
        self.cache_clear = self._make.cache_clear
        update_wrapper(self, make)

    def __call__(self, name: str) -> Made:
        if not isinstance(name, str):
            self._check(name)
        return self._make(name)


def _made_once(check: Callable[[str], None]) -> Callable[[Callable[[str], Made]], _MadeOnce[Made]]:
    return partial(_MadeOnce, check)


@_made_once(check_backend)
def backend_class(name: str) -> type[Backend]:
    """The class of a backend; raises UnknownName, or BackendUnavailable if importing it fails."""
    check_backend(name)
    kind: type[Backend] = _imported(name, backends()[name], BackendUnavailable)
    return kind


@_made_once(_check_peer)
def peer_class(name: str) -> type[Peer]:
    """The class of a peer; raises UnknownName, or BackendUnavailable if importing it fails."""
    _check_peer(name)
    kind: type[Peer] = _imported(name, peers()[name], BackendUnavailable)
    return kind


@_made_once(check_transport)
def transport_class(name: str) -> Any:  # noqa: ANN401 - a GroupTransport, which only ring/ knows
    """The class of a transport; raises UnknownName, or TransportUnavailable as above."""
    check_transport(name)
    return _imported(name, transports()[name], TransportUnavailable)


def _imported(
    name: str, target: str, unavailable: type[BackendUnavailable | TransportUnavailable]
) -> Any:  # noqa: ANN401 - whatever class a plug-in names
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a broken plug-in costs nobody else anything
        if isinstance(error, SystemExit) and _is_of_a_signal(error):
            raise  # whoever waits for this process to end is no plug-in
        reason = f"importing {target} failed with {type(error).__name__}: {error}"
        raise unavailable(name, reason) from error


def _is_of_a_signal(error: SystemExit) -> bool:
    """Whether a signal's handler raised it: such a function is given the frame it interrupts."""
    trace = error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        for value in frame.f_locals.values():
            given = value if isinstance(value, tuple) else (value,)
            if any(isinstance(x, FrameType) and x is frame.f_back for x in given):
                return True
    return False


@_made_once(check_backend)
def load(name: str) -> Backend:
    """The backend of that name; raises UnknownName, or BackendUnavailable with the reason."""
    return _made(name, backend_class(name))


@_made_once(_check_peer)
def load_peer(name: str) -> Peer:
    """The peer of that name; raises UnknownName, or BackendUnavailable with the reason."""
    return _made(name, peer_class(name))


def contestant_class(name: str) -> type[Backend] | type[Peer]:
    """The class of a backend or a peer; raises as those two do."""
    return peer_class(name) if is_peer(name) else backend_class(name)


def load_contestant(name: str) -> Backend | Peer:
    """The backend or the peer; raises as those two do."""
    return load_peer(name) if is_peer(name) else load(name)


def _made(name: str, kind: Callable[[], Made]) -> Made:
    try:
        return kind()
    except RingAttnBenchError:
        raise
    except Exception as error:  # as above
        reason = f"making it failed with {type(error).__name__}: {error}"
        raise BackendUnavailable(name, reason) from error
