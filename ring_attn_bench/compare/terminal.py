"""A comparison for a terminal: tables with the worst row first, and its verdict last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from ring_attn_bench.compare.comparison import Comparison, Together
from ring_attn_bench.compare.noise import Change, share
from ring_attn_bench.compare.rows import ChangedSize, ComparedRow, Medians, Verdict
from ring_attn_bench.compare.sides import ComparedSide, Key
from ring_attn_bench.compare.words import CaseWords
from ring_attn_bench.records.status import Status
from ring_attn_bench.text.digits import digits, plural
from ring_attn_bench.text.table import Table, fold

_ALONE_SHOWN = 8


def text(of: Comparison, width: int, *, every: bool = False) -> str:
    """At most that many columns wide. every: rows of the same time are shown too."""
    return "\n\n".join(_parts(of, width, every=every))


def _parts(of: Comparison, width: int, *, every: bool) -> Iterator[str]:
    words = CaseWords.of(record.case for row in of.rows for record in row.before[:1])
    yield fold("; ".join(_heading(of, words)), width)
    tables = (
        _statuses(of, words),
        _gone(of, words),
        _sizes(of, words, every),
        _times(of, words, every),
        _together(of),
    )
    for table in tables:
        if table is not None:
            yield table.terminal(width)
    for name, keys in ((of.before.name, of.only_before), (of.after.name, of.only_after)):
        if keys:
            yield "\n".join(
                fold(line, width, subsequent_indent="    ") for line in _alone(name, keys)
            )
    yield "\n".join(fold(line, width) for line in verdict(of))


def _heading(of: Comparison, words: CaseWords) -> Iterator[str]:
    yield f"A is {_called(of.before)}, B is {_called(of.after)}"
    if words.shared:
        yield words.shared
    yield ", ".join(of.differences) or "no difference of programs and machines is recorded"


def _called(side: ComparedSide) -> str:
    return side.name if side.runs == 1 else f"{side.name} ({plural(side.runs, 'run')})"


def verdict(of: Comparison) -> Iterator[str]:
    """How many rows are what, and what is worse, in sentences."""
    said = [row.verdict for row in of.rows]
    counted = [(each, said.count(each)) for each in Verdict]
    counts = ", ".join(f"{count} {each}" for each, count in counted if count)
    yield f"{plural(len(of.rows), 'row')} compared" + (f": {counts}." if counts else ".")
    shown = [row.steadier.shows for row in of.rows if row.steadier and row.verdict is Verdict.SAME]
    if shown:
        yield (
            f"SAME is within noise: half of these rows would show {_percent(median(shown))} %, "
            f"the noisiest one {_percent(max(shown))} %."
        )
    smaller = sum(not size.worse for row in of.rows for size in row.sizes)
    if smaller:
        yield f"{plural(smaller, 'figure')} of error or memory smaller than before: see --all."
    if gone := sum(bool(row.gone) for row in of.rows):
        yield f"{plural(gone, 'row')} of which B does not say all that A says."
    if not of.rows:
        yield "The two have no row in common."
    elif not of.is_regression:
        yield "No regression."
    else:
        yield f"Regression: {'; '.join(_worse(of))}."


def _worse(of: Comparison) -> Iterator[str]:
    kinds = {
        "no longer right": sum(row.lost for row in of.rows),
        "that now fail": sum(row.fails for row in of.rows),
        "slower": sum(row.slower for row in of.rows),
        "with larger errors or more memory": sum(
            any(size.worse for size in row.sizes) for row in of.rows
        ),
    }
    yield from (f"{plural(count, 'row')} {kind}" for kind, count in kinds.items() if count)
    for each in of.slower_together:
        yield f"{each.name} together slower by {_percent(each.change.ratio - 1)} %"


def _statuses(of: Comparison, words: CaseWords) -> Table | None:
    rows = [row for row in of.rows if row.statuses[0] is not row.statuses[1]]
    if not rows:
        return None
    body = tuple(
        (*_who(row, words), *(x.value for x in row.statuses), _reason(row)) for row in rows
    )
    headers = (*_heads(words), "A", "B", "why")
    return Table("Not right on both sides", headers, body, len(headers))


def _reason(row: ComparedRow) -> str:
    records = row.before if row.won else row.after
    reason = next((" ".join(r.reason.split()) for r in records if r.status is not Status.OK), "")
    return reason if len(reason) <= 120 else f"{reason[:117]}..."


def _gone(of: Comparison, words: CaseWords) -> Table | None:
    body = tuple((*_who(row, words), ", ".join(row.gone)) for row in of.rows if row.gone)
    if not body:
        return None
    headers = (*_heads(words), "what")
    return Table("What A says and B does not", headers, body, len(headers))


def _sizes(of: Comparison, words: CaseWords, every: bool) -> Table | None:
    changed = [(row, size) for row in of.rows for size in row.sizes]
    changed.sort(key=lambda pair: not pair[1].worse)
    body = tuple(
        (*_who(row, words), size.what, *_of_size(size))
        for row, size in changed
        if every or size.worse
    )
    if not body:
        return None
    names = (*_heads(words), "what")
    headers = (*names, "A", "B", "change %")
    return Table("Errors and memory that are not the same", headers, body, len(names))


def _of_size(size: ChangedSize) -> tuple[str, str, str]:
    change = _signed(size.after / size.before - 1) if size.before else ""
    return digits(size.before, 4), digits(size.after, 4), change


def _times(of: Comparison, words: CaseWords, every: bool) -> Table | None:
    rows = [row for row in of.rows if row.times and (every or row.verdict is not Verdict.SAME)]
    if not rows:
        return None
    body = tuple(
        (time.verdict.value, *_who(row, words, how), digits(time.before), digits(time.after),
         *_cells(time))
        for row in rows
        for how, time in row.times.items()
    )  # fmt: skip
    names = ("time", *_heads(words))
    headers = (*names, "A ms", "B ms", "change %", "95 %", "shows %")
    remarks = [f"{_label(row)}: {sentence}." for row in rows for sentence in _explained(row)]
    what = "Times" if every else "Times that are not the same"
    least = ("shows %", "A ms", "B ms")
    return Table(what, headers, body, len(names), least=least, remarks=tuple(remarks))


def _explained(row: ComparedRow) -> tuple[str, ...]:
    return (*((f"auto took {row.took}",) if row.took else ()), *row.why)


def _cells(time: Medians) -> tuple[str, str, str]:
    if time.change is None:
        return _signed(time.after / time.before - 1) if time.before else "", "too few times", ""
    return _of_change(time.change)


def _of_change(change: Change) -> tuple[str, str, str]:
    between = f"{_signed(share(change.low))} to {_signed(share(change.high))}"
    return _signed(change.ratio - 1), between, _percent(change.shows)


def _together(of: Comparison) -> Table | None:
    if not of.together:
        return None
    headers = ("time", "rows of", "rows", "change %", "95 %", "shows %")
    body = tuple(_cells_together(each) for each in of.together)
    return Table("Times taken together", headers, body, 2)


def _cells_together(each: Together) -> tuple[str, ...]:
    return each.verdict.value, each.name, str(each.rows), *_of_change(each.change)


def _alone(name: str, keys: Sequence[Key]) -> Iterator[str]:
    yield f"Only in {name}: {plural(len(keys), 'row')}"
    yield from (f"  {' '.join(key)}" for key in keys[:_ALONE_SHOWN])
    if len(keys) > _ALONE_SHOWN:
        yield f"  {len(keys) - _ALONE_SHOWN} more"


def _label(row: ComparedRow) -> str:
    return " ".join(row.key)


def _heads(words: CaseWords) -> tuple[str, ...]:
    """Of what says which row it is: of one case alone nothing is said but above the tables."""
    return ("contestant", *(("case",) if words.varying else ()), "direction")


def _who(row: ComparedRow, words: CaseWords, how: str = "") -> tuple[str, ...]:
    record = row.before[0]
    case = (words.case(record.case),) if words.varying else ()
    called = ", ".join(filter(None, (record.direction.value, how)))
    return record.contestant.name, *case, called


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
