"""What compilers made of a backend's kernels: facts that times depend on, for the records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast


@dataclass(frozen=True, slots=True)
class UsedKernel:
    """One compiled kernel that was launched.

    registers: of a thread. spilled: words of a thread that found no register. shared_bytes: of a
    program's shared memory. warps: of a program.
    """

    name: str
    registers: int
    spilled: int
    shared_bytes: int
    warps: int


class TellingBackend(Protocol):
    """A backend that knows what its compiler made of its kernels."""

    def kernels_used(self) -> tuple[UsedKernel, ...]:
        """Those that were launched since it was asked last; by name, each once."""
        ...


def kernels_used(backend: object) -> tuple[UsedKernel, ...]:
    """What such a backend says; nothing of any other."""
    if not callable(getattr(type(backend), "kernels_used", None)):
        return ()
    return cast("TellingBackend", backend).kernels_used()
