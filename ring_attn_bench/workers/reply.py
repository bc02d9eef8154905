"""What a process makes of a command, and what its parent raises where there is no answer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Frozen, Text


class Reply(Frozen):
    """How a command ended, and whether the process can take another: its device may be lost."""

    status: Status = Status.OK
    reason: Text = ""
    usable: bool = True


Facts = dict[str, object]
"""What a command finds, by name."""


class MemberReply(Reply):
    """Of one process of a group, with what it found where the command ended well."""

    facts: Facts = Field(default_factory=dict)


class WorkerFailed(Exception):
    """A process or a group did not answer: it was killed, crashed, or said what went wrong.

    stderr: the last lines that a group's processes wrote.
    """

    def __init__(self, status: Status, reason: str, stderr: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.stderr = list(stderr)
