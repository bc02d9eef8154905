"""A kernel that knows nothing of documents, made to take them packed: a call for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from ring_attn_bench.contract.backend import Backend, abilities
from ring_attn_bench.contract.tensors import Keys, Rows, Sums, part_of
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.one_device.call import local_planner
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.plan.problem import Documents, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.ring.transports.alone import Alone


@dataclass(frozen=True)
class _Part:
    """One document: its tokens, and the pass over them."""

    rows: Range
    keys: Range
    job: Job


@dataclass(frozen=True)
class OneByOne:
    """The packed calls of `PackedBackend`, by a backend's calls on blocks.

    Reads where documents begin, which on a GPU waits for it.
    """

    backend: Backend

    @property
    def needs_delta(self) -> bool:
        """Whether the backend reads delta."""
        return self.backend.needs_delta

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """out (T, H, E) and lse (H, T); raises Unsupported for a mask the backend cannot do."""
        out = q.new_empty(*q.shape[:2], keys.v.shape[2])
        lse = q.new_empty(q.shape[1], q.shape[0], dtype=accumulator_dtype(q.dtype))
        for part in self._parts(documents, score, q.dtype):
            own = passes.forward(
                part.job, Alone(), part_of(q, part.rows)[None], _alone(keys.part(part.keys))
            )
            out[part.rows.slice], lse[:, part.rows.slice] = own[0][0], own[1][0]
        return out, lse

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """dq, dk, dv of all documents, one by one."""
        sums = Sums(*(torch.empty_like(x) for x in (rows.q, *keys)))
        for part in self._parts(documents, score, rows.q.dtype, deterministic=deterministic):
            share = passes.backward(
                part.job, Alone(), _alone(rows.part(part.rows)), _alone(keys.part(part.keys))
            )
            for total, gradient in zip(sums.part(part.rows, part.keys), share, strict=True):
                total.copy_(gradient[0])
        return sums

    def _parts(
        self,
        documents: Documents,
        score: Score,
        dtype: torch.dtype,
        *,
        deterministic: bool = False,
    ) -> Iterator[_Part]:
        able = abilities(self.backend, alibi=score.alibi_slopes is not None)
        sides = (documents.cu_seqlens_q.tolist(), documents.cu_seqlens_k.tolist())
        both = zip(*(pairwise(side) for side in sides), strict=True)
        for index, (rows, keys) in enumerate(both):
            plan = local_planner(rows[1] - rows[0], keys[1] - keys[0], documents.mask)(able)
            if isinstance(plan, str):
                raise Unsupported(self.backend.name, plan)
            wide = accumulator_dtype(dtype)
            job = Job(plan, self.backend, of_document(score, index), wide, deterministic)
            yield _Part(Range(*rows), Range(*keys), job)


Group = TypeVar("Group", Rows, Keys)


def _alone(group: Group) -> Group:
    """A document's tensors as a batch of one."""
    return type(group)(*(None if x is None else x[None] for x in group))  # type: ignore[arg-type]


def of_document(score: Score, index: int) -> Score:
    """The score of one document computed by itself: what is dropped in it is its own."""
    slopes = score.alibi_slopes
    if slopes is not None and slopes.dim() == 2:
        slopes = slopes[index]
    seed = (score.dropout_seed + index) % 2**63
    return replace(score, alibi_slopes=slopes, dropout_seed=seed)
