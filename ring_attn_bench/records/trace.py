"""What all ranks did in one call, when: a Chrome trace for each row, and back.

The file is what chrome://tracing and Perfetto read (their "JSON Object Format"): a process for each
rank, a thread for each lane, and what the row is under `otherData`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from zlib import crc32

from pydantic import Field, ValidationError

from ring_attn_bench.errors import FileError, placed
from ring_attn_bench.records import files
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.json_lines import Tell
from ring_attn_bench.records.values import Count, Frozen, Text

Lane = Literal["launches", "waits", "keys", "gradients"]
LANES: tuple[Lane, ...] = ("launches", "waits", "keys", "gradients")
Moment = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
"""Milliseconds from where all ranks were told to start."""
Key = tuple[str, str, str]
"""A record's: its case, contestant and direction."""
FOLDER = "traces"
"""In a run's folder."""
_LETTERS = 160
"""Of a file's name, at most; what is cut off is told apart by a checksum."""


class Span(Frozen):
    """Something that took from `start` to `end`."""

    lane: Lane
    name: Text
    start: Moment
    end: Moment
    step: Count | None = None
    """Of the plan; None for what belongs to none."""


class RankTrace(Frozen):
    """One rank's spans, in the order in which they ended."""

    rank: Count
    end: Moment
    """Of its call."""
    spans: tuple[Span, ...] = ()


class Trace(Frozen):
    """One call of a row, apart from those that were timed.

    clock: what read the times. ideal_ms, ring_ms: the row's medians.
    """

    run: Text
    case: Text
    contestant: Text
    direction: Direction
    clock: Text
    ring_ms: float | None = None
    ideal_ms: float | None = None
    ranks: tuple[RankTrace, ...] = Field(exclude=True)

    @property
    def key(self) -> Key:
        """That of its record."""
        return self.case, self.contestant, self.direction.value


def slug_of(key: Key) -> str:
    """A name for a row's files: letters that any file system takes, and no other row's."""
    whole = "_".join(key)
    slug = re.sub(r"[^A-Za-z0-9_.+-]+", "-", whole)
    if slug == whole and len(slug) <= _LETTERS:
        return slug
    return f"{slug[:_LETTERS]}_{crc32(whole.encode()):08x}"


def in_folder(run: Path, tell: Tell) -> tuple[Trace, ...]:
    """All that a run's folder holds, by name; tell: hears of a file that is none."""
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            found.append(read(path))
        except FileError as error:
            tell(str(error))
    return tuple(found)


def path_of(run: Path, key: Key) -> Path:
    """Where a row's trace lies in a run's folder."""
    return run / FOLDER / f"{slug_of(key)}.json"


def write(path: Path, trace: Trace) -> None:
    """As a Chrome trace; raises FileError."""
    whole = {
        "displayTimeUnit": "ms",
        "otherData": trace.model_dump(mode="json"),
        "traceEvents": [event for rank in trace.ranks for event in _events(rank)],
    }
    files.write(path, json.dumps(whole, separators=(",", ":")) + "\n")


def read(path: Path) -> Trace:
    """Such a file; raises FileError."""
    try:
        whole = json.loads(files.decoded(files.read_bytes(path), str(path)))
        return Trace.model_validate({**whole["otherData"], "ranks": _ranks(whole["traceEvents"])})
    except ValidationError as error:
        first = error.errors()[0]
        raise _no_trace(path, placed(first["msg"], first["loc"])) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_trace(path, f"{type(error).__name__}: {error}") from None


def _no_trace(path: Path, why: str) -> FileError:
    return FileError(f"{path} is no trace of a row ({why}); take it out, or measure the row again.")


def _events(rank: RankTrace) -> Iterator[dict[str, object]]:
    """Names for the process and its threads, and the spans in microseconds."""
    pid = rank.rank
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": f"rank {pid}"}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
    for at, lane in enumerate(LANES):
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": at, "args": {"name": lane}}
        yield {
            "ph": "M", "name": "thread_sort_index", "pid": pid, "tid": at,
            "args": {"sort_index": at},
        }  # fmt: skip
    for span in rank.spans:
        args = {} if span.step is None else {"step": span.step}
        yield {
            "ph": "X", "name": span.name, "cat": span.lane, "pid": pid,
            "tid": LANES.index(span.lane), "ts": _micro(span.start),
            "dur": _micro(span.end - span.start), "args": args,
        }  # fmt: skip
    yield {
        "ph": "i",
        "s": "p",
        "name": "end of the call",
        "pid": pid,
        "tid": 0,
        "ts": _micro(rank.end),
    }


def _micro(milliseconds: float) -> float:
    """To a nanosecond, below what any clock here resolves."""
    return round(1e3 * milliseconds, 3)


def _ranks(events: list[dict[str, Any]]) -> list[dict[str, object]]:
    spans: dict[int, list[dict[str, object]]] = {}
    ends: dict[int, float] = {}
    for event in events:
        if event["ph"] == "i":
            ends[event["pid"]] = event["ts"] / 1e3
        if event["ph"] != "X":
            continue
        start = event["ts"] / 1e3
        spans.setdefault(event["pid"], []).append(
            {
                "lane": event["cat"],
                "name": event["name"],
                "start": start,
                "end": start + event["dur"] / 1e3,
                "step": event["args"].get("step"),
            }
        )
    return [{"rank": pid, "end": end, "spans": spans.get(pid, [])} for pid, end in ends.items()]
