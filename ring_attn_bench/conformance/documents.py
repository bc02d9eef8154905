"""Documents packed into one row of tokens, as a frozen value; torch is imported on use."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from ring_attn_bench.conformance.cases import ALL, AnyCase, Kind
from ring_attn_bench.contract.backend import Backend, PackedBackend
from ring_attn_bench.plan.problem import Documents, Mask, Problem, Score


@dataclass(frozen=True)
class PackedCase(AnyCase):
    """Packed documents with their shapes.

    lengths: queries and keys of each document. views: whether tensors are cut out of longer ones,
    with NaN around them, and not dense.
    """

    lengths: tuple[tuple[int, int], ...]
    mask: Mask = ALL
    heads: int = 2
    key_heads: int = 2
    dim: int = 64
    softcap: float = 0.0
    alibi: bool = False
    views: bool = False

    @property
    def kind(self) -> Kind[PackedCase]:
        """All documents in one call."""
        from ring_attn_bench.conformance import packed

        return packed

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

    def refusal(
        self, backend: Backend, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> str | None:
        """Why the backend is not asked to compute the case, or None."""
        if not isinstance(backend, PackedBackend):
            return "it takes no packed documents: they are computed one by one"
        return super().refusal(backend, device, deterministic=deterministic, backward=backward)
