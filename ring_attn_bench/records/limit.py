"""The longest sequence of one contestant and direction, one JSON line each, and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ring_attn_bench.records import files, json_lines, sheets
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Count, Environment, Frozen, Size, Text

SCHEMA = 1
LIMITS, SHEET = "limits.jsonl", "limits.csv"
"""The files of a run's folder: every limit, and the table of them."""


class Limit(Frozen):
    """What was found: how long it may be, and what happens at the next length that was tried.

    case: of the shortest length that was tried; its other keys are of all of them.
    """

    schema_version: int = SCHEMA
    case: Case
    contestant: Contestant
    direction: Direction
    longest: Size | None
    """Tokens of each rank; None where the shortest length failed already."""
    failed_at: Size | None
    """The shortest length that failed; None where none did."""
    status: Status
    """How that ended: refused, out of memory, wrong, too late, or an error; ok where none did."""
    reason: Text = ""
    most: Size
    """The longest length that would have been tried."""
    tried: Count
    environment: Environment
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it within a run."""
        return self.case.name, self.contestant.name, self.direction.value

    @property
    def total(self) -> int | None:
        """Tokens of the longest sequence, all ranks together."""
        return None if self.longest is None else self.longest * self.case.world_size

    def cells(self) -> dict[str, str]:
        """A line of limits.csv."""
        case = self.case.model_dump(exclude={"seqlen_total", "window"})
        left, right = (None if side < 0 else side for side in self.case.window)
        known = {
            "contestant": self.contestant.name,
            "backend": self.contestant.backend,
            "direction": self.direction.value,
            "longest_per_gpu": self.longest,
            "longest_total": self.total,
            "failed_at_per_gpu": self.failed_at,
            "status": self.status.value,
            "reason": " ".join(self.reason.split()),
            "most_per_gpu": self.most,
            "tried": self.tried,
            **case,
            "window_left": left,
            "window_right": right,
            "gpu": self.environment.get("gpu"),
            "torch": self.environment.get("torch"),
            "commit": self.environment.get("commit"),
            "seconds": self.seconds,
        }
        return {name: "" if value is None else str(value) for name, value in known.items()}


def append(folder: Path, limit: Limit) -> None:
    """Adds it to the folder's lines, on disk before anybody hears of it; raises FileError."""
    line = limit.model_dump_json(exclude_defaults=True).removeprefix("{")
    files.append(folder / LIMITS, f'{{"schema_version":{SCHEMA},{line}')


def read(folder: Path, tell: json_lines.Tell = lambda sentence: None) -> tuple[Limit, ...]:
    """Those of a folder, of several of one key the last; none, if there is no file."""
    path = folder / LIMITS
    if not path.exists():
        return ()
    return tuple({limit.key: limit for limit in _lines(path, tell)}.values())


def mend(folder: Path, tell: json_lines.Tell) -> None:
    """Takes half a line that a crash has left at the end out of the file; raises FileError."""
    if (folder / LIMITS).exists():
        json_lines.mend(folder / LIMITS, Limit, "limit", tell)


def write_sheet(folder: Path, limits: Iterable[Limit]) -> Path:
    """Writes limits.csv, one line for each; raises FileError."""
    lines = [limit.cells() for limit in limits]
    columns = list(lines[0]) if lines else []
    path = folder / SHEET
    files.write(path, sheets.text(columns, [list(line.values()) for line in lines]))
    return path


def _lines(path: Path, tell: json_lines.Tell) -> Iterator[Limit]:
    return json_lines.read(path, Limit, "limit", '{"schema_version":', tell)


def failures(every: Sequence[Limit]) -> int:
    """How many ended in a fault: to be refused or to run out of memory is an answer."""
    return sum(limit.status.is_failure for limit in every)
