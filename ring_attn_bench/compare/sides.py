"""What is compared: the records of one side, which may be several runs of the same program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.json_lines import Tell
from ring_attn_bench.records.record import Record, read

Key = tuple[str, str, str]
"""Case, contestant and direction: what was measured, whenever and by whichever program."""

_OURS = ("commit", "dirty")
_SAYS_WHAT_RAN = (
    *_OURS, "gpu", "gpu_count", "driver", "torch", "cuda", "triton", "nccl", "cudnn",
    "flash_attn", "flash_attn_3", "flash_attn_4", "nvidia_cutlass_dsl", "ring_flash_attn",
    "yunchang", "flag_gems", "python", "cpu", "cpu_count",
)  # fmt: skip
_NOTHING = "none"
_CARDS = "gpu_cards"
_SINCE_THEN = ("ptxas", "gpu_most_watts", "gpu_most_sm_mhz", _CARDS)
"""Also, where both sides say it: older records do not."""


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """name: what the person called it. records: by key, one of each run that has it."""

    name: str
    runs: int
    records: Mapping[Key, tuple[Record, ...]]


def side(name: str, paths: Sequence[Path], tell: Tell = lambda sentence: None) -> ComparedSide:
    """The records of these files, one file for each run; raises FileError where there are none.

    Of a row that one run has twice, as a resumed one may, the last counts.
    """
    runs = [{record.key: record for record in read(path, tell)} for path in paths]
    if not any(runs):
        raise FileError(f"{name} holds no records; nothing has been measured there yet.")
    keys = dict.fromkeys(key for run in runs for key in run)
    return ComparedSide(
        name, len(runs), {key: tuple(run[key] for run in runs if key in run) for key in keys}
    )


def worst(records: Iterable[Record]) -> Record:
    """That of the worst status: a row is right where it was right in every run."""
    return max(records, key=lambda record: record.status.badness)


def differences(before: ComparedSide, after: ComparedSide) -> tuple[str, ...]:
    """What is not the same of programs and machines, in words: `triton 3.6.0 -> 3.7.0`."""
    differing = _differing(before, after)
    kernels = _kernels_differing(before, after, list(differing.values()))
    said = [*differing.items(), *((f"backend {name}", both) for name, both in kernels.items())]
    return tuple(f"{name} {old} -> {new}" for name, (old, new) in said)


def only_ours_differs(before: ComparedSide, after: ComparedSide) -> bool:
    """Whether other people's rings are the same programs on the same machine."""
    return _differing(before, after).keys() <= set(_OURS)


def other_cards(before: ComparedSide, after: ComparedSide) -> bool:
    """Whether both sides say which GPUs they had, and had others, or one more often than another:
    of five runs each, two sides may have the same two GPUs, but not as often."""
    if _NOTHING in (_values(before, _CARDS), _values(after, _CARDS)):
        return False
    return _how_often(before) != _how_often(after)


def _how_often(of: ComparedSide) -> dict[str, Fraction]:
    """By its GPUs, the share of a side's records."""
    counts = Counter(
        _word(record.environment.get(_CARDS)) for each in of.records.values() for record in each
    )
    return {cards: Fraction(count, counts.total()) for cards, count in counts.items()}


def _differing(before: ComparedSide, after: ComparedSide) -> dict[str, tuple[str, str]]:
    pairs = {name: (_values(before, name), _values(after, name)) for name in _SAYS_WHAT_RAN}
    newer = {name: (_values(before, name), _values(after, name)) for name in _SINCE_THEN}
    pairs |= {name: both for name, both in newer.items() if _NOTHING not in both}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _kernels_differing(
    before: ComparedSide, after: ComparedSide, said: Sequence[tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """By backend, what it called its version, where both sides say so and not the same, and no
    package that is named already explains it: two builds of a third party's kernel."""
    old, new = _kernels(before), _kernels(after)
    pairs = {name: (old[name], new[name]) for name in old if name in new}
    return {
        name: (a, b)
        for name, (a, b) in pairs.items()
        if a != b and not any(was in a and a.replace(was, became) == b for was, became in said)
    }


def _kernels(of: ComparedSide) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for records in of.records.values():
        for record in records:
            if record.backend_version:
                found.setdefault(record.contestant.backend, set()).add(record.backend_version)
    return {name: " / ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _values(of: ComparedSide, name: str) -> str:
    words = {
        _word(record.environment.get(name)) for records in of.records.values() for record in records
    }
    return " / ".join(sorted(words))


def _word(value: object) -> str:
    text = _NOTHING if value in (None, "") else str(value)
    return text[:10] if len(text) == 40 else text  # a commit
