"""What is run of an attention function."""

from __future__ import annotations

from enum import StrEnum


class Direction(StrEnum):
    """What was run: out from q, k, v; the gradients from dout; or both in one go."""

    FORWARD = "forward"
    BACKWARD = "backward"
    FORWARD_BACKWARD = "forward_backward"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The results that this direction gives."""
        forward, backward = ("out", "lse"), ("dq", "dk", "dv")
        return {
            Direction.FORWARD: forward,
            Direction.BACKWARD: backward,
            Direction.FORWARD_BACKWARD: forward + backward,
        }[self]


DIRECTIONS = (Direction.FORWARD, Direction.BACKWARD)
"""Those that a backend is asked about, one by one."""
