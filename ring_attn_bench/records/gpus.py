"""What GPUs said of themselves while a row was timed, and what of that makes the row suspicious."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Annotated, NamedTuple

from pydantic import Field

from ring_attn_bench.records.values import MOST, Count, Frozen, Text

Watts = Annotated[float, Field(ge=0, le=1e9)]
Celsius = Annotated[int, Field(ge=-MOST, le=MOST)]

MOVED = 0.05
"""Share of a clock that it may move while a row is timed: as much as the fastest kernels are apart
(2 to 8 % in the committed runs), so that a clock alone could turn their order round."""
FEWEST = 4
"""Looks, at least, that show a clock that moves: two in each half."""
_ANY_HARDWARE = "hw_slowdown"


class Reason(NamedTuple):
    """One of NVML's nvmlClocksEventReasons for lower clocks: its bit and its name there.

    slowed_by: who slowed a GPU down, of a reason that no sound machine has.
    """

    bit: int
    name: str
    slowed_by: str = ""


REASONS = (
    Reason(0x2, "applications_clocks_setting"),
    Reason(0x4, "sw_power_cap"),  # dense kernels reach it wherever they run well
    Reason(0x8, _ANY_HARDWARE, "the hardware, which halves clocks or worse"),
    Reason(0x10, "sync_boost"),
    Reason(0x40, "hw_thermal_slowdown", "the hardware, against heat"),
    Reason(0x20, "sw_thermal_slowdown", "the driver, against heat"),
    Reason(0x80, "hw_power_brake_slowdown", "the power supply's brake"),
    Reason(0x100, "display_clock_setting"),
)
"""The gravest of what slows down first; 0x1, which is left out, says that a GPU is idle."""
SLOWED = {reason.name: reason.slowed_by for reason in REASONS if reason.slowed_by}


class GpuLook(Frozen):
    """What one GPU says of itself at one moment; None is what it does not say."""

    sm_mhz: Count | None = None
    memory_mhz: Count | None = None
    watts: Watts | None = None
    celsius: Celsius | None = None
    held_back: tuple[Text, ...] = ()
    """Why its clocks are not higher, in NVML's words."""
    others: Count | None = None
    """Processes of others on it; None where it is not known whose those are that are on it."""
    unseen: Text = ""
    """Why nothing is known of the GPUs."""


class WatchedGpu(Frozen):
    """One GPU, look by look: before the first timed call, while calls ran, and after the last."""

    sm_mhz: tuple[Count | None, ...] = ()
    memory_mhz: tuple[Count | None, ...] = ()
    watts: tuple[Watts | None, ...] = ()
    celsius: tuple[Celsius | None, ...] = ()
    held_back: dict[Text, Count] = Field(default_factory=dict)
    """While calls ran: NVML's reasons for lower clocks, and in how many looks."""
    others: Count | None = None
    """The most processes of others that were on it."""

    @classmethod
    def of(cls, looks: Sequence[GpuLook]) -> WatchedGpu:
        """The looks in order, the first one before calls and the last one after them."""
        reasons = Counter(reason for look in looks[1:-1] for reason in look.held_back)
        others = [look.others for look in looks if look.others is not None]
        return cls(
            sm_mhz=tuple(look.sm_mhz for look in looks),
            memory_mhz=tuple(look.memory_mhz for look in looks),
            watts=tuple(look.watts for look in looks),
            celsius=tuple(look.celsius for look in looks),
            held_back=dict(sorted(reasons.items())),
            others=max(others, default=None),
        )

    @property
    def looks(self) -> int:
        """How many looks were taken while calls ran."""
        return max(0, len(self.sm_mhz) - 2)


