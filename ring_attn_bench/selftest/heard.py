"""What the harness said of a fault, beside what it had to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ring_attn_bench.records.record import Record
from ring_attn_bench.records.status import Status
from ring_attn_bench.selftest.planted import Fault


@dataclass(frozen=True)
class Heard:
    """Whether a fault was named.

    said: by the harness. missing: what it had to say besides, or instead; nothing, if it did.
    """

    fault: Fault
    said: str
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, fault: Fault, records: Sequence[Record], end: str = "") -> Heard:
        """From all records that are about it. end: of the run, should some be missing."""
        spoilt = [record for record in records if record.case.name.startswith(fault.names.cases)]
        others = [record for record in records if record not in spoilt]
        if len(records) < fault.records or not spoilt:
            few = f"{len(records)} of {fault.records} records; {end}"
            return cls(fault, few, ("a record of each case",))
        missing = [lack for record in spoilt for lack in _lacks(fault, record)]
        for record in others:
            if record.status is not Status.OK:
                missing.append(f"ok in {record.case.name}, got {said(record)}")
        return cls(fault, said(spoilt[-1]), tuple(dict.fromkeys(missing)))

    @property
    def is_named(self) -> bool:
        """Whether the harness said all that it had to of the fault."""
        return not self.missing


def said(record: Record) -> str:
    """Status, reason, and of what is right its time on the slowest rank."""
    if record.status is not Status.OK:
        return f"{record.status.value}: {record.reason}"
    slow = record.slowest_rank
    return f"ok; {slow}" if slow is not None and slow.is_apart else "ok"


def wrong_results(record: Record) -> frozenset[str]:
    """By name, those that are too far from float64."""
    tensors = {} if record.accuracy is None else record.accuracy.tensors
    return frozenset(name for name, error in tensors.items() if not error.is_right)


def _lacks(fault: Fault, record: Record) -> list[str]:
    names, text = fault.names, said(record)
    lacks = []
    if record.status is not names.status:
        lacks.append(f"status {names.status.value}")
    if wrong_results(record) != names.wrong and names.status is Status.WRONG:
        lacks.append(f"wrong in {', '.join(sorted(names.wrong))} alone")
    lacks += [f"the words {words!r}" for words in names.words if words not in text]
    if names.status is Status.OK:
        lacks += _lacks_in_times(fault, record)
    return lacks


def _lacks_in_times(fault: Fault, record: Record) -> list[str]:
    slow, wanted = record.slowest_rank, fault.names.slow_rank
    if record.speed is None:
        return ["a time"]
    if wanted is not None and (slow is None or not slow.is_apart or slow.rank != wanted):
        return [f"rank {wanted} as far slower than the others"]
    return []
