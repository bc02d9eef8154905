"""What a backend answers to a feature, or to a case of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ring_attn_bench.records.status import Status


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and its reason: why it is not ok, or what else there is to say.

    declared: whether `unsupported` says so too, or the forms do; if not, it refused when called.
    """

    status: Status
    reason: str = ""
    declared: bool = True


def worst(answers: Iterable[Answer]) -> Answer:
    """The answer to a feature, from those to its cases: the first of the worst with most to say."""
    return max(answers, key=lambda x: (x.status.badness, not x.declared, bool(x.reason)))
