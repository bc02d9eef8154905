"""What is to be computed, as frozen values: the mask, the scores and the shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ring_attn_bench.plan.positions import Band

if TYPE_CHECKING:
    from torch import Tensor

DtypeName = Literal["float16", "bfloat16", "float32", "float64"]
DTYPES: tuple[DtypeName, ...] = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Mask:
    """Which keys a query may see, by global position.

    causal: no key after the query.
    window_left, window_right: at most that many keys before and after it; None is unlimited.
    Causal and a window mean both at once, as in flash-attn.
    """

    causal: bool = False
    window_left: int | None = None
    window_right: int | None = None

    @classmethod
    def from_window_size(cls, causal: bool, window_size: tuple[int, int]) -> Mask:
        """From flash-attn's arguments: a size is unlimited if it is negative, or beyond int32."""
        left, right = (None if size < 0 or size >= 2**31 - 1 else size for size in window_size)
        return cls(causal, left, right)

    @property
    def band(self) -> Band:
        """The allowed distances query - key."""
        right = 0 if self.causal else self.window_right
        return Band(None if right is None else -right, self.window_left)

    @property
    def has_window(self) -> bool:
        """Whether a side is limited by more than causality."""
        return self.window_left is not None or (self.window_right is not None and not self.causal)

    def __str__(self) -> str:
        kind = "causal" if self.causal else "full"
        if not self.has_window:
            return kind
        left = "inf" if self.window_left is None else self.window_left
        right = 0 if self.causal else "inf" if self.window_right is None else self.window_right
        return f"{kind}, window ({left}, {right})"


@dataclass(frozen=True, slots=True)
class Score:
    """How a score comes from q and k before the softmax.

    s = softmax_scale * q.k;  s = softcap * tanh(s / softcap) if softcap > 0;
    s = s - alibi_slope * |i - j| with global positions i, j (flash-attn 2's bias).
    After the softmax, a weight is dropped with probability dropout_p, or else divided by
    1 - dropout_p; lse knows nothing of it.

    softmax_scale: positive; a caller's that is not has been folded into q.
    alibi_slopes: float32, (heads_q,) or (batch, heads_q), or None.
    dropout_seed: 0 to 2**63 - 1. One seed, block and shape give one mask, forward and backward.
    """

    softmax_scale: float
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    dropout_p: float = 0.0
    dropout_seed: int = 0


@dataclass(frozen=True, slots=True)
class Documents:
    """Several sequences packed into one row of tokens, as flash-attn's varlen functions take them.

    cu_seqlens_q, cu_seqlens_k: int32 (documents + 1,), where each document's queries and keys
    begin, and after the last where they end. max_seqlen_q, max_seqlen_k: the longest of each.
    mask: causal and window inside a document, its last query and key at one place.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    mask: Mask = Mask()


@dataclass(frozen=True, slots=True)
class Problem:
    """One attention call over the whole sequence, as a backend is asked about it before it runs."""

    batch: int
    seqlen: int
    heads_q: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    dtype: DtypeName
    device: Literal["cpu", "cuda"]
    mask: Mask = Mask()
    softcap: float = 0.0
    alibi: bool = False
    dropout_p: float = 0.0
    deterministic: bool = False
    backward: bool = True
    packed: bool = False
    """Whether documents are packed (`Documents`), and not one sequence dealt to ranks."""
    queries: int | None = None
    """Of a sequence, or of the longest document; None is as many as keys, which are `seqlen`."""

    @property
    def group_size(self) -> int:
        """Query heads for each key head."""
        return self.heads_q // self.heads_kv
