"""A tuning run as a table for a terminal and a page: made from tuning.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ring_attn_bench.records import files
from ring_attn_bench.records.choices import choices
from ring_attn_bench.records.outcome import MASKS, Outcome
from ring_attn_bench.records.status import Status
from ring_attn_bench.text.table import WIDTH, Notes, Table, escape, fold

HEADERS = (
    "kernel", "D", "configuration", "shipped", "verdict",
    "full us", "causal us", "full TFLOP/s", "causal TFLOP/s",
)  # fmt: skip
PRODUCTS = (
    "us: the median of a kernel's launches; TFLOP/s: of its own matrix products (forward 2, "
    "backward_dq 3, backward_dkdv 4) over the pairs that the mask allows; fastest: by the "
    "geometric mean of full and causal."
)


def terminal(outcomes: Sequence[Outcome], width: int = WIDTH) -> str:
    """Tables at most that many columns wide, one for each dtype, and what to do with each row."""
    advice = [fold(line, width, subsequent_indent="    ") for line in _advice(outcomes)]
    return "\n\n".join([*(x.terminal(width) for x in tables(outcomes)), "\n".join(advice)])


def page(outcomes: Sequence[Outcome]) -> str:
    """The same as markdown, with where it was found."""
    place = outcomes[0].provenance
    where = f"{place.device}, torch {place.torch}, {place.version}, commit {place.commit or '?'}"
    parts = [
        f"# Tuning {escape(place.backend)}",
        f"{escape(where)}. The data, with every raw time, is in `tuning.csv`. {PRODUCTS}",
        *(table.markdown() for table in tables(outcomes)),
        "## What to do",
        "\n".join(f"- {escape(line)}" for line in _advice(outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def write_tuning(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Writes tuning.md into the folder."""
    path = folder / "tuning.md"
    files.write(path, page(outcomes))
    return path


def tables(outcomes: Sequence[Outcome]) -> tuple[Table, ...]:
    """One for each dtype, trials in their order."""
    dtypes = dict.fromkeys(x.subject.dtype for x in outcomes)
    return tuple(_table([x for x in outcomes if x.subject.dtype == dtype]) for dtype in dtypes)


def _table(outcomes: Sequence[Outcome]) -> Table:
    first, notes = outcomes[0], Notes()
    fastest = {x.fastest.subject for x in choices(outcomes) if x.fastest is not None}
    rows = tuple(_row(x, x.subject in fastest, notes) for x in outcomes)
    rounds = sorted({len(x.full) for x in outcomes if x.is_timed})
    measured = f"{first.shape}, {' to '.join(map(str, rounds[:1] + rounds[1:][-1:]))} rounds"
    what = measured if rounds else "no speed measured"
    where = first.provenance
    caption = f"{where.backend}, {first.subject.dtype}, {what}, {where.device}"
    table = Table(caption, HEADERS, rows, names=5, notes=notes.texts)
    return table if rounds else table.filled()


def _row(outcome: Outcome, is_fastest: bool, notes: Notes) -> tuple[str, ...]:
    trial = outcome.subject.trial
    verdict = f"{outcome.verdict.value}{', fastest' if is_fastest else ''}"
    times = [f"{median(outcome.times(x)):.0f}" if outcome.is_timed else "" for x in MASKS]
    paces = [f"{outcome.tflops(x):.0f}" if outcome.is_timed else "" for x in MASKS]
    return (
        f"{trial.table} {trial.kernel}",
        str(trial.head_dim),
        trial.config,
        "yes" if trial.shipped else "",
        f"{verdict} {notes.cite(outcome.reason)}".strip(),
        *times,
        *paces,
    )


def _advice(outcomes: Sequence[Outcome]) -> list[str]:
    return [choice.advice for choice in choices(outcomes)]


def shipped_failures(outcomes: Sequence[Outcome]) -> int:
    """How many shipped configurations are not right."""
    return sum(x.subject.trial.shipped and x.verdict is not Status.OK for x in outcomes)
