"""Where a ring's time goes: to the kernel, uneven work, launches and communication. Pure.

Three things were timed in turns: the ring; its twin, the same launches over keys that are there
already; and one call of the same kernel at one device's share of the work. So

    ring = one call + uneven work + launches + communication

where launches are what the twin takes beyond one call of as much work as the busiest rank has, and
communication what the ring takes beyond the twin: transfers that nothing hides, launches that they
slow down, and ranks that wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.record import Record, Speed
from ring_attn_bench.records.statistics import CONFIDENCE, median_interval, slowest_rank

_EACH = (1 + CONFIDENCE) / 2
"""Of both medians of a difference, so that it holds with 95 %, whatever the distributions."""
_SMALL = 0.01
"""Share of the ring's time below which uneven work is not worth a word."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Milliseconds: a difference of medians, and between what it is with 95 %.

    low, high: None with too few samples, below 7 of each.
    """

    ms: float
    low: float | None = None
    high: float | None = None

    @property
    def is_noise(self) -> bool:
        """Whether it may as well be nothing, as far as anybody knows."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high

    @property
    def sure(self) -> float:
        """The difference where it is more than nothing for sure; else 0."""
        return 0.0 if self.is_noise else max(0.0, self.ms)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Milliseconds of a row's time; None is what was not measured beside it.

    ideal: one call of the kernel, at one device's share of the work.
    uneven: at its pace, what the busiest rank has beyond that share. An estimate.
    launches: more of them, shorter ones, merging, and the host. communication: see above.
    link: what the busiest link would take for the bytes of the plan, at the measured ceiling.
    """

    ring: float
    ideal: float | None = None
    uneven: float | None = None
    launches: Lost | None = None
    communication: Lost | None = None
    link: float | None = None
    percent_of_matmul: float | None = None

    @property
    def exposed(self) -> float | None:
        """Of the communication at most so much is the transfer itself, not hidden by launches."""
        if self.communication is None or self.link is None:
            return None
        return min(self.communication.sure, self.link)

    @property
    def waiting(self) -> float | None:
        """At least so much is not: contention with launches, ranks that wait, starting."""
        if self.communication is None or self.exposed is None:
            return None
        return self.communication.sure - self.exposed

    @property
    def hidden(self) -> float | None:
        """Of what the link would take alone, at least so much lies under launches."""
        return None if self.link is None or self.exposed is None else self.link - self.exposed

    @property
    def percent_of_link(self) -> float | None:
        """The share of the ring's time for which its link alone would be at work."""
        return None if self.link is None else 100 * self.link / self.ring

    @property
    def lost(self) -> float | None:
        """The share of the ring's time that one call would not have taken; never below 0."""
        return None if self.ideal is None else max(0.0, 1 - self.ideal / self.ring)

    @property
    def mostly(self) -> str:
        """By what it loses most: `uneven work`, `launches`, `communication`; empty where all of
        that is noise, or not known."""
        named = {
            "uneven work": self.uneven if (self.uneven or 0.0) > _SMALL * self.ring else None,
            "launches": self.launches and self.launches.sure,
            "communication": self.communication and self.communication.sure,
        }
        found = {name: ms for name, ms in named.items() if ms}
        return max(found, key=found.__getitem__, default="")


def breakdown(record: Record) -> Breakdown | None:
    """The record's; None where it has no times that say anything."""
    speed = record.speed
    ring = [] if speed is None else slowest_rank(speed.samples.ring)
    if speed is None or record.interpreted or not ring or not median(ring):
        return None
    one, share = _one_call(speed)
    alone = record.contestant.played == "loopback" or record.case.world_size == 1
    # where nothing travels, the ring is its own twin
    twin = ring if alone else slowest_rank(speed.samples.twin)
    beyond = None if record.contestant.options is None else _beyond(speed, alone=alone)
    ideal, uneven, launches = median(one) * share if one else None, None, None
    if ideal is not None and beyond is not None:
        uneven = ideal * (beyond - 1)
        launches = _difference(twin, one, share * beyond) if twin else None
    return Breakdown(
        median(ring),
        ideal,
        uneven,
        launches,
        _difference(ring, twin) if twin and not alone else None,
        _link(speed, record.ceilings),
        _percent_of_matmul(speed, median(ring), record.ceilings),
    )


def _one_call(speed: Speed) -> tuple[list[float], float]:
    """Its times, and by what they are to be multiplied to be of one device's share."""
    times = slowest_rank(speed.samples.one_gpu)
    if not times or not speed.one_gpu_flops:
        return [], 0.0
    return times, speed.useful_flops / speed.devices / speed.one_gpu_flops


def _beyond(speed: Speed, *, alone: bool) -> float | None:
    """The busiest rank's work over one device's share; None if nobody knows. At least 1.

    alone: whether all ranks share a device, so that it is no matter whose work it is.
    """
    if not speed.executed_flops or not speed.useful_flops or speed.imbalance is None:
        return None
    executed = speed.executed_flops / speed.useful_flops
    return max(1.0, executed * (1.0 if alone else speed.imbalance))


def _difference(times: Sequence[float], less: Sequence[float], scale: float = 1.0) -> Lost:
    """Of the medians, the second one times `scale`."""
    ms = median(times) - scale * median(less)
    one, other = median_interval(times, _EACH), median_interval(less, _EACH)
    if one is None or other is None:
        return Lost(ms)
    return Lost(ms, one[0] - scale * other[1], one[1] - scale * other[0])


def _link(speed: Speed, ceilings: Ceilings | None) -> float | None:
    if speed.link_bytes is None or ceilings is None or ceilings.link is None:
        return None
    return speed.link_bytes / ceilings.link / 1e6


def _percent_of_matmul(speed: Speed, ring: float, ceilings: Ceilings | None) -> float | None:
    if ceilings is None or ceilings.matmul is None:
        return None
    return 100 * speed.useful_flops / speed.devices / ring / 1e9 / ceilings.matmul
