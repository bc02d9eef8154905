"""What `list` and `env` say, for a program."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from ring_attn_bench import registry
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.records.values import Environment

SCHEMA = 1
"""Of both forms, which stay as they are but for keys that come."""


def backends() -> str:
    """Backends, peers and transports; `unavailable` is why one cannot run here, or null."""
    listed = registry.listing()
    return _text(
        {
            "backends": _lines(x for x in listed if not registry.is_peer(x.name)),
            "peers": _lines(x for x in listed if registry.is_peer(x.name)),
            "transports": _lines(registry.transport_listing()),
        }
    )


def machine(environment: Environment) -> str:
    """What this machine has, null for what it lacks, and the commands that install packages."""
    missing = {name: command for name, command in COMMANDS.items() if not environment.get(name)}
    return _text({"machine": environment, "missing": missing})


def _lines(listings: Iterable[registry.Listing]) -> list[dict[str, str | None]]:
    return [asdict(x) for x in listings]


def _text(told: dict[str, object]) -> str:
    return json.dumps({"schema": SCHEMA, **told}, indent=1)
