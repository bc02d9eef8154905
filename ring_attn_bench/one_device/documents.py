"""Packed documents by a kernel that takes them packed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ring_attn_bench.backend import PackedBackend
from ring_attn_bench.calls.attend import Given
from ring_attn_bench.calls.lse_gradient import with_lse
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.problem import Documents, Mask, Score
from ring_attn_bench.tensors import Keys, Rows, Sums

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

    @property
    def needs_delta(self) -> bool:
        """The kernel's."""
        return self.kernel.needs_delta

    def seeded(self, seed: int) -> DocumentsCall:
        """The same with another seed for dropout."""
        return replace(self, score=replace(self.score, dropout_seed=seed))

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """out (T, H, E) in q's dtype and lse (H, T): the kernel's, less the sink's share."""
        q, score = given.q, given.score(self.score)
        out, lse = self.kernel.packed_forward(q, given.keys, self._documents(given), score)
        if given.sink is not None:
            with_sink = torch.logaddexp(lse, given.sink.to(lse.dtype)[:, None])
            share = torch.exp(lse - with_sink).masked_fill(with_sink.isneginf(), 0.0)
            out, lse = out * share.T[..., None], with_sink
        return out.to(q.dtype), lse

    def backward(self, given: Given, rows: Rows, dlse: Tensor | None) -> Sums:
        """dq, dk, dv."""
        documents = self._documents(given)

        def launched(rows: Rows, keys: Keys, score: Score) -> Sums:
            return self.kernel.packed_backward(
                rows, keys, documents, score, deterministic=self.deterministic
            )

        return with_lse(launched, rows, given.keys, given.score(self.score), dlse)

    def _documents(self, given: Given) -> Documents:
        assert given.cu_seqlens_q is not None  # a packed call has them
        assert given.cu_seqlens_k is not None
        return Documents(
            given.cu_seqlens_q, given.cu_seqlens_k, self.max_seqlen_q, self.max_seqlen_k, self.mask
        )
