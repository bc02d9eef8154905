"""What became of one trial, and tuning.csv, which holds them all, raw times in its last columns."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Self

from pydantic import model_validator

from ring_attn_bench.contract.tunable import Kernel, Trial
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import DtypeName
from ring_attn_bench.records import files, sheets
from ring_attn_bench.records.statistics import median_interval
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Frozen, Text
from ring_attn_bench.text import shapes

MASKS = ("full", "causal")
PRODUCTS: dict[Kernel, int] = {"forward": 2, "backward_dq": 3, "backward_dkdv": 4}
"""Matrix products of a pair of query and key: q k and p v; q k, dp and dq; q k, dp, dv and dk."""

OUTPUTS: dict[Kernel, tuple[str, ...]] = {
    "forward": ("out", "lse"), "backward_dq": ("dq",), "backward_dkdv": ("dk", "dv"),
}  # fmt: skip
"""The results that each kernel writes, by name."""

RowKey = tuple[Kernel, str, int, DtypeName]


class TimedShape(Frozen):
    """What is timed: one sequence of `seqlen` tokens, with so many query and key heads."""

    seqlen: int = 16384
    heads_q: int = 16
    heads_kv: int = 4
    batch: int = 1

    @classmethod
    def of(cls, seqlen: int, heads: str) -> TimedShape:
        """heads: query and key heads in words, 16:4; raises InvalidArgument."""
        words = heads.split(":")
        if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
            raise InvalidArgument(
                f"heads are given as query heads : key heads, as 16:4 (got {heads!r})."
            )
        heads_q, heads_kv = map(int, words)
        if heads_q % heads_kv:
            raise InvalidArgument(
                f"query heads must be a multiple of the key heads (got {heads}); "
                f"{heads_kv * -(-heads_q // heads_kv)}:{heads_kv} would do."
            )
        return cls(seqlen=seqlen, heads_q=heads_q, heads_kv=heads_kv)

    def __str__(self) -> str:
        return f"{self.batch} x {self.seqlen} tokens, {shapes.heads(self.heads_q, self.heads_kv)}"


class TypedTrial(Frozen):
    """A trial in one of its dtypes."""

    trial: Trial
    dtype: DtypeName

    @property
    def row(self) -> RowKey:
        """The row of a table that it would stand in."""
        return self.trial.kernel, self.trial.table, self.trial.head_dim, self.dtype

    def __str__(self) -> str:
        trial = self.trial
        return f"{trial.table} {trial.kernel} {trial.head_dim} {self.dtype} {trial.config}"


class Provenance(Frozen):
    """Where something was found: the GPU or the CPU, and the versions of what ran on it."""

    backend: str
    version: str
    device: str
    torch: str
    triton: str
    commit: str


class Outcome(Frozen):
    """A status with its reason, and for a right trial the microseconds of each call."""

    subject: TypedTrial
    verdict: Status
    provenance: Provenance
    shape: TimedShape
    reason: Text = ""
    full: tuple[float, ...] = ()
    causal: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _only_what_is_right_has_a_speed(self) -> Self:
        if self.verdict is not Status.OK and (self.full or self.causal):
            raise ValueError(f"a trial that is {self.verdict.value} has no speed")
        return self

    @property
    def is_timed(self) -> bool:
        """Whether the trial has times."""
        return bool(self.full and self.causal)

    @property
    def mean(self) -> float:
        """Microseconds by which trials are compared: the geometric mean of both masks' medians."""
        return sqrt(median(self.full) * median(self.causal))

    def tflops(self, mask: str) -> float:
        """Useful ones: those of the kernel's own products over the pairs that the mask allows."""
        trial, shape, times = self.subject.trial, self.shape, self.times(mask)
        area = Band(low=0 if mask == "causal" else None).area(shape.seqlen, shape.seqlen)
        pairs = area * shape.batch * shape.heads_q
        return 2 * PRODUCTS[trial.kernel] * pairs * trial.head_dim / median(times) / 1e6

    def times(self, mask: str) -> tuple[float, ...]:
        """The microseconds of each call under one of MASKS."""
        return self.full if mask == "full" else self.causal


FIGURES = ("us", "low_us", "high_us", "min_us", "max_us", "tflops")
"""By mask: the median, its 95 % interval (all there is, below 6 rounds), all there is, the pace."""


def write(outcomes: Iterable[Outcome], path: Path) -> None:
    """Writes them all, in that order; raises FileError."""
    lines = [cells(outcome) for outcome in outcomes]
    files.write(path, sheets.text(tuple(lines[0]), ([*line.values()] for line in lines)))


def read(path: Path) -> tuple[Outcome, ...]:
    """The outcomes of such a file, or of the one in such a folder; raises FileError."""
    return sheets.values(path, "tuning.csv", "outcomes", _outcome)


def cells(outcome: Outcome) -> dict[str, str]:
    """An outcome's line; what follows from its other columns is there for readers only."""
    trial, shape = outcome.subject.trial, outcome.shape
    line = {
        "backend": outcome.provenance.backend, "kernel": trial.kernel, "table": trial.table,
        "head_dim": str(trial.head_dim), "dtype": outcome.subject.dtype, "config": trial.config,
        "shipped": "yes" if trial.shipped else "", "verdict": outcome.verdict.value,
        "reason": outcome.reason, "rounds": str(len(outcome.full) or ""),
    }  # fmt: skip
    for mask in MASKS:
        figures = _figures(outcome, mask) if outcome.is_timed else [""] * len(FIGURES)
        line |= {f"{mask}_{name}": text for name, text in zip(FIGURES, figures, strict=True)}
    line |= {name: str(value) for name, value in shape.model_dump().items()}
    line |= outcome.provenance.model_dump()
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
            "provenance": {name: line[name] for name in Provenance.model_fields},
            "shape": {name: line[name] for name in TimedShape.model_fields},
            "verdict": line["verdict"],
            "reason": line["reason"],
            **{mask: tuple(line[_raw(mask)].split()) for mask in MASKS},
        }
    )


def _raw(mask: str) -> str:
    return f"{mask}_all_us"
