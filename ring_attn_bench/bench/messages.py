"""What the parent asks of a worker group, as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from ring_attn_bench.bench.suite import Check
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.records.values import DType, Frozen


class Subject(StrEnum):
    """What is timed of a contestant."""

    RING = "ring"
    TWIN = "twin"
    ONE_CALL = "one_call"
    GRAPH = "graph"
    ONE_CALL_GRAPH = "one_call_graph"


class Prepare(Frozen):
    """Make a contestant and its inputs; answers which directions it refuses, and why.

    own: each rank draws inputs for its own tokens alone, which no truth is known of: what a whole
    sequence takes leaves the contestant less memory. graphs: whether calls are captured in CUDA
    graphs too.
    """

    do: Literal["prepare"] = "prepare"
    case: Case
    contestant: Contestant
    directions: tuple[Direction, ...]
    seed: int
    own: bool = False
    graphs: bool = False


class Judge(Frozen):
    """Run the prepared contestant once and compare it with the oracle; answers an Accuracy each.

    seed: of the inputs, and of the rows that are compared. alone: whether the same kernel on one
    GPU is compared too. What was kept for timing is forgotten: the oracle needs the memory.
    """

    do: Literal["judge"] = "judge"
    check: Check
    seed: int
    alone: bool = True


class Measure(Frozen):
    """Run it and answer a call's peak memory beyond the inputs, what is kept, what the work is.

    Also what the compiler made of the kernels that ran, where the backend says, and how the GPU is.
    """

    do: Literal["measure"] = "measure"
    direction: Direction


class Sample(Frozen):
    """Time `count` calls, after `warmup` untimed ones; answers milliseconds by rank.

    Also how the GPU was while it ran the last of them, and afterwards.
    """

    do: Literal["sample"] = "sample"
    direction: Direction
    subject: Subject
    count: int
    warmup: int


class AddUp(Frozen):
    """Run it where every v is 1; answers the invariants that are sums. It spoils its inputs."""

    do: Literal["sums"] = "sums"


class Look(Frozen):
    """Make one more call, with a mark around all that ranks do in it; answers a `Looked`, or None
    where the contestant cannot be looked at."""

    do: Literal["look"] = "look"
    direction: Direction


class Gauge(Frozen):
    """Measure what the machine makes of plain work in these dtypes; answers a `Gauged`."""

    do: Literal["gauge"] = "gauge"
    dtypes: tuple[DType, ...]


class Release(Frozen):
    """Forget the prepared contestant."""

    do: Literal["release"] = "release"


class Quit(Frozen):
    """End the process."""

    do: Literal["quit"] = "quit"


Command = Prepare | Judge | Measure | Sample | AddUp | Look | Gauge | Release | Quit


class Envelope(Frozen):
    """A command, and the name of the contestant (within its case) that it is about."""

    about: str
    command: Annotated[Command, Field(discriminator="do")]


QUIT = Envelope(about="", command=Quit()).model_dump_json()
"""The line that ends a group's processes."""
