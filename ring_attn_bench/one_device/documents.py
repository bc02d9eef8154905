"""Packed documents by a kernel that takes them packed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ring_attn_bench.calls import sinks
from ring_attn_bench.calls.attend import Given
from ring_attn_bench.calls.lse_gradient import with_lse
from ring_attn_bench.contract.backend import PackedBackend, packed_into
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.one_device.outside import NOTHING, Results, Starts, fill, settled
from ring_attn_bench.plan.problem import Documents, Mask, Score
from ring_attn_bench.ring.packing import accumulator_dtype

PackedKernel = PackedBackend | OneByOne


@dataclass(frozen=True, slots=True)
class DocumentsCall:
    """What is computed, and by which kernel: a `Call` of packed tokens."""

    kernel: PackedKernel
    max_seqlen_q: int
    max_seqlen_k: int
    mask: Mask
    score: Score
    deterministic: bool

    keeps: ClassVar[bool] = False

    @property
    def needs_delta(self) -> bool:
        """Whether the kernel reads delta."""
        return self.kernel.needs_delta

    def seeded(self, seed: int) -> DocumentsCall:
        """The same call with another seed for dropout."""
        return replace(self, score=replace(self.score, dropout_seed=seed))

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """out (T, H, E) in q's dtype and lse (H, T): the kernel's, less the sink's share."""
        q, keys, score = given.q, given.keys, given.score(self.score)
        into = None if given.sink is not None else packed_into(self.kernel)
        if into is not None:
            out = q.new_empty(*q.shape[:2], given.v.shape[2])
            lse = q.new_empty(q.shape[1], q.shape[0], dtype=accumulator_dtype(q.dtype))
            seen = "forward", q.shape, given.v.shape, q.dtype
            documents = self.documents(given, Results(out, lse), seen)
            into.packed_forward_into(q, keys, out, lse, documents, score)
            return out, lse
        documents = self.documents(given)
        out, lse = self.kernel.packed_forward(q, keys, documents, score)
        if given.sink is not None:
            out, lse = sinks.joined(out, lse, given.sink)
        out = out.to(q.dtype)
        fill(_starts(documents), Results(out, lse))
        return out, lse

    def backward(self, given: Given, rows: Rows, dlse: Tensor | None) -> Sums:
        """dq, dk, dv of all documents."""
        score, into = given.score(self.score), packed_into(self.kernel)
        if into is not None and dlse is None:
            q, k, v = given[:3]
            shapes = q.shape, k.shape, v.shape
            sums = Sums(*[q.new_empty(shape) for shape in shapes])
            results = Results(sums.dq, None, sums.dk, sums.dv)
            documents = self.documents(given, results, ("backward", *shapes, q.dtype))
            into.packed_backward_into(
                rows, given.keys, sums, documents, score, deterministic=self.deterministic
            )
            return sums
        documents = self.documents(given)

        def launched(rows: Rows, keys: Keys, score: Score) -> Sums:
            return self.kernel.packed_backward(
                rows, keys, documents, score, deterministic=self.deterministic
            )

        sums = with_lse(launched, rows, given.keys, score, dlse)
        fill(_starts(documents), Results(sums.dq, None, sums.dk, sums.dv))
        return sums

    def documents(
        self, given: Given, results: Results = NOTHING, seen: Hashable = None
    ) -> Documents:
        """Where they are, made sound; results are filled in outside of them, seen: see there."""
        starts_q, starts_k = given.cu_seqlens_q, given.cu_seqlens_k
        assert starts_q is not None  # a packed call has them
        assert starts_k is not None
        tokens, longest = (len(given.q), len(given.k)), (self.max_seqlen_q, self.max_seqlen_k)
        sound = settled((starts_q, starts_k), tokens, longest, results, seen)
        return Documents(*sound, *longest, self.mask)


def _starts(documents: Documents) -> Starts:
    return documents.cu_seqlens_q, documents.cu_seqlens_k
