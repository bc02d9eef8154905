"""What rows are called: the contestant, and of the case what is not the same in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ring_attn_bench.records.record import Case
from ring_attn_bench.text import shapes
from ring_attn_bench.text.digits import tokens


@dataclass(frozen=True, slots=True)
class CaseWords:
    """shared: what all cases have in common, in words. varying: the names of what they have not."""

    shared: str
    varying: tuple[str, ...]

    @classmethod
    def of(cls, cases: Iterable[Case]) -> CaseWords:
        """The words for tables of these cases."""
        alike: dict[str, set[str]] = {}
        for case in cases:
            for name, word in _parts(case).items():
                alike.setdefault(name, set()).add(word)
        varying = tuple(name for name, words in alike.items() if len(words) > 1)
        fixed = [word for name, words in alike.items() for word in words if name not in varying]
        return cls(", ".join(filter(None, fixed)), varying)

    def case(self, case: Case) -> str:
        """What is this one's alone: 16K, causal."""
        parts = _parts(case)
        return ", ".join(filter(None, (parts[name] for name in self.varying)))


def _parts(case: Case) -> dict[str, str]:
    """By field, its word; those of the table first, in its order."""
    return {name: _word(case, name) for name in (*_WORDS, *_not_listed(case))}


def _not_listed(case: Case) -> Iterator[str]:
    return (name for name in type(case).model_fields if name not in _WORDS)


def _word(case: Case, name: str) -> str:
    if name in _WORDS:
        return _WORDS[name](case)
    is_required = type(case).model_fields[name].is_required()
    if not is_required and name not in case.extras:
        return ""
    value = getattr(case, name)
    return name if value is True else f"{name} {value}"


_WORDS: Mapping[str, Callable[[Case], str]] = {
    "seqlen_total": lambda case: f"{tokens(case.seqlen_per_gpu)} a rank",
    "world_size": lambda case: f"W = {case.world_size}",
    "batch": lambda case: shapes.batch(case.batch),
    "heads_q": lambda case: shapes.heads(case.heads_q, case.heads_kv),
    "heads_kv": lambda case: "",  # said with heads_q
    "head_dim": lambda case: shapes.head_dim(case.head_dim),
    "dtype": lambda case: case.dtype,
    "causal": lambda case: "causal" if case.causal else "full",
    "window": lambda case: shapes.window(*case.window),
    "softcap": lambda case: shapes.softcap(case.softcap),
    "cache": lambda case: "" if case.cache is None else ", ".join(case.cache.words),
}
"""Of a field that is not here the word is its name, with its value, unless that is the default."""
