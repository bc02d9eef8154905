"""What a run's folder holds already, and what is left to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ring_attn_bench.bench.suite import Entry, Suite
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.json_lines import Tell
from ring_attn_bench.records.record import Record, mend
from ring_attn_bench.records.record import read as records
from ring_attn_bench.records.status import Status

Held = Mapping[tuple[str, str, str], Record]
"""Records by their key."""


def held(path: Path) -> Held:
    """What a file of records holds; nothing, if it is not there."""
    return {record.key: record for record in records(path)} if path.exists() else {}


def left(
    path: Path, entries: Sequence[Entry], suite: Suite, tell: Tell, *, resume: bool
) -> tuple[Entry, ...]:
    """The entries to measure; what the file holds is told of and, to resume, left out.

    Half a record that a crash has left at its end is taken out of the file.
    """
    if path.exists():
        mend(path, tell)
    records = held(path)
    if not records:
        return tuple(entries)
    if not resume:
        tell(
            f"{path.parent} holds {len(records)} records already. What is measured again takes "
            "their place in the report; --resume measures only what they lack."
        )
        return tuple(entries)
    to_measure = lacking(entries, records, suite)
    tell(f"{path.parent} holds {count(entries) - count(to_measure)} of these already.")
    return to_measure


def count(entries: Sequence[Entry]) -> int:
    """How many records these entries make."""
    return sum(len(entry.directions) for entry in entries)


def lacking(entries: Sequence[Entry], records: Held, suite: Suite) -> tuple[Entry, ...]:
    """Those that have no record, or are to be timed and have only been checked."""
    every = (_lacking(entry, records, suite) for entry in entries)
    return tuple(entry for entry in every if entry.directions)


def _lacking(entry: Entry, records: Held, suite: Suite) -> Entry:
    """The entry with those of its directions that no record has."""

    def has(direction: Direction) -> bool:
        record = records.get((entry.case.name, entry.contestant.name, direction.value))
        if record is None:
            return False
        untimed = record.status is Status.OK and record.speed is None and not record.interpreted
        return not (untimed and suite.timing.enabled)

    directions = tuple(direction for direction in entry.directions if not has(direction))
    return entry.model_copy(update={"directions": directions})
