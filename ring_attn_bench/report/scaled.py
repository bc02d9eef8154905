"""Rings that differ in size alone: with each rank's tokens as they are, or those of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, group
from ring_attn_bench.text.digits import tokens

Line = Mapping[int, ReportRow]
"""Of one contestant, by the number of ranks, the smallest first."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What stays as it is when a ring grows, and how that is said."""

    name: str
    size: Callable[[ReportRow], int]
    words: str

    def told(self, row: ReportRow, holder: str) -> str:
        """8K tokens per GPU, or 32K tokens in all."""
        return f"{tokens(self.size(row))} {self.words.format(holder)}"


WEAK = Scaling("weak", lambda row: row.seqlen_per_gpu, "tokens per {}")
STRONG = Scaling("strong", lambda row: row.seqlen_total, "tokens in all")
SCALINGS = WEAK, STRONG


def compared(rows: Sequence[ReportRow], scaling: Scaling) -> list[list[ReportRow]]:
    """Rows with a speed, of one shape, mask, direction and size, of rings of several sizes."""

    def alike(row: ReportRow) -> tuple[object, ...]:
        shape = SharedShape.of(row).but_for_ranks
        return shape, row.causal, row.direction, scaling.size(row)

    timed = [row for row in rows if row.tflops_per_gpu is not None]
    groups = group(timed, alike).values()
    return [x for x in groups if len({row.world_size for row in x}) > 1]


def lines(rows: Sequence[ReportRow]) -> list[Line]:
    """One for each contestant, whatever ranks were played by whom.

    On one rank nothing travels, and a kernel is one contestant, whose partition and options mean
    nothing: all lines of that kernel begin with it.
    """
    alone = group((row for row in rows if row.world_size == 1), lambda row: row.backend)
    found, begun = [], set()
    for of_contestant in group(rows, _who).values():
        first, sizes = of_contestant[0], {row.world_size: row for row in of_contestant}
        single = alone.get(first.backend, [])
        if len(single) == 1 and 1 not in sizes and first.played != "loopback":
            sizes[1] = single[0]
            begun.add(first.backend)
        found.append(dict(sorted(sizes.items())))
    return [line for line in found if set(line) != {1} or line[1].backend not in begun]


def last(line: Line) -> ReportRow:
    """Of the largest ring, which says whose line it is."""
    return line[max(line)]


def _who(row: ReportRow) -> tuple[object, ...]:
    return row.backend, row.partition, *row.options.items(), row.transport.partition("-")[0]
