"""Packed documents on a ring: every rank's pass by loopback, and the whole put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ring_attn_bench.conformance import packed
from ring_attn_bench.conformance.expected import Expected
from ring_attn_bench.conformance.inputs import CaseTensors
from ring_attn_bench.conformance.on_ring import RingCase
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.document_sharding import dealt_documents
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.layout import Queries
from ring_attn_bench.plan.lower import Cut
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.backend_choice import able
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.jobs import jobs
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import laid_out, one_launch_is_ruled, settled


def inputs(case: RingCase, device: str) -> CaseTensors:
    """Normal random values of the whole sequence."""
    return packed.inputs(case, device)


def expected(case: RingCase, device: str, keep: Tensor | None = None) -> Expected:
    """What is right for each document by itself, which knows of no ranks."""
    return packed.expected(case, device, keep)


def parts(backend: Backend, case: RingCase) -> tuple[Cut, ...] | str:
    """None, for a ring cuts as it pleases; or why the backend cannot be given its blocks."""
    try:
        _Ring.of(backend, case, "cpu")
    except Unsupported as error:
        return error.reason
    return ()


def two_blocks(case: RingCase) -> tuple[Cut, ...]:
    """Never asked for: only a block is cut into two."""
    return packed.two_blocks(case)


def forward(
    backend: Backend, case: RingCase, data: CaseTensors, parts: tuple[Cut, ...]
) -> dict[str, Tensor]:
    """out (T, H, D) and lse (H, T) of all ranks."""
    ring = _Ring.of(backend, case, data.q.device.type)
    shards = [(q, keys) for q, keys in zip(ring.rows.deal(data.q), ring.dealt(data), strict=True)]
    poison(data.q.device.type, (data.q, data.k))
    results = passes.loopback_forward(ring.jobs, shards)
    out, lse = zip(*results, strict=True)
    return {
        "out": ring.rows.joined(out),
        "lse": ring.rows.joined([x.mT for x in lse]).mT.contiguous(),
    }


def backward(
    backend: Backend, case: RingCase, data: CaseTensors, out: Tensor, lse: Tensor,
    parts: tuple[Cut, ...], *, deterministic: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """dq, dk, dv of all ranks."""
    ring = _Ring.of(backend, case, data.q.device.type, deterministic=deterministic)
    # rows of padding see nothing
    lses = [x.mT.contiguous() for x in ring.rows.deal(lse.mT, padding=float("-inf"))]
    of_rows = zip(*(ring.rows.deal(x) for x in (data.q, data.dout, out)), lses, strict=True)
    shards = [(Rows(*rows), keys) for rows, keys in zip(of_rows, ring.dealt(data), strict=True)]
    poison(data.q.device.type, (data.q, *data.keys))
    sums = zip(*passes.loopback_backward(ring.jobs, shards, None), strict=True)
    sides = ring.rows, ring.keys, ring.keys
    joined = [side.joined(x) for side, x in zip(sides, sums, strict=True)]
    return dict(zip(("dq", "dk", "dv"), joined, strict=True))


def kept(backend: Backend, case: RingCase, device: str) -> None:
    """As of packed documents: none is judged with dropout."""


def kept_faults(backend: Backend, case: RingCase, device: str, keep: Tensor) -> list[str]:
    """No dropout mask is there to judge."""
    return []


@dataclass(frozen=True)
class _Side:
    """Queries or keys of all documents, and who holds them."""

    documents: DealtDocuments

    def deal(self, x: Tensor, padding: float = 0.0) -> list[Tensor]:
        """x (T, ...) as every rank's (1, tokens, ...), with that much padding behind all of it."""
        whole = self.documents.world_size * self.documents.tokens
        behind = x.new_full((whole - len(x), *x.shape[1:]), padding)
        x = torch.cat([x, behind])
        return [x[at][None] for at in self._places(x.device)]

    def joined(self, shards: Sequence[Tensor]) -> Tensor:
        """The whole sequence (T, ...) again, without padding."""
        places = torch.cat(self._places(shards[0].device))
        return torch.cat([x[0] for x in shards])[places.argsort()][: self.documents.starts[-1]]

    def _places(self, device: torch.device) -> list[Tensor]:
        ranks = range(self.documents.world_size)
        spans = ([at for s in self.documents.spans(rank) for at in s.positions()] for rank in ranks)
        return [torch.tensor(places, device=device) for places in spans]


@dataclass(frozen=True)
class _Ring:
    """What all ranks do."""

    rows: _Side
    keys: _Side
    jobs: tuple[Job, ...]

    @classmethod
    def of(
        cls, backend: Backend, case: RingCase, device: str, *, deterministic: bool = False
    ) -> _Ring:
        """Raises Unsupported where the backend has no blocks for it."""
        problem = case.problem(device, deterministic=deterministic)
        of_q, of_k = ([0, *_sums(side)] for side in zip(*case.lengths, strict=True))
        keys = _dealt(case, of_k)
        rows = keys if of_q == of_k else _dealt(case, of_q)
        queries = None
        if rows is not keys:
            queries = Queries(rows.partition, rows.tokens, rows.starts)
        options = RingOptions(schedule=case.schedule)
        blocks = able(backend, problem, documents=True)
        where = keys.partition, case.ranks, keys.tokens, case.mask
        waits = one_launch_is_ruled(blocks, *where[:3], arrives=False, documents=True)
        took = settled(*where, options, waits=waits, documents=keys.starts, queries=queries)
        layout = laid_out(*where, took, keys.starts, queries)
        whole = replace(problem, seqlen=case.ranks * keys.tokens)
        score, ranks = case.score(device), range(case.ranks)
        return cls(_Side(rows), _Side(keys), jobs(whole, layout, backend, score, options, ranks))

    def dealt(self, data: CaseTensors) -> list[Keys]:
        """Every rank's keys."""
        return [Keys(*x) for x in zip(self.keys.deal(data.k), self.keys.deal(data.v), strict=True)]


def _sums(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[: n + 1]) for n in range(len(lengths))]


def _dealt(case: RingCase, starts: Sequence[int]) -> DealtDocuments:
    mask = case.mask
    left, right = (-1 if x is None else x for x in (mask.window_left, mask.window_right))
    return dealt_documents(
        starts, case.partition, case.ranks, causal=mask.causal, window_size=(left, right),
        uneven=True,
    )  # fmt: skip
