"""Two sides, row by row and taken together, corrected for how many rows are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ring_attn_bench.compare import noise
from ring_attn_bench.compare.noise import Change
from ring_attn_bench.compare.rows import (
    IN_A_GRAPH,
    ComparedRow,
    Limits,
    Medians,
    Verdict,
    judged,
    row,
)
from ring_attn_bench.compare.sides import (
    ComparedSide,
    Key,
    differences,
    only_ours_differs,
    other_cards,
)
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.records.statistics import CONFIDENCE
from ring_attn_bench.records.status import Status
from ring_attn_bench.registry import is_peer

OURS, PEERS, BESIDE = "our ring", "other people's rings", "our ring beside others'"
NOT_IN_A_GRAPH = "our ring, not in a graph"
BESIDE_PACKAGES = "{} beside packages'"
ANOTHER_CARD = 0.05
"""How far all times of a run may be from those on another GPU of the same kind: of three H200 one
took 3.21 ms for a forward, one 3.38 and one 3.64 (results/2026-11-27_1xH200_triton)."""


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
    if other_cards(before, after):
        limits = replace(limits, shared=max(limits.shared, ANOTHER_CARD))
    rows = _calibrated([row(key, before, after, limits) for key in shared])
    sums = _sums(rows, same_others=only_ours_differs(before, after))
    timed = [times.change for row in rows for times in row.times.values() if times.change]
    # one family: a gate that looks at both must not fail more often for that. Half of it is for
    # sums, which are few and were made to show what rows cannot
    families = [each.p for each in timed], [each.p for _, each in sums.values()]
    weights = [1 / len(family) for family in families for _ in family]
    adjusted = iter(noise.adjusted([*families[0], *families[1]], weights))
    rows = [_judged(each, adjusted, limits) for each in rows]
    together = []
    for name, (count, change) in sums.items():
        p = next(adjusted)
        together.append(Together(name, count, change, p, judged(change, p, limits)))
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
    def judge(times: Medians | None) -> Medians | None:
        if times is None or times.change is None:
            return times
        p = next(adjusted)
        return replace(times, p=p, verdict=judged(times.change, p, limits))

    return replace(of, time=judge(of.time), graph=judge(of.graph))


def _calibrated(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows, with as much noise of their own as they show: a kernel's, and apart in graphs."""
    found: dict[tuple[str, str], list[Change]] = {}
    for each in rows:
        for how, times in each.times.items():
            if times.change is not None:
                found.setdefault((_backend(each), how), []).append(times.change)
    by_group = dict(zip(found, map(iter, noise.calibrated(tuple(found.values()))), strict=True))

    def mended(each: ComparedRow, how: str, times: Medians | None) -> Medians | None:
        if times is None or times.change is None:
            return times
        return replace(times, change=next(by_group[_backend(each), how]))

    return [
        replace(each, time=mended(each, "", each.time), graph=mended(each, IN_A_GRAPH, each.graph))
        for each in rows
    ]


def _sums(rows: Sequence[ComparedRow], *, same_others: bool) -> dict[str, tuple[int, Change]]:
    """By name, how many rows are judged as one, and their change: all of our ring, each kernel in
    it, and other people's rings.

    same_others: other people's programs, and the machine, are the same on both sides. Then ours
    are held against theirs too: they moved by what the day did.
    """
    ours = [row for row in rows if not is_peer(_backend(row))]
    peers = [row for row in rows if is_peer(_backend(row))]
    kernels = sorted({_backend(row) for row in ours})
    by_kernel = {name: [row for row in ours if _backend(row) == name] for name in kernels}
    compiled = {name: of for name, of in by_kernel.items() if _is_compiled(of)}
    groups = {OURS: ours, **(by_kernel if len(kernels) > 1 else {}), PEERS: peers}
    sums = {name: _together(of) for name, of in groups.items()}
    # where a graph speaks for the kernel, the host of these calls would have no voice
    sums[NOT_IN_A_GRAPH] = _mean(each.time.change for each in ours if each.time and each.graph)
    if same_others:
        sums[BESIDE] = _beside(_together(ours), _together(peers))
        theirs = _together([row for name in kernels if name not in compiled
                            for row in _unmoved(by_kernel[name])])  # fmt: skip
        sums |= {
            BESIDE_PACKAGES.format(n): _beside(_together(x), theirs) for n, x in compiled.items()
        }
    return {name: of for name, of in sums.items() if of is not None}


_Sum = tuple[int, Change] | None


def _together(rows: Sequence[ComparedRow]) -> _Sum:
    return _mean([row.steadier for row in rows])


def _mean(found: Iterable[Change | None]) -> _Sum:
    """None of fewer than two rows: one says it itself."""
    changes = [change for change in found if change]
    return (len(changes), noise.together(changes)) if len(changes) > 1 else None


def _unmoved(package: Sequence[ComparedRow]) -> Sequence[ComparedRow]:
    """The rows of a package, to hold a kernel of ours against; none where it moved beyond a day's
    noise: our commit may have changed how we call it, and then no kernel became slower by that."""
    moved = _together(package)
    return package if moved and moved[1].p > 1 - CONFIDENCE else ()


def _beside(ours: _Sum, others: _Sum) -> _Sum:
    return (ours[0], noise.beside(ours[1], others[1])) if ours and others else None


def _is_compiled(rows: Sequence[ComparedRow]) -> bool:
    """Whether they are of a kernel that is compiled where it runs: a commit may have changed it."""
    return any(record.kernels for row in rows for record in (*row.before, *row.after))


def _backend(row: ComparedRow) -> str:
    return row.before[0].contestant.backend


def _badness(row: ComparedRow) -> tuple[int, float]:
    """To sort by: what is lost or fails, worse errors, slower, more memory, unsure, what the second
    side no longer says, and then the change."""
    change = row.steadier.log if row.steadier else 0.0
    ranked: Sequence[Callable[[], bool]] = (
        lambda: row.lost or row.fails,
        lambda: any(size.worse and "error" in size.what for size in row.sizes),
        lambda: row.slower,
        lambda: any(size.worse for size in row.sizes),
        lambda: row.verdict is Verdict.UNSURE,
        lambda: bool(row.gone),
        lambda: row.statuses[1] is not Status.OK,
        lambda: row.verdict is Verdict.FASTER,
    )
    place = next((at for at, holds in enumerate(ranked) if holds()), len(ranked))
    return place, -change
