"""Somebody else's ring of packed documents: whether it can be asked, and its part on this rank."""

from __future__ import annotations

import torch.distributed as dist

from ring_attn_bench.contract.backend import as_reason
from ring_attn_bench.contract.peer import Peer, PeerRing, of_documents
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.problem import Problem


def reason_against(peer: Peer, problem: Problem, documents: DealtDocuments) -> str | None:
    """Why the peer cannot be asked about these documents, or None."""
    packed = of_documents(peer)
    if packed is None:
        return "its ring takes one sequence, and no packed documents"
    answer = packed.documents_unsupported(problem, documents)
    return as_reason(answer, "documents_unsupported")


def join(
    peer: Peer, problem: Problem, documents: DealtDocuments, group: dist.ProcessGroup
) -> PeerRing:
    """The ring of a peer that there is no reason against."""
    packed = of_documents(peer)
    assert packed is not None  # as `reason_against` has asked
    return packed.join_documents(problem, documents, group)
