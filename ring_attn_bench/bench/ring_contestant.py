"""Our ring as a contestant: local shards in, out and gradients out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.backend import Backend, abilities
from ring_attn_bench.bench.inputs import Inputs, dtype_of, mask_of, score_of
from ring_attn_bench.bench.place import Place
from ring_attn_bench.bench.record import Case, Contestant
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.partition import get_partition
from ring_attn_bench.plan import Layout, plans
from ring_attn_bench.problem import Problem
from ring_attn_bench.ring import run
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.transports.twin import TwinLink

Outputs = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor]


class Refused(Exception):
    """A contestant cannot run a case; the text is the reason."""


@dataclass(frozen=True)
class RingContestant:
    """A kernel in our ring: one job for each rank that this process plays."""

    jobs: tuple[Job, ...]
    context: RingContext | None
    """None by loopback."""
    twin: TwinLink

    def forward(self, shards: Sequence[Inputs], *, twin: bool = False) -> list[Outputs]:
        """out and lse of every rank played here."""
        qkv = [(x.q, x.k, x.v) for x in shards]
        if self.context is None:
            return run.loopback_forward(self.jobs, qkv)
        link = self.twin if twin else self.context.link()
        return [run.forward(self.jobs[0], link, *qkv[0])]

    def backward(
        self, shards: Sequence[Inputs], outputs: Sequence[Outputs], *, twin: bool = False
    ) -> list[Gradients]:
        """dq, dk, dv of every rank played here."""
        tensors = [
            (x.dout, x.q, x.k, x.v, *result) for x, result in zip(shards, outputs, strict=True)
        ]
        if self.context is None:
            return run.loopback_backward(self.jobs, tensors)
        link = self.twin if twin else self.context.link()
        return [run.backward(self.jobs[0], link, *tensors[0])]


def problem_of(case: Case, device: torch.device, *, backward: bool) -> Problem:
    """The case as a backend is asked about it."""
    return Problem(
        batch=case.batch,
        seqlen=case.seqlen_total,
        heads_q=case.heads_q,
        heads_kv=case.heads_kv,
        head_dim=case.head_dim,
        head_dim_v=case.head_dim,
        dtype=case.dtype,  # type: ignore[arg-type]  # the suite has checked it
        device="cuda" if device.type == "cuda" else "cpu",
        mask=mask_of(case),
        softcap=case.softcap,
        deterministic=case.deterministic,
        backward=backward,
    )


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
    return RingContestant(jobs, context, TwinLink())


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
