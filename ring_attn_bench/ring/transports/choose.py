"""Which transport a ring uses: the one asked for, or the first that its group can do."""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.distributed as dist

from ring_attn_bench import registry
from ring_attn_bench.errors import TransportUnavailable, Unsupported
from ring_attn_bench.ring.link import GroupTransport, Transport
from ring_attn_bench.ring.options import RingOptions

_log = logging.getLogger("ring_attn_bench")


def transport_for(
    options: RingOptions, group: dist.ProcessGroup, *, announces: bool = True
) -> tuple[str, Transport]:
    """Its name, never `auto`, and the transport.

    Raises TransportUnavailable with the reason, or Unsupported where it refuses the options.

    announces: whether to log what `auto` chose. A collective over the group, whose ranks all choose
    alike.
    """
    asked = options.transport
    reasons: list[str] = []
    for name in registry.transports() if asked == "auto" else (asked,):
        reason = _unsupported(name, group)
        if reason is None:
            kind: type[GroupTransport] = registry.transport_class(name)
            if asked == "auto" and announces:
                announce(name, "; ".join(reasons), torch.cuda.is_available())
            return name, _made(name, kind, group, options)
        reasons.append(reason if name == asked else f"{name}: {reason}")
    raise TransportUnavailable(asked, "; ".join(reasons))


@cache
def announce(name: str, instead: str, matters: bool) -> None:
    """Says what `auto` took, and why nothing before it: once for each choice.

    matters: without a GPU there is one choice, and nothing to say aloud.
    """
    level = logging.WARNING if matters else logging.DEBUG
    rest = f" ({instead})" if instead else ""
    _log.log(level, "transport 'auto' chose %r%s; RingOptions(transport=) chooses.", name, rest)


def _made(
    name: str, kind: type[GroupTransport], group: dist.ProcessGroup, options: RingOptions
) -> Transport:
    if options.keep_keys and not hasattr(kind, "resume"):
        raise Unsupported(
            name, "it brings keys once more in every backward (keep_keys is True)", "transport"
        )
    try:
        return kind(group, options)
    except Unsupported as error:  # which says that of a backend, unless it was told otherwise
        raise Unsupported(name, error.reason, "transport") from None


def _unsupported(name: str, group: dist.ProcessGroup) -> str | None:
    try:
        kind: type[GroupTransport] = registry.transport_class(name)
        return kind.unsupported(group)
    except TransportUnavailable as error:
        return error.reason
    except AttributeError as error:  # a plug-in that lacks a part of the contract
        return f"it is no transport: {error}"
