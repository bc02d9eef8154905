"""What records say that may be why a row changed: other kernels by the compiler, GPUs held back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.record import Record


def why(before: Sequence[Record], after: Sequence[Record]) -> tuple[str, ...]:
    """Sentences without their stop; each side has the records of that row, one of each run."""
    return (*_kernels(before, after), *_suspicions("A", before), *_suspicions("B", after))


def _kernels(before: Sequence[Record], after: Sequence[Record]) -> Iterator[str]:
    """Those of both sides that are no longer what they were."""
    old, new = _by_name(before), _by_name(after)
    for name in sorted(old.keys() & new.keys()):
        was, now = old[name] - new[name], new[name] - old[name]
        if was and now:
            yield f"{name} had {_said(was)}, and has {_said(now)}"


def _by_name(records: Sequence[Record]) -> dict[str, set[UsedKernel]]:
    by_name: dict[str, set[UsedKernel]] = {}
    for record in records:
        for kernel in record.kernels:
            by_name.setdefault(kernel.name, set()).add(kernel)
    return by_name


def _said(kernels: set[UsedKernel]) -> str:
    words = (
        f"{one.registers} registers, {one.spilled} spilled words and {one.warps} warps"
        for one in kernels
    )
    return " or ".join(sorted(words))


def _suspicions(side: str, records: Sequence[Record]) -> Iterator[str]:
    sentences = (x for record in records if record.gpus for x in record.gpus.suspicions)
    yield from (f"in {side}, {sentence}" for sentence in dict.fromkeys(sentences))
