"""Documents packed into one row of tokens, as a frozen value; torch is imported on use."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from ring_attn_bench.conformance.cases import ALL
from ring_attn_bench.plan.problem import Documents, DtypeName, Mask, Problem, Score

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PackedCase:
    """Packed documents with their shapes.

    lengths: queries and keys of each document. views: whether tensors are cut out of longer ones,
    with NaN around them, and not dense.
    """

    title: str
    lengths: tuple[tuple[int, int], ...]
    mask: Mask = ALL
    heads: int = 2
    key_heads: int = 2
    dim: int = 64
    softcap: float = 0.0
    alibi: bool = False
    views: bool = False
    dtype: DtypeName = "float32"

    def __str__(self) -> str:
        return f"{self.title}-{self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the case's tensors."""
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of lse, and the other one that results may have."""
        import torch

        return torch.promote_types(self.torch_dtype, torch.float32)

    def score(self, device: str) -> Score:
        """How the case's scores are made."""
        import torch

        slopes = 0.5 ** torch.arange(1, self.heads + 1, device=device) if self.alibi else None
        return Score(self.dim**-0.5, self.softcap, slopes)

    def documents(self, device: str) -> Documents:
        """Where the documents begin and end, as flash-attn's varlen functions take it."""
        import torch

        starts = [
            torch.tensor([0, *accumulate(side)], dtype=torch.int32, device=device)
            for side in zip(*self.lengths, strict=True)
        ]
        longest = [max(side) for side in zip(*self.lengths, strict=True)]
        return Documents(starts[0], starts[1], longest[0], longest[1], self.mask)

    def problem(
        self, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> Problem:
        """What the backend is asked about the case before it runs."""
        return Problem(
            1, sum(keys for _, keys in self.lengths), self.heads, self.key_heads, self.dim,
            self.dim, self.dtype, "cuda" if device == "cuda" else "cpu", self.mask, self.softcap,
            self.alibi, 0.0, deterministic, backward, packed=True,
        )  # fmt: skip
