"""Our ring as a contestant: local shards in, out and gradients out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.bench.contestant import Gradients, Outputs, Refused, problem_of
from ring_attn_bench.bench.documents import dealt_of, rule_of
from ring_attn_bench.bench.inputs import Inputs, score_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.recorder import Recorder
from ring_attn_bench.bench.traced import TracedTransport, traced_job
from ring_attn_bench.contract.backend import Backend, is_interpreted, reason_against
from ring_attn_bench.contract.tensors import Kept, Rows
from ring_attn_bench.errors import BackendUnavailable, TransportUnavailable, Unsupported
from ring_attn_bench.plan.memory import ShardShape
from ring_attn_bench.plan.traffic import traffic
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.backend_choice import able
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.fastest import Known
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.handshake import Signature, agree
from ring_attn_bench.ring.jobs import jobs
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import layout_of, one_launch_is_ruled, settled
from ring_attn_bench.ring.transports.played import partner_of, played_part, played_plan
from ring_attn_bench.ring.transports.twin import Twin


@dataclass(frozen=True)
class RingRunner:
    """A kernel in our ring: one job for each rank that this process plays.

    transport: what keys travel by; None by loopback. took: the options without `auto`.
    greet: what ranks do before a forward pass, as calls with a handshake do.
    whole: of a larger ring that is played, the jobs of all its ranks.
    """

    jobs: tuple[Job, ...]
    transport: Transport | None
    took: RingOptions
    greet: Callable[[], object] | None = None
    whole: tuple[Job, ...] = ()
    _kept: list[Kept] = field(default_factory=list)
    """Of the last forward, for its backward, by rank."""

    @property
    def kernel(self) -> Backend:
        """The backend that the ring calls."""
        return self.jobs[0].backend

    @property
    def version(self) -> str:
        """The version of the kernel's package."""
        return self.kernel.version()

    @property
    def interpreted(self) -> bool:
        """Whether the kernel says so; most have no interpreter and nothing to say."""
        return is_interpreted(self.kernel)

    @property
    def capturable(self) -> bool:
        """A ring of processes that ask each other nothing first: a handshake is the host's."""
        return self.greet is None

    @property
    def allowed_pairs(self) -> list[int]:
        """From the plans; where a larger ring is played, of all its ranks."""
        return [job.plan.area for job in self.whole or self.jobs]

    @property
    def job(self) -> Job | None:
        """Of the one rank that is played here."""
        return self.jobs[0] if len(self.jobs) == 1 else None

    def link_bytes(self, case: Case, direction: Direction) -> int | None:
        """From the plans."""
        if self.transport is None or self.jobs[0].plan.world_size == 1:
            return None
        element = getattr(torch, case.dtype).itemsize
        moved = (
            traffic(
                job.plan,
                ShardShape(
                    case.batch, case.heads_q, case.heads_kv, case.head_dim, case.head_dim,
                    element, travels=job.gradients.itemsize,
                ),
                forward=direction is not Direction.BACKWARD,
                backward=direction is not Direction.FORWARD,
                keeps=self.took.keep_keys,
            )
            for job in self.whole or self.jobs
        )  # fmt: skip
        return max(of_rank.busier for of_rank in moved)

    def twin(self) -> RingRunner | None:
        """The same launches on keys from a local buffer; None where no keys travel."""
        if self.transport is None or self.jobs[0].plan.world_size == 1:
            return None
        # one twin for all passes: it keeps its buffer
        return RingRunner(self.jobs, Twin(), self.took)

    def traced(self, recorder: Recorder[Any]) -> RingRunner | None:
        """The same, whose calls are recorded; None by loopback, whose ranks take turns."""
        if self.transport is None:
            return None
        of_ranks = tuple(traced_job(job, recorder) for job in self.jobs)
        return replace(self, jobs=of_ranks, transport=TracedTransport(self.transport, recorder))

    def forward(self, shards: Sequence[Inputs]) -> list[Outputs]:
        """out and lse of every rank played here."""
        tensors = [(x.q, x.keys) for x in shards]
        if self.greet is not None:
            self.greet()
        if not self.took.keep_keys:
            if self.transport is None:
                return [*passes.loopback_forward(self.jobs, tensors)]
            return [passes.forward(self.jobs[0], self.transport, *tensors[0])]
        if self.transport is None:
            ran = passes.loopback_forward_keeping(self.jobs, tensors)
        else:
            ran = [passes.forward_keeping(self.jobs[0], self.transport, *tensors[0])]
        self._kept[:] = [kept for _, kept in ran]
        return [results for results, _ in ran]

    def backward(self, shards: Sequence[Inputs], outputs: Sequence[Outputs]) -> list[Gradients]:
        """dq, dk, dv of every rank played here."""
        tensors = [
            (Rows(x.q, x.dout, out, _given(lse)), x.keys)
            for x, (out, lse) in zip(shards, outputs, strict=True)
        ]
        if self.transport is None:
            return [*passes.loopback_backward(self.jobs, tensors, self._kept or None)]
        kept = self._kept[0] if self._kept else None
        return [passes.backward(self.jobs[0], self.transport, *tensors[0], kept=kept)]


