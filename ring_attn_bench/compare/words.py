"""What rows are called: the contestant, and of the case what is not the same in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ring_attn_bench.records.record import Case
from ring_attn_bench.text.digits import tokens


@dataclass(frozen=True, slots=True)
class CaseWords:
    """shared: what all cases have in common, in words. varying: the names of what they have not."""

    shared: str
    varying: tuple[str, ...]

    @classmethod
    def of(cls, cases: Iterable[Case]) -> CaseWords:
        """For tables of these cases."""
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
    left, right = ("all" if size < 0 else str(size) for size in case.window)
    return {
        "tokens": f"{tokens(case.seqlen_per_gpu)} a GPU",
        "ranks": f"W = {case.world_size}",
        "batch": f"batch {case.batch}",
        "heads": f"{case.heads_q}:{case.heads_kv} heads",
        "head_dim": f"heads of {case.head_dim}",
        "dtype": case.dtype,
        "mask": "causal" if case.causal else "full",
        "window": f"window {left}-{right}" if case.window != (-1, -1) else "",
        "softcap": f"softcap {case.softcap:g}" if case.softcap else "",
        "deterministic": "deterministic" if case.deterministic else "",
    }
