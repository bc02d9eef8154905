"""What the parent asks of a tuning process, as JSON, and what it hears."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ring_attn_bench.contract.tunable import Offer
from ring_attn_bench.records.outcome import TimedShape, TypedTrial
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Frozen, Text
from ring_attn_bench.workers.reply import Reply


class Load(Frozen):
    """Make the backend, and say what it has to be tuned."""

    do: Literal["load"] = "load"
    backend: str
    device: Literal["cpu", "cuda"]


class Loaded(Frozen):
    """What the backend has to be tuned, and its version; or why there is no backend."""

    offer: Offer = Offer(())
    version: Text = ""
    unavailable: Text | None = None


class Verify(Frozen):
    """Is this trial right?"""

    do: Literal["verify"] = "verify"
    subject: TypedTrial


class Time(Frozen):
    """How fast are these trials of one row? seconds: after which there are few more rounds."""

    do: Literal["time"] = "time"
    subjects: tuple[TypedTrial, ...]
    shape: TimedShape
    rounds: int
    seconds: float


class TrialSpeed(Frozen):
    """Microseconds of each call, or the status and the reason of a trial that has none."""

    status: Status = Status.OK
    reason: Text = ""
    full: tuple[float, ...] = ()
    causal: tuple[float, ...] = ()


class Speeds(Reply):
    """The speed of each trial."""

    speeds: tuple[TrialSpeed, ...]


Command = Annotated[Load | Verify | Time, Field(discriminator="do")]
COMMANDS: TypeAdapter[Load | Verify | Time] = TypeAdapter(Command)