def _given(lse: Tensor | None) -> Tensor:
    assert lse is not None  # our ring always has one
    return lse


def load_backend(name: str, case: Case, device: torch.device, *, backward: bool) -> Backend:
    """The backend, if it can run the case; raises Refused with its reason."""
    try:
        backend = registry.load(name)
    except BackendUnavailable as error:
        raise Refused(error.reason) from None
    problem = problem_of(case, device, backward=backward)
    reason = reason_against(backend, problem)
    if reason is not None:
        raise Refused(reason)
    return backend


def make(
    case: Case, spec: Contestant, place: WorkerPlace, context: RingContext | None, *, backward: bool
) -> RingRunner:
    """The contestant on this process; raises Refused with the backend's or the plan's reason."""
    options, world_size = spec.options, place.world_size
    assert options is not None  # a peer's are
    backend = load_backend(spec.backend, case, place.device, backward=backward)
    problem = problem_of(case, place.device, backward=backward)
    dealt = dealt_of(case, spec.partition)
    apart = None if dealt is None else dealt.apart
    if apart is not None and spec.playing:
        raise Refused(
            "packed documents are not played by fewer processes than ranks: what a rank is owed is "
            "not what its partner owes"
        )
    blocks, known = able(backend, problem, documents=apart is not None), None
    where = rule_of(case, spec.partition), world_size, case.seqlen_per_gpu, problem.mask
    arrives = context is not None and context.arrives
    waits = one_launch_is_ruled(blocks, *where[:3], arrives=arrives, documents=apart is not None)
    if context is not None and apart is None:  # figures are of one sequence
        ring = {"gpu": context.gpu, "kernel": backend.name, "transport": context.transport}
        known = Known.of(problem, options, blocks, **ring)
    took = settled(*where, options, waits=waits, known=known, documents=apart)
    layout = layout_of(*where, took, documents=apart)
    ranks = range(world_size) if spec.playing else place.ranks
    hands_on = context is None or context.hands_on
    try:
        of_ranks = jobs(problem, layout, backend, score_of(case), options, ranks, hands_on=hands_on)
    except Unsupported as error:
        raise Refused(error.reason) from None
    if context is None:
        return RingRunner(of_ranks, None, took)
    took = replace(took, transport=context.transport)
    greet = None
    if options.handshake:  # `None` is no here: the harness tells all ranks alike
        device = context.message_device(place.device)
        greet = partial(agree, context.group, device, Signature.of({}, {"case": case.name}))
    if not spec.playing:
        return RingRunner(of_ranks, context, took, greet)
    transport = context.played(played_part(place.process, spec.playing, world_size))
    if transport is None:
        raise Refused(f"transport {took.transport!r} cannot play ranks of a larger ring")
    own, partner = (of_ranks[spec.playing[at]] for at in (place.process, partner_of(place.process)))
    own = replace(own, plan=played_plan(own.plan, partner.plan))
    return RingRunner((own,), transport, took, greet, of_ranks)


class Contexts:
    """The rings of this worker group, one for all contestants with the same options."""

    def __init__(self, place: WorkerPlace) -> None:
        self._place = place
        self._rings: dict[RingOptions, RingContext] = {}

    def of(self, spec: Contestant) -> RingContext | None:
        """The context for a contestant, a peer's too, made when first needed; none by loopback.

        Raises Refused, on all ranks, where its transport cannot serve them or its options.
        """
        if spec.played == "loopback":
            return None
        if spec.playing and spec.options is None:
            raise Refused(
                f"somebody else's ring cannot be played on fewer processes than its "
                f"{self._place.world_size} ranks: nobody knows what it sends; only ours can"
            )
        options = spec.options or RingOptions()
        if options not in self._rings:
            self._rings[options] = _context(options)
        return self._rings[options]


@contextmanager
def new_context(spec: Contestant) -> Iterator[RingContext | None]:
    """A context for this contestant alone, as `Contexts.of` has it, closed at the end."""
    if spec.played == "loopback":
        yield None
        return
    with _context(spec.options or RingOptions()) as context:
        yield context


def _context(options: RingOptions) -> RingContext:
    try:
        return RingContext(options=options)
    except (TransportUnavailable, Unsupported) as error:
        raise Refused(f"transport {options.transport!r}: {error.reason}") from None
