"""What a run would measure, and about how long that takes; nothing is measured or written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ring_attn_bench.bench import forecast
from ring_attn_bench.bench.resume import count, held, lacking
from ring_attn_bench.bench.start import Request, asked_of_this_machine, heading
from ring_attn_bench.bench.suite import Entry


def dry_run(request: Request) -> Iterator[str]:
    """Lines for a person: the run's heading, its cases, what cannot run, and the time.

    Raises whatever would refuse the run.
    """
    asked, environment, reasons, rings, entries = asked_of_this_machine(request)
    if request.resume and request.out is not None:
        entries = lacking(entries, held(request.out / "records.jsonl"), asked.suite)
    yield heading(asked.suite, environment, rings, entries)
    for name, of_case in groupby(entries, key=lambda entry: entry.case.name):
        yield f"  {name}"
        yield from (f"    {_line(entry)}" for entry in of_case)
    yield from forecast.sentences(entries, reasons, environment)
    able = [entry for entry in entries if entry.contestant.backend not in reasons]
    if count(able) and not forecast.is_long(able, environment):
        yield forecast.time(able, asked.suite, gpu=bool(environment.get("gpu")))


def _line(entry: Entry) -> str:
    directions = ", ".join(direction.value for direction in entry.directions)
    return f"{entry.contestant.name}  ({directions})"
