"""What a case's results are in float64, and how far from them a backend's may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ring_attn_bench.conformance.cases import AnyCase
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle, tolerance
from ring_attn_bench.truth.tolerance import Deviation

Results = dict[str, Tensor]
"""By name: out, lse, dq, dk, dv, or some of them."""


@dataclass(frozen=True)
class Expected:
    """Results in float64, and by name how far a backend's may be from them. dtype: the inputs'."""

    dtype: torch.dtype
    results: Results
    bounds: dict[str, Deviation]

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of lse, and the other one that results may have."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def given(self) -> tuple[Tensor, Tensor]:
        """The true out and lse, as a backward is given them."""
        return self.results["out"].to(self.dtype), self.results["lse"].to(self.wide_dtype)


class Answers(Protocol):
    """PyTorch's results; in_order: with sums one by one, delta: unless it is taken to be 0."""

    def __call__(  # noqa: D102
        self, arithmetic: torch.dtype, *, in_order: bool = False, delta: bool = True
    ) -> Results: ...


@lru_cache(maxsize=1024)  # of all cases in all dtypes there are some 600
def expected(case: AnyCase, device: str) -> Expected:
    """Computed once for all backends of a process."""
    return case.kind.expected(case, device, None)


def expect(
    dtype: torch.dtype, answered: Answers, *, also_in_order: bool = True, with_lse: bool = False
) -> Expected:
    """also_in_order: whether plain sums one by one count as well; with_lse: lse's size does."""
    yardstick = tolerance.baseline_arithmetic(dtype)
    exact, plain = answered(torch.float64), [answered(yardstick)]
    if also_in_order and yardstick is torch.float32:  # of 16 bits' errors, their order is no part
        plain.append(answered(yardstick, in_order=True))
    sizes = answered(torch.float64, delta=False)
    uncancelled = {name: tolerance.size(sizes[name]).max_abs for name in ("dq", "dk")}
    lse = tolerance.size(exact["lse"]).max_abs if with_lse else 0.0
    return Expected(dtype, exact, bounds(dtype, exact, plain, uncancelled, lse))


class Forwards(Protocol):
    """PyTorch's results of a forward; in_order: with sums one by one."""

    def __call__(self, arithmetic: torch.dtype, *, in_order: bool = False) -> Results: ...  # noqa: D102


def expect_forward(dtype: torch.dtype, answered: Forwards) -> Expected:
    """`expect` of what has no gradients."""
    yardstick = tolerance.baseline_arithmetic(dtype)
    exact, plain = answered(torch.float64), [answered(yardstick)]
    if yardstick is torch.float32:
        plain.append(answered(yardstick, in_order=True))
    return Expected(dtype, exact, bounds(dtype, exact, plain, {}))


def answers(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    rows: Tensor,
    keys: Tensor,
    mask: Mask,
    score: Score,
    arithmetic: torch.dtype,
    *,
    keep: Tensor | None = None,
    in_order: bool = False,
    delta: bool = True,
) -> Results:
    """The oracle's, of rows and keys at these positions; without delta, which out 0 gives."""
    asked = oracle.Inquiry(rows, keys, mask, score, keep, arithmetic, in_order)
    out, lse = oracle.forward(q, k, v, asked)
    given = out if delta else torch.zeros_like(out)
    gradients = oracle.backward(dout, q, k, v, given, lse, asked)
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def bounds(
    dtype: torch.dtype,
    exact: Results,
    plain: Sequence[Results],
    uncancelled: dict[str, float],
    lse: float = 0.0,
) -> dict[str, Deviation]:
    """By name, what a result's error may be; see `tolerance.bounds`.

    plain: PyTorch's, of which the largest error counts. A sum over a head dim of 256 has seven
    ulps of error where a kernel takes its elements one by one, and one ulp in torch's matmul,
    which adds up several sums: both are float32, and a heavy key's dk shows the difference.
    """
    return {
        name: tolerance.bounds(
            name,
            dtype,
            tolerance.worst(tolerance.error(answer[name], value) for answer in plain),
            tolerance.size(value),
            uncancelled.get(name, 0.0),
            lse,
        )
        for name, value in exact.items()
    }
