"""How a ring moves data: the choices of a user, as one frozen value. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ring_attn_bench import registry
from ring_attn_bench.errors import InvalidArgument, UnknownName, shown
from ring_attn_bench.ring import schedules
from ring_attn_bench.ring.schedules import SCHEDULES

Gradients = Literal["float32", "input"]
Auto = Literal["auto"]


@dataclass(frozen=True, slots=True)
class RingOptions:
    """How a ring moves data. What is `auto` is chosen alike on every rank, by `settle.settled`.

    transport: how keys travel, by a name of `registry.transports()`; `auto` takes the first of
        them that the group can do, and `RingContext.transport` says which.
    slots: landing areas for keys on their way; 2 is the classic ring, world_size - 1 runs ahead
        as far as it can for that much more memory; `auto` is 2, or what steps and budget leave.
    grouping: how many ranks' keys each step brings, e.g. (3,) for a gather of 4 ranks; None is
        one each; `auto` follows the schedule.
    gradients: dtype in which dk, dv partials travel: `float32`, or `input` for half the bytes.
        Where each is one launch's share, which the kernel gives in the input's dtype
        (`Backend.rounds_gradients`), `float32` sends it as it is: wider it is the same number.
    handshake: whether ranks compare shapes and arguments before each call, so that a mismatch is
        an error and not a hang; None is yes on gloo, no on NCCL, where it would stall the queue.
    schedule: `steps` brings one rank's keys at a time, as the classic ring; `gather` all of them
        before one launch; `grouped` some at a time; `one_launch` all of them, own ones too, for
        one launch that begins with its own keys and waits for the others as they arrive, which
        takes a kernel that can (`backend.GatheringBackend`), or of documents one that takes them
        packed, when all have come; `auto` is that one where kernel and transport can and grouping
        is `auto` too, and else follows the grouping; but where both are
        `auto` and the machine's figures are known, what is fastest by them (`ring/fastest.py`).
    landing_tokens: tokens of other ranks' keys that may lie on a rank at once, in all landing areas
        together; None is no limit. What is `auto` is cut to fit: keys of a gather or of one launch
        then come in groups as large as the areas, with a launch for each.
    keep_keys: whether a forward that autograd records keeps the keys that came for its backward,
        which then fetches none: for the memory of world_size - 1 shards of k and v a layer, and
        as many landing areas as there are steps. Less travels, and a backward begins with the
        others' keys, so that their gradients travel under its own.

    Raises UnknownName or InvalidArgument, also for options that contradict each other.
    """

    transport: str = field(default="auto", metadata={"column": "how keys travel"})
    slots: int | Auto = field(
        default="auto", metadata={"column": "landing areas for keys on their way"}
    )
    grouping: tuple[int, ...] | Auto | None = field(
        default="auto",
        metadata={"column": "how many ranks' keys each step brings: `1+2`; `unset` is one each"},
    )
    gradients: Gradients = field(
        default="float32", metadata={"column": "dtype in which partial dk and dv travel"}
    )
    handshake: bool | None = field(
        default=None, metadata={"column": "whether ranks compare their arguments before each call"}
    )
    schedule: schedules.Name = field(
        default="auto",
        metadata={"column": "whether keys come by steps, grouped, all at once or to one launch"},
    )
    landing_tokens: int | None = field(
        default=None,
        metadata={"column": "tokens of other ranks' keys that may lie on a rank at once"},
    )
    keep_keys: bool = field(
        default=False, metadata={"column": "whether keys that came stay for the backward"}
    )

    def __post_init__(self) -> None:
        if not _is_auto(self.transport):
            registry.check_transport(self.transport)
        for kind, name, known in (
            ("schedule", self.schedule, schedules.Name),
            ("gradient dtype", self.gradients, Gradients),
        ):
            if not isinstance(name, str) or name not in get_args(known):
                raise UnknownName(kind, name, get_args(known))
        if not _is_auto(self.slots) and not _is_count(self.slots):
            raise InvalidArgument(
                f"slots is {shown(self.slots)}, but a ring needs at least 1; it is a number or "
                "'auto'."
            )
        if not isinstance(self.handshake, bool | None):
            raise InvalidArgument(
                f"handshake is {shown(self.handshake)}; it must be True, False or None (yes on "
                "gloo, no on NCCL)."
            )
        if self.landing_tokens is not None and not _is_count(self.landing_tokens):
            raise InvalidArgument(
                f"landing_tokens is {shown(self.landing_tokens)}; it must be a positive number of "
                "tokens, of all landing areas together, or None for no limit."
            )
        if not isinstance(self.keep_keys, bool):
            raise InvalidArgument(
                f"keep_keys is {shown(self.keep_keys)}; it must be True or False."
            )
        if self.keep_keys and self.landing_tokens is not None:
            raise InvalidArgument(
                "keep_keys is True, which keeps the keys of all other ranks, and landing_tokens is "
                f"{self.landing_tokens}, which limits how many lie here; leave out one of the two."
            )
        if not _is_auto(self.grouping):
            self._check_sizes()
        self._check_schedule()

    def _check_sizes(self) -> None:
        grouping = self.grouping
        if grouping is None:
            return
        if not isinstance(grouping, tuple) or not all(_is_count(size) for size in grouping):
            raise InvalidArgument(
                f"grouping is {shown(grouping)}; it must be a tuple of positive numbers that add "
                "up to the other ranks, as (1, 2) for 4 ranks, or None (one each), or 'auto'."
            )

    def _check_schedule(self) -> None:
        """Raises InvalidArgument where schedule and grouping say two things."""
        if self.schedule == "auto" or self.grouping == "auto":
            return
        schedule = SCHEDULES[self.schedule]
        if not schedule.fits(self.grouping):
            raise InvalidArgument(
                f"schedule {self.schedule!r} is {schedule.means}, but grouping is "
                f"{shown(self.grouping)}; leave one of the two at 'auto'."
            )


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value == "auto"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def resolved(options: RingOptions, world_size: int, *, waits: bool = False) -> RingOptions:
    """What `auto` takes for schedule, slots and grouping where nothing else is known: none is left.

    waits: whether the kernel takes gathered keys and the transport lets a launch wait for them:
    one launch is then the fastest schedule at every length (docs/design.md has the figures).
    transport is not asked for here: which one a group can do, its ranks have to find out.
    """
    schedule, grouping, others = options.schedule, options.grouping, world_size - 1
    if grouping == "auto":
        schedule = schedules.ruled(waits=waits) if schedule == "auto" else schedule
        grouping = SCHEDULES[schedule].grouping(others)
    elif schedule == "auto":
        schedule = schedules.named(grouping)
    steps = others if grouping is None else len(grouping)
    slots = min(2, max(1, steps)) if options.slots == "auto" else options.slots
    if options.keep_keys:  # nothing lands where something is kept
        slots = max(slots, steps)
    return replace(options, schedule=schedule, slots=slots, grouping=grouping)


DEFAULTS: dict[str, Any] = {option.name: option.default for option in fields(RingOptions)}
"""Each option's default, by the option's name."""
MEANINGS: dict[str, str] = {
    option.name: option.metadata["column"] for option in fields(RingOptions)
}
"""By option, what a column of its values holds."""
NAMELESS: dict[str, Any] = {**DEFAULTS, "slots": 2}
"""By option, what a name leaves out: records began with two slots where nothing was said."""


def texts(options: RingOptions) -> dict[str, str]:
    """Each option's value in a word: 2, 1+2, true, or `unset` for None."""
    return {name: _text(getattr(options, name)) for name in DEFAULTS}


def _text(value: object) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return str(value).lower()
        case tuple():
            return "+".join(map(str, value))
        case _:
            return str(value)


def slug(options: RingOptions) -> str:
    """What is not `NAMELESS`, but for the transport, for names: /3slots/gradients-input."""
    words = []
    for name, text in texts(options).items():
        value = getattr(options, name)
        if name != "transport" and value != NAMELESS[name]:
            words.append(f"/{text}{name}" if _is_count(value) else f"/{name}-{text}")
    return "".join(words)
