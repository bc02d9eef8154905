"""What a run would measure, and about how long that takes; nothing is measured or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from ring_attn_bench.bench import forecast
from ring_attn_bench.bench.resume import count, held, lacking
from ring_attn_bench.bench.setup import Setup
from ring_attn_bench.bench.start import Request, asked_of_this_machine, heading
from ring_attn_bench.bench.suite import Entry, Suite
from ring_attn_bench.records.values import Environment


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request comes to on this machine. reasons: by backend, why it cannot run here."""

    suite: Suite
    environment: Environment
    reasons: Mapping[str, str]
    rings: tuple[Setup, ...]
    entries: tuple[Entry, ...]

    @property
    def able(self) -> tuple[Entry, ...]:
        """Those of the entries that can run here."""
        return tuple(x for x in self.entries if x.contestant.backend not in self.reasons)

    @property
    def is_foreseen(self) -> bool:
        """Whether there is anything to run, and how long that takes is known."""
        return bool(count(self.able)) and not forecast.is_long(self.able, self.environment)

    @property
    def seconds(self) -> float | None:
        """About how long it takes; None where that is not known."""
        if not self.able:
            return 0.0
        gpu = bool(self.environment.get("gpu"))
        if not self.is_foreseen:
            return None
        return round(forecast.seconds(self.able, self.suite, gpu=gpu), 1)


def outlook(request: Request) -> Outlook:
    """Raises whatever would refuse the run."""
    asked, machine, rings, entries = asked_of_this_machine(request)
    if request.resume and request.out is not None:
        entries = lacking(entries, held(request.out / "records.jsonl"), asked.suite)
    return Outlook(asked.suite, machine.environment, machine.refusals, rings, tuple(entries))


def lines(seen: Outlook) -> Iterator[str]:
    """For a person: the run's heading, its cases, what cannot run, and the time."""
    yield heading(seen.suite, seen.environment, seen.rings, seen.entries)
    for name, of_case in groupby(seen.entries, key=lambda entry: entry.case.name):
        yield f"  {name}"
        yield from (f"    {_line(entry)}" for entry in of_case)
    yield from forecast.sentences(seen.entries, seen.reasons, seen.environment)
    if seen.is_foreseen:
        yield forecast.time(seen.able, seen.suite, gpu=bool(seen.environment.get("gpu")))


def _line(entry: Entry) -> str:
    directions = ", ".join(direction.value for direction in entry.directions)
    return f"{entry.contestant.name}  ({directions})"
