"""Packed documents on a ring, as a frozen value; torch is imported on use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ring_attn_bench.conformance.cases import Kind
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.contract.backend import Backend, reason_against
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.ring.schedules import Name


@dataclass(frozen=True)
class RingCase(PackedCase):
    """Packed documents that are dealt to ranks, all of which one process plays.

    partition: as `documents(...)` takes it. schedule: of the ring; `auto` is one launch over all
    documents where the backend has one. Where documents have other numbers of queries than of
    keys, both are dealt in the same way, and it is cross attention.
    """

    partition: str = "contiguous"
    ranks: int = 3
    schedule: Name = "auto"

    @property
    def kind(self) -> Kind[Any]:
        """Each rank's pass, one after the other."""
        from ring_attn_bench.conformance import dealt

        return dealt

    def problem(
        self, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> Problem:
        """Of the whole sequence: a ring gives its kernel blocks, and no documents packed."""
        whole = super().problem(device, deterministic=deterministic, backward=backward)
        return replace(whole, packed=False)

    def refusal(
        self, backend: Backend, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> str | None:
        """Why the backend is not asked to compute the case, or None."""
        problem = self.problem(device, deterministic=deterministic, backward=backward)
        if (reason := reason_against(backend, problem)) is not None:
            return reason
        parts = self.kind.parts(backend, self)
        return parts if isinstance(parts, str) else None
