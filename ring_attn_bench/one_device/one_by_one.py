"""A kernel that knows nothing of documents, made to take them packed: a call for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ring_attn_bench.backend import Backend, abilities
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.one_device.call import local_planner
from ring_attn_bench.problem import Documents, Score
from ring_attn_bench.ring import run
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.ring.transports.alone import Alone
from ring_attn_bench.tensors import Keys, Rows, Sums


@dataclass(frozen=True)
class _Part:
    """One document: its tokens, and the pass over them."""

    rows: slice
    keys: slice
    job: Job


@dataclass(frozen=True)
class OneByOne:
    """The packed calls of `PackedBackend`, by a backend's calls on blocks.

    Reads where documents begin, which on a GPU waits for it.
    """

    backend: Backend

    @property
    def needs_delta(self) -> bool:
        """Each document's pass computes its own."""
        return False

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """out (T, H, E) and lse (H, T); raises Unsupported for a mask the backend cannot do."""
        k, v = keys
        out = q.new_empty(*q.shape[:2], v.shape[2])
        lse = q.new_empty(q.shape[1], q.shape[0], dtype=accumulator_dtype(q.dtype))
        for part in self._parts(documents, score, q.dtype):
            at, of = part.rows, part.keys
            own = run.forward(part.job, Alone(), q[None, at], k[None, of], v[None, of])
            out[at], lse[:, at] = own[0][0], own[1][0]
        return out, lse

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """dq, dk, dv."""
        (q, dout, out, lse, _), (k, v) = rows, keys
        sums = Sums(torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
        for part in self._parts(documents, score, q.dtype, deterministic=deterministic):
            at, of = part.rows, part.keys
            share = run.backward(
                part.job, Alone(), dout[None, at], q[None, at], k[None, of], v[None, of],
                out[None, at], lse[None, :, at],
            )  # fmt: skip
            sums.dq[at], sums.dk[of], sums.dv[of] = (gradient[0] for gradient in share)
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
            yield _Part(slice(*rows), slice(*keys), job)


def of_document(score: Score, index: int) -> Score:
    """The score of one document computed by itself: what is dropped in it is its own."""
    slopes = score.alibi_slopes
    if slopes is not None and slopes.dim() == 2:
        slopes = slopes[index]
    seed = (score.dropout_seed + index) % 2**63
    return replace(score, alibi_slopes=slopes, dropout_seed=seed)
