"""What the launches of the kernels take, in their order, as numbers that are packed.

A launch takes addresses, then strides of each tensor but for the last dim (of lse and delta: of
batch and head; of tables none), then integers, factors and the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, calcsize
from typing import TYPE_CHECKING, Literal

from ring_attn_backends.cute.table import GATHERED, OF_KEYS

if TYPE_CHECKING:
    from ring_attn_backends.cute.table import Build, Dtype, Kernel

Kind = Literal["in", "out", "away", "wide", "line", "table"]
"""Of a tensor: in the inputs' dtype, in the results', in that of gradients that go home to other
ranks, in float32; or a number each in float32; or integers in a row."""


@dataclass(frozen=True, slots=True)
class Signature:
    """tensors: their kinds. factors: how many of float32. integers: sizes, and those of a band."""

    tensors: tuple[Kind, ...]
    factors: int
    integers: tuple[int, ...] = (6, 2)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many of each tensor."""
        counts = {"line": 2, "table": 0}
        return tuple(counts.get(kind, 3) for kind in self.tensors)

    @property
    def packed(self) -> Struct:
        """All of them in a row."""
        return Struct("".join(self._codes()))

    @property
    def places(self) -> tuple[int, ...]:
        """Where each of them lies in it."""
        codes, sizes = self._codes(), {"Q": 8, "q": 8, "i": 4, "f": 4}
        return tuple(
            calcsize("".join(codes[: i + 1])) - sizes[code] for i, code in enumerate(codes)
        )

    def _codes(self) -> list[str]:
        counts = len(self.tensors), sum(self.strides), sum(self.integers), self.factors, 1
        return [code for code, n in zip("QqifQ", counts, strict=True) for _ in range(n)]


SIGNATURES: dict[Kernel, Signature] = {
    "forward": Signature(("in", "in", "in", "wide", "out", "line"), factors=2),
    **dict.fromkeys(
        OF_KEYS, Signature(("in",) * 4 + ("line", "line", "out", "out"), factors=3)
    ),
    "backward_adding": Signature(
        ("in",) * 4 + ("line", "line", "wide", "out", "out"), factors=3
    ),
    "backward_dq": Signature(("in",) * 4 + ("line", "line", "out"), factors=3),
    "gathered.forward": Signature(
        ("in",) * 5 + ("out", "line") + ("table",) * 3, factors=2, integers=(7,)
    ),
    **dict.fromkeys(
        (GATHERED[kernel] for kernel in OF_KEYS),
        Signature(
            ("in",) * 6 + ("line",) * 2 + ("out",) * 2 + ("away",) * 2 + ("table",) * 3,
            factors=3, integers=(7,),
        ),
    ),
    "gathered.backward_adding": Signature(
        ("in",) * 6 + ("line",) * 2 + ("wide",) + ("out",) * 2 + ("away",) * 2 + ("table",) * 3,
        factors=3, integers=(7,),
    ),
    "gathered.backward_dq": Signature(
        ("in",) * 6 + ("line",) * 2 + ("out",) + ("table",) * 3, factors=3, integers=(7,)
    ),
    "packed.forward": Signature(
        ("in",) * 3 + ("out", "line") + ("table",) * 2, factors=2, integers=(7, 2)
    ),
    "packed.backward_dkdv": Signature(
        ("in",) * 4 + ("line",) * 2 + ("out",) * 2 + ("table",) * 2, factors=3, integers=(7, 2)
    ),
    "packed.backward_dq": Signature(
        ("in",) * 4 + ("line",) * 2 + ("out",) + ("table",) * 2, factors=3, integers=(7, 2)
    ),
}  # fmt: skip
"""q, k, v, acc, out, lse with scale and cap; q, k, v, dout, lse, delta and the gradients with
scale, cap and what dq and dk are multiplied by at last; q, own k and v, landed k and v, out, lse,
tiles, entries and words with scale and cap; q, dout, own k and v, landed k and v, lse, delta, the
gradients (of own keys, then of landed ones, where they are dk and dv), tiles, entries and words
with scale, cap and what dq and dk are multiplied by at last. A kernel of dk alone, or of dv alone,
is told of both. Over packed documents as without them, but for acc, and with the starts of their
rows and of their keys."""


def dtype_of(kind: Kind, build: Build) -> Dtype:
    """Of a tensor's elements."""
    if kind == "in":
        return build.dtype
    if kind == "table":
        return "int32"
    if kind == "away":
        assert build.away is not None
        return build.away
    return build.out if kind == "out" else "float32"
