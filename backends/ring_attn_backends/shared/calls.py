"""Blocks and packed documents as one thing: a call, as flash-attn's kernels take both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ring_attn_backends.shared.seeding import derived
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.problem import Documents, Score


@dataclass(frozen=True)
class FlashCall:
    """One call of a kernel, but for its tensors.

    left, right: the keys before and after a row that it sees, None for all, where the last row
    and the last key (of each document) count as one place.
    seed: of this call's dropout. documents: whose tensors are packed, or None.
    """

    left: int | None
    right: int | None
    score: Score
    seed: int = 0
    documents: Documents | None = None

    @classmethod
    def of_block(cls, block: Block, score: Score) -> FlashCall:
        """For a block of form FULL, CAUSAL or WINDOW."""
        seed = derived(score.dropout_seed, block.rows, block.keys) if score.dropout_p else 0
        return cls(*block.window, score, seed)

    @classmethod
    def of_documents(cls, documents: Documents, score: Score) -> FlashCall:
        """For all documents at once: which is which, a kernel's dropout knows itself."""
        mask = documents.mask
        right = 0 if mask.causal else mask.window_right
        seed = derived(score.dropout_seed, "documents") if score.dropout_p else 0
        return cls(mask.window_left, right, score, seed, documents)

    @property
    def is_causal(self) -> bool:
        """Whether the mask is causal and nothing more."""
        return self.left is None and self.right == 0

    @property
    def has_window(self) -> bool:
        """Whether the mask is neither full nor causal."""
        return not self.is_causal and not (self.left is None and self.right is None)


class ByCalls(ABC):
    """The contract's four functions, by two that take a call."""

    @abstractmethod
    def run_forward(self, q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
        """out and lse."""

    @abstractmethod
    def run_backward(self, rows: Rows, keys: Keys, call: FlashCall, *, deterministic: bool) -> Sums:
        """dq, dk and dv; delta is the kernel's own, from the whole row's out."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """out and lse of a block."""
        return self.run_forward(q, keys, FlashCall.of_block(block, score))

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """A block's share of dq, dk and dv."""
        return self.run_backward(
            rows, keys, FlashCall.of_block(block, score), deterministic=deterministic
        )

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """out and lse of packed documents."""
        return self.run_forward(q, keys, FlashCall.of_documents(documents, score))

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """dq, dk and dv of packed documents."""
        call = FlashCall.of_documents(documents, score)
        return self.run_backward(rows, keys, call, deterministic=deterministic)
