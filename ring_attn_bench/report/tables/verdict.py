"""How it ended: how many rows of each status, and everything that is wrong, with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import group
from ring_attn_bench.text.digits import plural
from ring_attn_bench.text.table import WIDTH, Table, fold

_CASES_SHOWN = 3


def counts(rows: Sequence[ReportRow]) -> Table:
    """Rows by backend and status."""
    present = [status for status in Status if any(row.status is status for row in rows)]
    backends = group(rows, lambda row: row.backend)
    body = [(name, *_counts(of_backend, present)) for name, of_backend in backends.items()]
    if len(body) > 1:
        body.append(("all", *_counts(rows, present)))
    headers = ("backend", *(status.value for status in present), "all")
    bad = sum(row.status.is_failure for row in rows)
    verdict = f"{plural(bad, 'failure')} in {plural(len(rows), 'record')}"
    return Table(verdict, headers, tuple(body))


def _counts(rows: Sequence[ReportRow], statuses: Sequence[Status]) -> tuple[str, ...]:
    counts = [sum(row.status is status for row in rows) for status in statuses]
    return tuple(str(count or "") for count in (*counts, len(rows)))


@dataclass(frozen=True, slots=True)
class Failure:
    """One contestant failing for one reason, in one or several cases."""

    status: Status
    contestant: str
    reason: str
    rows: tuple[ReportRow, ...]

    def terminal(self, width: int = WIDTH) -> str:
        """A heading, the reason, where, and how to see it again."""
        lines = [f"{self.status.value}: {self.contestant}", f"    {self.reason}"]
        lines += [f"    in {where}" for where in self.where()]
        shown = [fold(line, width, subsequent_indent="      ") for line in lines]
        return "\n".join([*shown, *self._again(width)])

    def _again(self, width: int) -> Iterator[str]:
        """The first command, in lines that a shell takes as one."""
        command = self.rows[0].command
        if command:
            lines = wrap(command, width - 8, break_on_hyphens=False, break_long_words=False)
            yield "    again: " + " \\\n      ".join(lines)

    def where(self) -> Iterator[str]:
        """The first few cases and directions."""
        cases = group(self.rows, lambda row: row.case)
        for name, of_case in list(cases.items())[:_CASES_SHOWN]:
            yield f"{name} ({', '.join(row.direction.value for row in of_case)})"
        if len(cases) > _CASES_SHOWN:
            yield f"{len(cases) - _CASES_SHOWN} more cases"


def failures(rows: Sequence[ReportRow]) -> list[Failure]:
    """All failures, the worst first: wrong results."""
    bad = [row for row in rows if row.status.is_failure]
    bad.sort(key=lambda row: -row.status.badness)
    groups = group(bad, lambda row: (row.status, row.contestant, row.reason or ""))
    return [Failure(*key, tuple(directions)) for key, directions in groups.items()]
