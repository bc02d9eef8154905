"""What is found out about a backend: a verdict and its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a backend fared with a feature, from the best to the worst."""

    OK = "ok"
    """It is right, forward or backward, in every case of the feature."""
    UNSUPPORTED = "unsupported"
    """It refuses the feature, or a case of it, with a reason: an answer, not a failure."""
    ERROR = "error"
    """It raised or crashed, or does not fit into memory."""
    TIMEOUT = "timeout"
    """It did not end within its time."""
    WRONG = "wrong"
    """It ran, and what it computed is not what was asked for."""

    @property
    def is_failure(self) -> bool:
        """Whether somebody has to mend something."""
        return self not in {Verdict.OK, Verdict.UNSUPPORTED}


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict and its reason: why it is not ok, or what else there is to say.

    declared: whether `unsupported` says so too, or the forms do; if not, it refused when called.
    """

    verdict: Verdict
    reason: str = ""
    declared: bool = True


def worst(answers: Iterable[Answer]) -> Answer:
    """The answer to a feature, from those to its cases: the first of the worst with most to say."""
    order = list(Verdict)

    def badness(answer: Answer) -> tuple[int, bool, bool]:
        return order.index(answer.verdict), not answer.declared, bool(answer.reason)

    return max(answers, key=badness)
