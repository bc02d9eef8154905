"""A backend whose kernels can be compiled before anybody calls them: `ring-attn-bench compile`.

Its class is asked: to make a backend is to want to run it, and may need a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast


@dataclass(frozen=True, slots=True)
class CompiledAhead:
    """One kernel. name: what it is for; seconds: None where it was there already."""

    name: str
    seconds: float | None


class AheadBackend(Protocol):
    """A backend's class that keeps what is compiled, and needs no GPU to compile it.

    The two are class methods.

    architectures: for which, as `sm_90a`.
    """

    architectures: tuple[str, ...]

    def kernels_ahead(self, architecture: str) -> int:
        """How many kernels calls may ask for there."""
        ...

    def compile_ahead(self, architecture: str, jobs: int) -> Iterator[CompiledAhead]:
        """Compiles them, `jobs` at a time; each when it is done. Raises BackendUnavailable: at once
        where there is no compiler, later where it fails."""
        ...


def ahead(kind: type) -> AheadBackend | None:
    """The backend's class, if it can."""
    names = "kernels_ahead", "compile_ahead"
    has = all(callable(getattr(kind, name, None)) for name in names)
    return cast("AheadBackend", kind) if has else None
