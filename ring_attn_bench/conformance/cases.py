"""What a backend is asked to compute, as frozen values; torch is imported on use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from ring_attn_bench.contract.backend import reason_against
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span, Spans
from ring_attn_bench.plan.problem import DtypeName, Mask, Problem, Score

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ring_attn_bench.conformance.expected import Expected
    from ring_attn_bench.conformance.inputs import CaseTensors
    from ring_attn_bench.contract.backend import Backend
    from ring_attn_bench.plan.lower import Cut

Storage = Literal["dense", "token_major", "heads_first", "packed", "cut", "expanded"]
"""How q, k, v and dout lie in memory; whatever it is, they are seen as (B, S, H, D).

dense: as they are seen. token_major: (S, B, H, D), inside a longer buffer, as in the ring.
heads_first: (B, H, S, D). packed: k and v are views of (B, S, 2, H, D), and q with them of
(B, S, 3, H, D) where the shapes allow it. cut: the first D of 2 D. expanded: k and v with stride 0
over the batch, dout over the rows.
"""

Some = TypeVar("Some", contravariant=True)

SEED = 2**62 + 11
"""Of dropout: more than 32 bits, which an adapter must not cut off unseen."""

ALL, CAUSAL = Mask(), Mask(causal=True)


class Kind(Protocol[Some]):
    """How a kind of case is computed; each is a module, imported on use."""

    def inputs(self, case: Some, device: str) -> CaseTensors:
        """Normal random values, the same on every device and in every storage."""
        ...

    def expected(self, case: Some, device: str, keep: Tensor | None) -> Expected:
        """What is right; with dropout, of the weights that are kept."""
        ...

    def parts(self, backend: Backend, case: Some) -> tuple[Cut, ...] | str:
        """The blocks that the backend is given for the case, if one by one; or why it is not."""
        ...

    def two_blocks(self, case: Some) -> tuple[Cut, ...]:
        """A causal case's first keys and the rest, whatever the backend can do."""
        ...

    def forward(
        self, backend: Backend, case: Some, data: CaseTensors, parts: tuple[Cut, ...]
    ) -> dict[str, Tensor]:
        """The backend's out and lse, and what else it leaves, by name."""
        ...

    def backward(
        self, backend: Backend, case: Some, data: CaseTensors, out: Tensor, lse: Tensor,
        parts: tuple[Cut, ...], *, deterministic: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """dq, dk, dv from the whole rows' out and lse."""
        ...

    def kept(self, backend: Backend, case: Some, device: str) -> Tensor | None:
        """The weights that the backend's dropout keeps; None without dropout."""
        ...

    def kept_faults(self, backend: Backend, case: Some, device: str, keep: Tensor) -> list[str]:
        """What is wrong with the weights that are kept, whatever comes of them."""
        ...


@dataclass(frozen=True)
class AnyCase(ABC):
    """A block, or packed documents; `title` says what a backend has to get right in it."""

    title: str
    dtype: DtypeName = field(default="float32", kw_only=True)

    def __str__(self) -> str:
        return f"{self.title}-{self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the case's tensors."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of lse, and the other one that results may have."""
        import torch

        return torch.promote_types(self.torch_dtype, torch.float32)

    @property
    @abstractmethod
    def kind(self) -> Kind[Any]:
        """How it is computed."""

    @abstractmethod
    def score(self, device: str) -> Score:
        """How the case's scores are made."""

    @abstractmethod
    def problem(
        self, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> Problem:
        """What the backend is asked about the case before it runs."""

    def refusal(
        self, backend: Backend, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> str | None:
        """Why the backend is not asked to compute the case, or None."""
        problem = self.problem(device, deterministic=deterministic, backward=backward)
        if (reason := reason_against(backend, problem)) is not None:
            return reason
        parts = self.kind.parts(backend, self)
        return parts if isinstance(parts, str) else None


@dataclass(frozen=True)
class BlockCase(AnyCase):
    """One block with its shapes.

    dim_v: v's head dim; None is q's. scale: of the softmax; None is the usual one.
    alibi_by_batch: whether the slopes differ from one batch entry to the next.
    level: what the scores lie about, before softcap and bias; q and k have a mean that makes it so.
    """

    rows: Spans
    keys: Spans
    mask: Mask = ALL
    batch: int = 2
    heads: int = 2
    key_heads: int = 2
    dim: int = 64
    dim_v: int | None = None
    scale: float | None = None
    level: float = 0.0
    softcap: float = 0.0
    alibi: bool = False
    alibi_by_batch: bool = False
    dropout_p: float = 0.0
    dropout_seed: int = SEED
    storage: Storage = "dense"

    @property
    def kind(self) -> Kind[BlockCase]:
        """One call if the backend can be given the block, else the ring's pieces."""
        from ring_attn_bench.conformance import blocks

        return blocks

    @property
    def block(self) -> Block:
        """The case as a backend sees it."""
        return Block(self.rows, self.keys, self.mask.band)

    @property
    def head_dim_v(self) -> int:
        """E, the head dim of v."""
        return self.dim if self.dim_v is None else self.dim_v

    @property
    def softmax_scale(self) -> float:
        """The factor of q.k."""
        return self.dim**-0.5 if self.scale is None else self.scale

    def score(self, device: str) -> Score:
        """How the case's scores are made."""
        slopes = slopes_of(self, device) if self.alibi else None
        return Score(self.softmax_scale, self.softcap, slopes, self.dropout_p, self.dropout_seed)

    def problem(
        self, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> Problem:
        """What the backend is asked about the case before it runs."""
        last = max(span.last for span in self.rows + self.keys)
        return Problem(
            self.batch, last + 1, self.heads, self.key_heads, self.dim, self.head_dim_v,
            self.dtype, "cuda" if device == "cuda" else "cpu", self.mask, self.softcap,
            self.alibi, self.dropout_p, deterministic, backward,
        )  # fmt: skip


def slopes_of(case: BlockCase, device: str) -> torch.Tensor:
    """ALiBi's slopes: a half, a quarter, ... and for the next batch entry half as much."""
    import torch

    slopes = 0.5 ** torch.arange(1, case.heads + 1, device=device)
    if not case.alibi_by_batch:
        return slopes
    return slopes * 0.5 ** torch.arange(case.batch, device=device)[:, None]


FULL = BlockCase("full", (Span(96, 96),), (Span(0, 96),))
"""Every row sees every key."""
LOCAL = BlockCase("causal", (Span(0, 96),), (Span(0, 96),), CAUSAL)
"""As many rows as keys, and the first row sees the first key only."""


def lengths(case: BlockCase, rows: int, keys: int | None = None) -> BlockCase:
    """The same case with so many rows and keys, from the same first positions on."""
    return replace(
        case,
        rows=(replace(case.rows[0], count=rows),),
        keys=(replace(case.keys[0], count=rows if keys is None else keys),),
    )
