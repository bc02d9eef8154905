"""Which transport a ring uses: the one asked for, or the first that its group can do."""

from __future__ import annotations

import torch.distributed as dist

from ring_attn_bench import registry
from ring_attn_bench.errors import TransportUnavailable
from ring_attn_bench.ring.link import GroupTransport, Transport
from ring_attn_bench.ring.options import RingOptions


def transport_for(options: RingOptions, group: dist.ProcessGroup) -> tuple[str, Transport]:
    """Its name, never `auto`, and the transport; raises TransportUnavailable with the reason.

    A collective over the group, whose ranks all choose alike.
    """
    asked = options.transport
    reasons = []
    for name in registry.transports() if asked == "auto" else (asked,):
        reason = _unsupported(name, group)
        if reason is None:
            kind: type[GroupTransport] = registry.transport_class(name)
            return name, kind(group, options)
        reasons.append(reason if name == asked else f"{name}: {reason}")
    raise TransportUnavailable(asked, "; ".join(reasons))


def _unsupported(name: str, group: dist.ProcessGroup) -> str | None:
    try:
        kind: type[GroupTransport] = registry.transport_class(name)
        return kind.unsupported(group)
    except TransportUnavailable as error:
        return error.reason
    except AttributeError as error:  # a plug-in that lacks a part of the contract
        return f"it is no transport: {error}"
