"""Two sides, row by row and taken together, corrected for how many rows are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ring_attn_bench.compare import noise
from ring_attn_bench.compare.noise import Change
from ring_attn_bench.compare.rows import ComparedRow, Limits, Verdict, judged, row
from ring_attn_bench.compare.sides import ComparedSide, Key, differences, only_ours_differs
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.records.status import Status
from ring_attn_bench.registry import is_peer

OURS, PEERS, BESIDE = "our ring", "other people's rings", "our ring beside others'"


@dataclass(frozen=True, slots=True)
class Together:
    """Rows that are judged as one: what each alone is too noisy to show."""

    name: str
    rows: int
    change: Change
    p: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """rows: what both sides have, the worst first. only_before, only_after: what one has alone."""

    before: ComparedSide
    after: ComparedSide
    limits: Limits
    rows: tuple[ComparedRow, ...]
    together: tuple[Together, ...]
    only_before: tuple[Key, ...]
    only_after: tuple[Key, ...]

    @property
    def differences(self) -> tuple[str, ...]:
        """What differs between the sides' programs and machines."""
        return differences(self.before, self.after)

    @property
    def regressions(self) -> tuple[ComparedRow, ...]:
        """Rows in which something is worse beyond doubt."""
        return tuple(row for row in self.rows if row.regressions)

    @property
    def slower_together(self) -> tuple[Together, ...]:
        """Groups of rows that are slower beyond doubt."""
        return tuple(each for each in self.together if each.verdict is Verdict.SLOWER)

    @property
    def is_regression(self) -> bool:
        """Whether anything is worse beyond doubt."""
        return bool(self.regressions or self.slower_together)


def compared(before: ComparedSide, after: ComparedSide, limits: Limits) -> Comparison:
    """All that both sides have, as one family; raises InvalidArgument where that is nothing."""
    shared = [key for key in before.records if key in after.records]
    if not shared:
        raise InvalidArgument(_nothing_shared(before, after))
    rows = [row(key, before, after, limits) for key in shared]
    groups = {name: _changes(of) for name, of in _groups(rows).items()}
    sums = {name: noise.together(of) for name, of in groups.items() if len(of) > 1}
    if OURS in sums and PEERS in sums and only_ours_differs(before, after):
        sums[BESIDE] = noise.beside(sums[OURS], sums[PEERS])
        groups[BESIDE] = groups[OURS]
    timed = [row.time.change for row in rows if row.time and row.time.change]
    # one family: a gate that looks at both must not fail more often for that
    adjusted = iter(noise.adjusted([each.p for each in (*timed, *sums.values())]))
    rows = [_judged(each, adjusted, limits) for each in rows]
    together = []
    for name, change in sums.items():
        p = next(adjusted)
        verdict = judged(change, p, limits)
        together.append(Together(name, len(groups[name]), change, p, verdict))
    return Comparison(
        before, after, limits, tuple(sorted(rows, key=_badness)), tuple(together),
        tuple(key for key in before.records if key not in after.records),
        tuple(key for key in after.records if key not in before.records),
    )  # fmt: skip


def _nothing_shared(before: ComparedSide, after: ComparedSide) -> str:
    first = (f"{side.name} has {len(side.records)}, as {_one_of(side)}" for side in (before, after))
    return (
        "nothing was compared: no case, contestant and direction is in both. "
        f"{', and '.join(first)}. Measure both with the same suite, ranks and backends."
    )


def _one_of(side: ComparedSide) -> str:
    return " ".join(next(iter(side.records)))


def _judged(of: ComparedRow, adjusted: Iterator[float], limits: Limits) -> ComparedRow:
    time = of.time
    if time is None or time.change is None:
        return of
    p = next(adjusted)
    return replace(of, time=replace(time, p=p, verdict=judged(time.change, p, limits)))


def _changes(rows: Sequence[ComparedRow]) -> list[Change]:
    return [row.time.change for row in rows if row.time and row.time.change]


def _groups(rows: Sequence[ComparedRow]) -> Mapping[str, list[ComparedRow]]:
    """All of our ring, each kernel in it, and all others', which no change of ours can move."""
    ours = [row for row in rows if not is_peer(_backend(row))]
    peers = [row for row in rows if is_peer(_backend(row))]
    kernels = sorted({_backend(row) for row in ours})
    by_kernel = {name: [row for row in ours if _backend(row) == name] for name in kernels}
    return {OURS: ours, **(by_kernel if len(kernels) > 1 else {}), PEERS: peers}


def _backend(row: ComparedRow) -> str:
    return row.before[0].contestant.backend


def _badness(row: ComparedRow) -> tuple[int, float]:
    """To sort by: what is lost or fails, worse errors, slower, more memory, unsure, what the second
    side no longer says, and then the change."""
    change = row.time.change.log if row.time and row.time.change else 0.0
    ranked: Sequence[Callable[[], bool]] = (
        lambda: row.lost or row.fails,
        lambda: any(size.worse and "error" in size.what for size in row.sizes),
        lambda: row.slower,
        lambda: any(size.worse for size in row.sizes),
        lambda: row.time is not None and row.time.verdict is Verdict.UNSURE,
        lambda: bool(row.gone),
        lambda: row.statuses[1] is not Status.OK,
        lambda: row.time is not None and row.time.verdict is Verdict.FASTER,
    )
    place = next((at for at, holds in enumerate(ranked) if holds()), len(ranked))
    return place, -change
