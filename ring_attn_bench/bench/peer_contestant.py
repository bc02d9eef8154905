"""Somebody else's whole ring as a contestant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ring_attn_bench import registry
from ring_attn_bench.bench import packed_peer
from ring_attn_bench.bench.contestant import Gradients, Outputs, Refused, problem_of
from ring_attn_bench.bench.documents import dealt_of
from ring_attn_bench.bench.inputs import Inputs
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.recorder import Recorder
from ring_attn_bench.contract.backend import Backend, as_reason, is_interpreted, reason_against
from ring_attn_bench.contract.peer import Peer, PeerRing, is_capturable
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.context import RingContext


@dataclass(frozen=True)
class PeerRunner:
    """A peer's ring: one rank for each process, forward as in training, backward by autograd."""

    peer: Peer
    ring: PeerRing
    kernel: Backend | None
    differentiable: bool
    context: RingContext
    """Whose communicator the ring runs on: with the context it would go."""

    took = None
    job = None
    allowed_pairs = None  # what a peer launches is its own affair, and not guessed

    @property
    def interpreted(self) -> bool:
        """Whether its kernel, where that is one of ours, says so."""
        return is_interpreted(self.kernel)

    @property
    def capturable(self) -> bool:
        """Whether the peer says so."""
        return is_capturable(self.peer)

    @property
    def version(self) -> str:
        """The version of the peer's package."""
        return self.peer.version()

    def link_bytes(self, case: Case, direction: Direction) -> None:
        """None: nobody knows."""

    def twin(self) -> None:
        """None: its communication cannot be taken out."""

    def traced(self, recorder: Recorder[Any]) -> None:
        """None: nobody knows where its launches are."""

    def forward(self, shards: Sequence[Inputs]) -> list[Outputs]:
        """out and, if the peer gives it, lse."""
        (x,) = shards
        for tensor in (x.q, x.k, x.v):
            tensor.requires_grad_(self.differentiable)
        with self.ring.settings():
            return [self.ring.forward(x.q, x.k, x.v)]

    def backward(self, shards: Sequence[Inputs], outputs: Sequence[Outputs]) -> list[Gradients]:
        """By autograd, which keeps its graph, so that a backward can be run again alone."""
        ((x,), ((out, _),)) = shards, outputs
        with self.ring.settings():
            dq, dk, dv = torch.autograd.grad(out, (x.q, x.k, x.v), x.dout, retain_graph=True)
        return [(dq, dk, dv)]


def make(
    case: Case, spec: Contestant, place: WorkerPlace, context: RingContext | None, *, backward: bool
) -> PeerRunner:
    """The contestant on this process; raises Refused with the peer's reason."""
    problem = problem_of(case, place.device, backward=backward)
    try:
        peer = registry.load_peer(spec.backend)
    except BackendUnavailable as error:
        raise Refused(error.reason) from None
    dealt = dealt_of(case, spec.partition)
    if dealt is None:
        reason = as_reason(peer.unsupported(problem, spec.partition, place.world_size))
    else:
        reason = packed_peer.reason_against(peer, problem, dealt)
    if reason is not None:
        raise Refused(reason)
    if context is None:
        raise Refused("somebody else's ring runs a process for each rank, and not by loopback")
    # our ring's communicator, so that neither has to share one with anything else
    if dealt is None:
        ring = peer.join(problem, spec.partition, context.group)
    else:
        ring = packed_peer.join(peer, problem, dealt, context.group)
    return PeerRunner(peer, ring, _kernel(peer.kernel, problem), backward, context)


def _kernel(name: str | None, problem: Problem) -> Backend | None:
    """The backend of that name, if it is here and can run the problem."""
    if name is None or name not in registry.backends():
        return None
    try:
        backend = registry.load(name)
    except BackendUnavailable:
        return None
    return backend if reason_against(backend, problem) is None else None