class GpuWatch(Frozen):
    """The GPUs of a row, by process, or why nobody saw them."""

    gpus: tuple[WatchedGpu, ...] = ()
    unseen: Text = ""

    @classmethod
    def of(cls, by_look: Sequence[Sequence[GpuLook]]) -> GpuWatch | None:
        """By look, and in each by process; None where there were no GPUs to look at."""
        if not by_look or not by_look[0]:
            return None
        unseen = next((look.unseen for looks in by_look for look in looks if look.unseen), "")
        if unseen:
            return cls(unseen=unseen)
        return cls(gpus=tuple(WatchedGpu.of(looks) for looks in zip(*by_look, strict=True)))

    @property
    def sm_mhz(self) -> float | None:
        """The clock while calls ran: the median of its looks, of the slowest GPU."""
        return min(_medians(gpu.sm_mhz for gpu in self.gpus), default=None)

    @property
    def memory_mhz(self) -> float | None:
        """The memory's clock, as above."""
        return min(_medians(gpu.memory_mhz for gpu in self.gpus), default=None)

    @property
    def watts(self) -> float | None:
        """Power while calls ran: the median of its looks, of the hungriest GPU."""
        return max(_medians(gpu.watts for gpu in self.gpus), default=None)

    @property
    def celsius(self) -> int | None:
        """The temperature of the hottest GPU at any look."""
        known = [x for gpu in self.gpus for x in gpu.celsius if x is not None]
        return max(known, default=None)

    @property
    def held_back(self) -> tuple[str, ...]:
        """NVML's reasons for lower clocks, of all GPUs."""
        return tuple(sorted({reason for gpu in self.gpus for reason in gpu.held_back}))

    @property
    def suspicions(self) -> tuple[str, ...]:
        """What speaks against the times, in a sentence each."""
        clocks = (sentence for at, gpu in enumerate(self.gpus) for sentence in _clocks(at, gpu))
        return (*self._slowed(), *clocks, *self._strangers())

    def _slowed(self) -> Iterator[str]:
        for reason, who in SLOWED.items():
            slowed = {at: gpu for at, gpu in enumerate(self.gpus) if reason in _reasons(gpu)}
            if slowed:
                worst = max(slowed.values(), key=lambda gpu: gpu.held_back[reason])
                yield (
                    f"{_named(slowed, 'was', 'were')} slowed down by {who} ({reason}, in "
                    f"{worst.held_back[reason]} of {worst.looks} looks)"
                )

    def _strangers(self) -> Iterator[str]:
        strangers = {at: gpu.others for at, gpu in enumerate(self.gpus) if gpu.others}
        if strangers:
            most = max(strangers.values())
            whose = "a process" if most == 1 else f"{most} processes"
            yield f"{_named(strangers, 'had', 'had')} {whose} of somebody else"


def _reasons(gpu: WatchedGpu) -> set[str]:
    """Those that slow down; the hardware's own word for all of its reasons only without them."""
    reasons = SLOWED.keys() & gpu.held_back.keys()
    finer = {x for x in reasons if x.startswith("hw_") and x != _ANY_HARDWARE}
    return reasons - {_ANY_HARDWARE} if finer else set(reasons)


def _named(gpus: Iterable[int], one: str, several: str) -> str:
    """GPU 0 was; GPUs 0, 1 were."""
    numbers = list(map(str, gpus))
    return (
        f"GPU {numbers[0]} {one}" if len(numbers) == 1 else f"GPUs {', '.join(numbers)} {several}"
    )


def _clocks(at: int, gpu: WatchedGpu) -> Iterator[str]:
    for name, clock in (("clock", gpu.sm_mhz), ("memory's clock", gpu.memory_mhz)):
        moved = _moved(clock[1:-1])
        if moved:
            yield (
                f"GPU {at}'s {name} went from {moved[0]:,.0f} to {moved[1]:,.0f} MHz while it was "
                "timed"
            )


def _moved(clock: Sequence[int | None]) -> tuple[float, float] | None:
    """The medians of the first and the second half, if they are apart."""
    known = [mhz for mhz in clock if mhz is not None]
    if len(known) < FEWEST:
        return None
    middle = len(known) // 2
    first, second = median(known[:middle]), median(known[middle:])
    return (first, second) if abs(first - second) > MOVED * max(first, second) else None


def _medians(columns: Iterator[Sequence[float | None]]) -> Iterator[float]:
    """The median of each GPU's looks while calls ran."""
    for column in columns:
        known = [x for x in column[1:-1] if x is not None]
        if known:
            yield float(median(known))
