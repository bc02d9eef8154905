"""What `list` and `env` say, for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ring_attn_bench import registry
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.machine.looks import Look
from ring_attn_bench.machine.plug_ins import Inventory, PlugIn
from ring_attn_bench.records.values import Environment

SCHEMA = 1
"""Of both forms, which stay as they are but for keys that come."""


def backends(machine: Inventory) -> str:
    """Backends, peers and transports; `unavailable` is why one cannot run here, or null."""
    targets = {**registry.backends(), **registry.peers()}
    lines = _lines(machine.contestants, targets)
    return _text(
        {
            "backends": [x for x in lines if not registry.is_peer(x["name"])],
            "peers": [x for x in lines if registry.is_peer(x["name"])],
            "transports": _lines(machine.transports, registry.transports()),
        }
    )


def machine(environment: Environment, looks: Sequence[Look] = ()) -> str:
    """What this machine has, null for what it lacks, the commands that install packages, and what a
    self-check found."""
    missing = {name: command for name, command in COMMANDS.items() if not environment.get(name)}
    found = [look.model_dump() for look in looks]
    return _text({"machine": environment, "missing": missing, "looks": found})


def _lines(plug_ins: Mapping[str, PlugIn], targets: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name, "target": targets[name], "summary": told.summary,
            "unavailable": told.unavailable,
        }
        for name, told in plug_ins.items()
    ]  # fmt: skip


def _text(told: dict[str, object]) -> str:
    return json.dumps({"schema": SCHEMA, **told}, indent=1)
