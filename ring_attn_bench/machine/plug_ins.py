"""What a machine is, and what plug-ins say of themselves: asked of a process that may touch CUDA.

It serves this module. A plug-in may end or hang it when it is imported; then another process is
asked about the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from ring_attn_bench import registry
from ring_attn_bench.contract.tunable import Tunable
from ring_attn_bench.errors import BackendUnavailable, NoAnswer, TransportUnavailable, clause
from ring_attn_bench.machine.environment import describe
from ring_attn_bench.machine.looks import Look
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Environment, Frozen, Text
from ring_attn_bench.workers.pool import Hand
from ring_attn_bench.workers.reply import Reply, WorkerFailed
from ring_attn_bench.workers.serving import serve

IMPORT_SECONDS = 120.0
"""For one plug-in's packages to be imported, on a machine that is busy with other things."""
CHECK_SECONDS = 120.0
"""For a self-check of five seconds, where kernels may have to be compiled first."""


class ToDescribe(Frozen):
    """What the process is asked first."""


class Described(Frozen):
    """What it answers."""

    environment: Environment


class ToImport(Frozen):
    """What it is asked then: a backend or a peer by name, or a transport."""

    name: str
    is_transport: bool = False


class ToCheck(Frozen):
    """What it is asked where somebody wants to know whether all is well."""

    looks: Literal[True] = True


class Checked(Reply):
    """What it answers."""

    looks: list[Look] = Field(default_factory=list)


_QUESTIONS: TypeAdapter[ToDescribe | ToImport | ToCheck] = TypeAdapter(
    ToDescribe | ToImport | ToCheck
)


class PlugIn(Reply):
    """What it answers: `unsupported` for one that says why it cannot run here.

    worker_environment, tunable: what its class says; None where that could not be imported.
    """

    summary: Text = ""
    worker_environment: dict[str, dict[str, str]] | None = None
    tunable: bool | None = None

    @property
    def unavailable(self) -> str | None:
        """Why it cannot run here."""
        return None if self.status is Status.OK else self.reason


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a machine is, and which backends, peers and transports it can run, by name."""

    environment: Environment
    contestants: Mapping[str, PlugIn] = field(default_factory=dict)
    transports: Mapping[str, PlugIn] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device type that is measured on."""
        return "cuda" if self.environment.get("gpu") else "cpu"

    @property
    def refusals(self) -> dict[str, str]:
        """By name, why a backend or a peer cannot be loaded here, of those that say so.

        One that ends or hangs its process will do so in its row.
        """
        told = self.contestants.items()
        return {name: x.reason for name, x in told if x.status is Status.UNSUPPORTED}

    def variables(self, name: str) -> dict[str, str]:
        """The environment variables that processes of a backend or a peer need on the device."""
        told = self.contestants.get(name, PlugIn())
        return (told.worker_environment or {}).get(self.device, {})


def ask(contestants: Iterable[str] = (), transports: Iterable[str] = ()) -> Inventory:
    """The machine with these backends and peers, and these transports; raises NoAnswer."""
    hand = Hand("ring_attn_bench.machine.plug_ins", Described)
    hand.hold(ToDescribe(), {})
    try:
        environment = hand.load().environment
        return Inventory(
            environment,
            {name: _told(hand, ToImport(name=name)) for name in contestants},
            {name: _told(hand, ToImport(name=name, is_transport=True)) for name in transports},
        )
    except WorkerFailed as failure:
        reason = clause(failure.reason)
        raise NoAnswer(f"cannot find out what this machine has: {reason}.") from None
    finally:
        hand.end()


def every() -> Inventory:
    """The same with all backends, then all peers, and transports in the order of `auto`."""
    return ask((*sorted(registry.backends()), *sorted(registry.peers())), registry.transports())


def _told(hand: Hand[Described], question: ToImport) -> PlugIn:
    hand.load()  # where this fails, it is not by the plug-in
    try:
        return hand.ask(question, IMPORT_SECONDS, PlugIn)
    except WorkerFailed as failure:
        reason = f"when it was loaded, {failure.reason}"
        return PlugIn(status=failure.status, reason=reason)


def check() -> tuple[Look, ...]:
    """What `self_check` finds on this machine; where its process ends, that is what was found."""
    hand = Hand("ring_attn_bench.machine.plug_ins", Described)
    hand.hold(ToDescribe(), {})
    try:
        return tuple(hand.ask(ToCheck(), CHECK_SECONDS, Checked).looks)
    except WorkerFailed as failure:
        found = f"the process that looked gave no answer: {clause(failure.reason)}"
        return (Look(what="self-check", found=found, is_right=False),)
    finally:
        hand.end()


def _answer(line: str) -> Described | PlugIn | Checked:
    question = _QUESTIONS.validate_json(line)
    if isinstance(question, ToDescribe):
        return Described(environment=describe())
    if isinstance(question, ToCheck):
        from ring_attn_bench.machine.self_check import look_around  # imports torch

        return Checked(looks=list(look_around()))
    return (_transport if question.is_transport else _contestant)(question.name)


def _contestant(name: str) -> PlugIn:
    from ring_attn_bench.workers.after_error import sentence  # imports torch

    told = PlugIn()
    try:
        kind = registry.contestant_class(name)
        needed: Any = kind.worker_environment
        told = PlugIn(
            summary=_first_line(kind), worker_environment=needed, tunable=issubclass(kind, Tunable)
        )
        registry.load_contestant(name)
        return told
    except BackendUnavailable as error:
        reason = error.reason
    except Exception as error:  # of an adapter that is not what it should be
        reason = f"loading it failed with {sentence(error)}"
    changed = {"status": Status.UNSUPPORTED, "reason": reason}
    return PlugIn.model_validate(told.model_dump() | changed)


def _transport(name: str) -> PlugIn:
    """What ranks it can serve only they know."""
    try:
        kind = registry.transport_class(name)
    except TransportUnavailable as error:
        return PlugIn(status=Status.UNSUPPORTED, reason=error.reason)
    lacking = [part for part in ("unsupported", "outgoing", "begin") if not hasattr(kind, part)]
    reason = f"it is no transport: it has no {' and no '.join(lacking)}" if lacking else None
    reason = reason or getattr(kind, "lacks_here", lambda: None)()
    return PlugIn(
        status=Status.UNSUPPORTED if reason else Status.OK,
        reason=reason or "",
        summary=_first_line(kind),
    )


def _first_line(kind: type) -> str:
    return next(iter((kind.__doc__ or "").strip().splitlines()), "")


if __name__ == "__main__":
    serve(sys.argv[1:], lambda: _answer)
