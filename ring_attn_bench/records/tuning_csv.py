"""tuning.csv: a line for each trial, its raw times in the last columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from ring_attn_bench.errors import FileError, placed
from ring_attn_bench.records import files, sheets
from ring_attn_bench.records.outcome import MASKS, Outcome, Provenance, TimedShape
from ring_attn_bench.records.statistics import median_interval

FIGURES = ("us", "low_us", "high_us", "min_us", "max_us", "tflops")
"""By mask: the median, its 95 % interval (all there is, below 6 rounds), all there is, the pace."""


def write(outcomes: Iterable[Outcome], path: Path) -> None:
    """Writes them all, in that order; raises FileError."""
    lines = [cells(outcome) for outcome in outcomes]
    files.write(path, sheets.text(tuple(lines[0]), ([*line.values()] for line in lines)))


def read(path: Path) -> tuple[Outcome, ...]:
    """The outcomes of such a file, or of the one in such a folder; raises FileError."""
    path = path / "tuning.csv" if path.is_dir() else path
    outcomes = []
    for number, line in sheets.read(path):
        try:
            outcomes.append(_outcome(line))
        except KeyError as error:
            raise FileError(f"{path} is no tuning.csv: it has no column {error}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise FileError(
                f"{path} is no tuning.csv (line {number}: {placed(first['msg'], first['loc'])})."
            ) from None
    if not outcomes:
        raise FileError(f"{path} holds no outcomes.")
    return tuple(outcomes)


def cells(outcome: Outcome) -> dict[str, str]:
    """An outcome's line; what follows from its other columns is there for readers only."""
    trial, place, shape = outcome.subject.trial, outcome.place, outcome.shape
    line = {
        "backend": place.backend, "kernel": trial.kernel, "table": trial.table,
        "head_dim": str(trial.head_dim), "dtype": outcome.subject.dtype, "config": trial.config,
        "shipped": "yes" if trial.shipped else "", "verdict": outcome.verdict.value,
        "reason": outcome.reason, "rounds": str(len(outcome.full) or ""),
    }  # fmt: skip
    for mask in MASKS:
        figures = _figures(outcome, mask) if outcome.is_timed else [""] * len(FIGURES)
        line |= {f"{mask}_{name}": text for name, text in zip(FIGURES, figures, strict=True)}
    line |= {name: str(value) for name, value in shape.model_dump().items()}
    line |= place.model_dump()
    line |= {_raw(x): " ".join(f"{t:.2f}" for t in outcome.times(x)) for x in MASKS}
    return line


def _figures(outcome: Outcome, mask: str) -> list[str]:
    times = outcome.times(mask)
    low, high = median_interval(times) or (min(times), max(times))
    microseconds = (median(times), low, high, min(times), max(times))
    return [*(f"{t:.2f}" for t in microseconds), f"{outcome.tflops(mask):.1f}"]


def _outcome(line: dict[str, str]) -> Outcome:
    trial = {name: line[name] for name in ("kernel", "table", "head_dim", "config")}
    # a file does not say which other dtypes the row serves
    whole = {**trial, "shipped": line["shipped"] == "yes", "dtypes": (line["dtype"],)}
    return Outcome.model_validate(
        {
            "subject": {"trial": whole, "dtype": line["dtype"]},
            "place": {name: line[name] for name in Provenance.model_fields},
            "shape": {name: line[name] for name in TimedShape.model_fields},
            "verdict": line["verdict"],
            "reason": line["reason"],
            **{mask: tuple(line[_raw(mask)].split()) for mask in MASKS},
        }
    )


def _raw(mask: str) -> str:
    return f"{mask}_all_us"
