"""Numbers at the edge, and how what becomes of them is judged; interpreted or on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.contract.tensors import Keys, Rows
from tests.triton_interpreted.checking import (
    BACKEND,
    CAUSAL,
    REFERENCE,
    Case,
    computed,
    error,
    row_sum,
    wide,
)

MARGINS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of finite values beside the others, absolutely and relatively; of gradients ten times that."""


@dataclass(frozen=True)
class Spoilt:
    """A value that is not finite, and where: in head 0 of k of 140 keys, or of q of 70 rows."""

    tensor: str
    at: tuple[int | slice, ...]
    value: float

    def __str__(self) -> str:
        places = ["all" if isinstance(x, slice) else str(x) for x in self.at]
        return f"{self.value} in {self.tensor}[{', '.join(places)}]"


EVERYTHING = slice(None)
SPOILT = [
    *(Spoilt("k", (EVERYTHING, 100, 0, 3), bad) for bad in (math.inf, -math.inf, math.nan)),
    *(Spoilt("v", (EVERYTHING, 100, 0, 3), bad) for bad in (math.inf, -math.inf, math.nan)),
    *(Spoilt("q", (EVERYTHING, 11, 0, 3), bad) for bad in (math.inf, -math.inf, math.nan)),
    *(Spoilt("dout", (EVERYTHING, 11, 0, 3), bad) for bad in (math.inf, -math.inf, math.nan)),
    # every score of two rows is -inf: they see all keys, and are as if they saw none
    Spoilt("q", (EVERYTHING, slice(30, 32), 0, EVERYTHING), -math.inf),
]


def assert_goes_where_the_references_does(
    spoilt: Spoilt, case: Case, dtype: torch.dtype, *, backward: bool = True
) -> None:
    """Scores are of one sign, so that inf times them is no NaN."""
    tensors = dict(zip(("q", "k", "v", "dout"), case.tensors(dtype), strict=True))
    tensors |= {name: tensors[name].abs() for name in ("q", "k")}
    tensors[spoilt.tensor][spoilt.at] = spoilt.value
    q, k, v, dout = tensors.values()
    plain, where = [x.float() for x in (q, k, v)], (case.block, case.score)
    true_out, true_lse = REFERENCE.forward(plain[0], Keys(*plain[1:]), *where)
    out, lse = BACKEND.forward(q, Keys(k, v), *where)
    _assert_close(out, true_out, MARGINS[dtype])
    _assert_close(lse, true_lse, MARGINS[dtype])
    if not backward:
        return
    delta = row_sum(dout, true_out, torch.float32)
    rows = Rows(q, dout, true_out.to(dtype), true_lse, delta)
    got = BACKEND.backward(rows, Keys(k, v), *where, deterministic=True)
    rows = Rows(plain[0], dout.float(), true_out, true_lse, delta)
    true = REFERENCE.backward(rows, Keys(*plain[1:]), *where, deterministic=True)
    for mine, theirs in zip(got, true, strict=True):
        _assert_close(mine, theirs, 10 * MARGINS[dtype])


def _assert_close(mine, theirs, margin):
    torch.testing.assert_close(mine.float(), theirs, equal_nan=True, atol=margin, rtol=margin)


def assert_ten_thousand_is_no_trouble(case: Case, dtype: torch.dtype, sign: int) -> None:
    """Scores of 1e4, of either sign, neither overflow nor lose the softmax."""
    case = replace(case, band=CAUSAL)
    q, k, v, dout = case.tensors(dtype)
    size = (9600 / case.head_dim**0.5) ** 0.5  # |normal| values: 6000 on average, 1e4 at most
    q, k = q.abs() * size, k.abs() * size * sign
    out, lse, *gradients = computed(BACKEND, case, q, k, v, dout)
    true_out, true_lse, *true = computed(REFERENCE, case, *wide((q, k, v, dout)))
    terms = computed(REFERENCE, case, *wide((q, k, v, dout)), delta=torch.zeros_like(true_lse))[2:]
    # a float32 score, and an lse, of 1e4 is only known to this; so, relatively, is a probability
    largest = float(true_lse.abs().max())
    unsure = 16 * torch.finfo(torch.float32).eps * largest + 4 * torch.finfo(dtype).eps

    assert 5e3 < largest < 5e4
    # a GPU's matrix unit cuts sums off: of 256 products 1.6e-6 was seen
    off = 2e-6 if case.device == "cuda" and case.head_dim > 128 else 1e-6
    torch.testing.assert_close(lse.double(), true_lse, atol=0, rtol=off)
    values = zip((out, *gradients), (true_out, *true), (true_out, *terms), strict=True)
    for mine, theirs, of in values:
        assert error(mine, theirs) <= unsure * float(of.abs().max())


def assert_nothing_comes_of_nothing(
    rows: int, keys: int, dtype: torch.dtype, device: str, head_dim: int = 64
) -> None:
    """Public calls with no query or no key: zeros and -inf of the right shape."""

    def leaf(tokens: int, heads: int) -> torch.Tensor:
        return torch.randn(2, tokens, heads, head_dim, device=device).to(dtype).requires_grad_()

    q, k, v = leaf(rows, 4), leaf(keys, 2), leaf(keys, 2)
    out, lse, _ = flash_attn_func(
        q, k, v, causal=True, return_attn_probs=True, backend="triton", dropout_p=0.1,
        dropout_seed=1, alibi_slopes=torch.ones(4, device=device),
    )  # fmt: skip
    _assert_nothing(out, lse, (q, k, v))
    q, k, v = (x.detach().flatten(0, 1).requires_grad_() for x in (q, k, v))
    starts = [
        torch.tensor([0, length, 2 * length], dtype=torch.int32, device=device)
        for length in (rows, keys)
    ]
    out, lse, _ = flash_attn_varlen_func(
        q, k, v, *starts, rows, keys, causal=True, return_attn_probs=True, backend="triton"
    )
    _assert_nothing(out, lse, (q, k, v))


def _assert_nothing(out, lse, leaves):
    assert out.shape == leaves[0].shape
    assert not out.any()
    assert lse.isneginf().all()
    assert lse.numel() == out.numel() // out.shape[-1]
    for leaf, gradient in zip(
        leaves, torch.autograd.grad(out, leaves, torch.ones_like(out)), strict=True
    ):
        assert gradient.shape == leaf.shape
        assert not gradient.any()
