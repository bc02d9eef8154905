"""Our ring as a contestant: local shards in, out and gradients out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.backend import Backend, abilities
from ring_attn_bench.bench.contestant import Gradients, Outputs, Refused, problem_of
from ring_attn_bench.bench.inputs import Inputs, dtype_of, mask_of, score_of
from ring_attn_bench.bench.place import Place
from ring_attn_bench.bench.record import Case, Contestant
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.partition import get_partition
from ring_attn_bench.plan import Layout, plans
from ring_attn_bench.ring import run
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.ring.transports.twin import Twin
from ring_attn_bench.tensors import Rows


@dataclass(frozen=True)
class RingContestant:
    """A kernel in our ring: one job for each rank that this process plays.

    transport: what keys travel by; None by loopback.
    """

    jobs: tuple[Job, ...]
    transport: Transport | None

    @property
    def kernel(self) -> Backend:
        """The one in the ring."""
        return self.jobs[0].backend

    @property
    def version(self) -> str:
        """The kernel's."""
        return self.kernel.version()

    @property
    def interpreted(self) -> bool:
        """Whether the kernel says so; most have no interpreter and nothing to say."""
        ask: Callable[[], bool] = getattr(self.kernel, "interpreted", lambda: False)
        return ask()

    @property
    def areas(self) -> list[int]:
        """From the plans."""
        return [job.plan.area for job in self.jobs]

    def twin(self) -> RingContestant | None:
        """The same launches on keys from a local buffer; None where no keys travel."""
        if self.transport is None or self.jobs[0].plan.world_size == 1:
            return None
        return RingContestant(self.jobs, Twin())  # one for all passes: it keeps its buffer

    def forward(self, shards: Sequence[Inputs]) -> list[Outputs]:
        """out and lse of every rank played here."""
        tensors = [(x.q, x.keys) for x in shards]
        if self.transport is None:
            return [*run.loopback_forward(self.jobs, tensors)]
        return [run.forward(self.jobs[0], self.transport, *tensors[0])]

    def backward(self, shards: Sequence[Inputs], outputs: Sequence[Outputs]) -> list[Gradients]:
        """dq, dk, dv of every rank played here."""
        tensors = [
            (Rows(x.q, x.dout, out, _given(lse)), x.keys)
            for x, (out, lse) in zip(shards, outputs, strict=True)
        ]
        if self.transport is None:
            return [*run.loopback_backward(self.jobs, tensors)]
        return [run.backward(self.jobs[0], self.transport, *tensors[0])]


def _given(lse: Tensor | None) -> Tensor:
    assert lse is not None  # our ring always has one
    return lse


def load_backend(name: str, case: Case, device: torch.device, *, backward: bool) -> Backend:
    """The backend, if it can run the case; raises Refused with its reason."""
    try:
        backend = registry.load(name)
    except BackendUnavailable as error:
        raise Refused(error.reason) from None
    reason = backend.unsupported(problem_of(case, device, backward=backward))
    if reason is not None:
        raise Refused(reason)
    return backend


def make(
    case: Case, spec: Contestant, place: Place, context: RingContext | None, *, backward: bool
) -> RingContestant:
    """The contestant on this process; raises Refused with the backend's or the plan's reason."""
    backend = load_backend(spec.backend, case, place.device, backward=backward)
    partition, mask = get_partition(spec.partition), mask_of(case)
    tokens = partition.tokens_per_rank(case.seqlen_total, place.world_size)
    layout = Layout(partition, place.world_size, tokens, mask.band, spec.slots)
    dtype = dtype_of(case)
    wide = torch.promote_types(dtype, torch.float32)
    lowered = plans(layout, abilities(backend, alibi=False))
    if isinstance(lowered, str):
        raise Refused(f"a mask '{mask}' on partition {partition.name!r}: {lowered}")
    travel = dtype if spec.gradients == "input" else wide
    jobs = tuple(
        Job(lowered[rank], backend, score_of(case), travel, case.deterministic)
        for rank in place.ranks
    )
    return RingContestant(jobs, context)


class Contexts:
    """The ring of this worker group, made at the first contestant that needs it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._ring: RingContext | None = None

    def of(self, spec: Contestant) -> RingContext | None:
        """The context for a contestant's transport: none by loopback."""
        if spec.transport == "loopback":
            return None
        if self._ring is None:
            self._ring = RingContext()
        return self._ring
