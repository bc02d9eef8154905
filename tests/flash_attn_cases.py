"""What flash-attn's kernels are known to get wrong, as cases: for their fakes and for a GPU."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import BlockCase
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask

SOME = {"heads": 4, "key_heads": 2, "dtype": "bfloat16"}


def clipped(scale: int = 1) -> list[BlockCase]:
    """Windows with more rows than keys; flash-attn 2 compares both of their sides with the keys.

    scale: how much longer everything is, so that it takes several tiles.
    """

    def case(title: str, rows: Span, keys: Span, **mask: int | bool | None) -> BlockCase:
        sides = {name: x if isinstance(x, bool) else x * scale for name, x in mask.items()}
        rows, keys = (Span(x.start * scale, x.count * scale) for x in (rows, keys))
        return BlockCase(f"{title}, x {scale}", (rows,), (keys,), Mask(**sides), batch=3, **SOME)

    found = [
        case("causal, three times as many rows as keys", Span(0, 60), Span(0, 20), causal=True),
        case("a right side of more than all keys", Span(0, 60), Span(0, 20), window_right=10),
        case("a left side, rows before their keys", Span(0, 60), Span(40, 20), window_left=8),
        case("both sides, rows around their keys", Span(0, 80), Span(30, 20), window_left=25,
             window_right=22),
    ]  # fmt: skip
    if scale == 1:
        found += [
            replace(found[2], title="a left side, a row more than keys", rows=(Span(0, 21),),
                    keys=(Span(0, 20),), mask=Mask(window_left=3)),
            replace(found[2], title="a left side, two rows more than keys", rows=(Span(0, 22),),
                    keys=(Span(0, 20),), mask=Mask(window_left=3)),
        ]  # fmt: skip
    return found


def _packed(title: str, lengths: tuple[tuple[int, int], ...], mask: Mask) -> PackedCase:
    return PackedCase(f"{title}, {mask}", lengths, mask, **SOME)


_UNLIKE = ((60, 20), (80, 21), (9, 0), (22, 20), (5, 70), (0, 4), (1, 1))
_SINGLE = ((1, 9), (0, 4), (1, 30), (0, 0), (1, 1))
_NOTHING = {
    "no token": ((0, 0), (0, 0)), "no query": ((0, 7), (0, 0)), "no key": ((7, 0), (3, 0)),
}  # fmt: skip

DOCUMENTS = [
    *(
        _packed("documents with more queries than keys", _UNLIKE, mask)
        for mask in (
            Mask(), Mask(True), Mask(True, 7), Mask(window_left=8), Mask(window_right=30),
            Mask(False, 25, 22),
        )
    ),
    *(
        _packed("documents of one query beside empty ones", _SINGLE, mask)
        for mask in (Mask(), Mask(True), Mask(True, 5), Mask(False, 3, 2))
    ),
    *(_packed(f"documents with {title}", ends, Mask(True)) for title, ends in _NOTHING.items()),
]  # fmt: skip

HEAD_DIMS = [
    (8, 8), (20, 20), (40, 40), (80, 80), (64, 32), (32, 72), (160, 120), (104, 200), (256, 8),
]  # fmt: skip
"""Of q and v: few of them are what a kernel was built for."""
