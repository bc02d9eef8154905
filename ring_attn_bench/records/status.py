"""How something ended: one vocabulary for what is measured, asked and tuned."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """From the best to the worst."""

    OK = "ok"
    """It is right in all that was looked at."""
    UNSUPPORTED = "unsupported"
    """It refused, with a reason: an answer, not a failure."""
    OOM = "oom"
    """It did not fit into memory: an answer, not a failure."""
    ERROR = "error"
    """It raised or crashed."""
    TIMEOUT = "timeout"
    """It did not end within its time."""
    WRONG = "wrong"
    """It ran, and a result is further from the float64 oracle than the tolerance allows."""

    @property
    def is_failure(self) -> bool:
        """Whether somebody has to mend something."""
        return self in {Status.WRONG, Status.ERROR, Status.TIMEOUT}

    @property
    def badness(self) -> int:
        """Larger for what is worse."""
        return list(Status).index(self)
