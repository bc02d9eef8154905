"""What a case's results are in float64, and how far from them a backend's may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ring_attn_bench.conformance.cases import Case
from ring_attn_bench.conformance.inputs import inputs
from ring_attn_bench.truth import oracle, tolerance
from ring_attn_bench.truth.tolerance import Deviation

Results = dict[str, Tensor]
"""By name: out, lse, dq, dk, dv, or some of them."""


@dataclass(frozen=True)
class Truth:
    """A case's results in float64, and by name how far a backend's may be from them."""

    results: Results
    bounds: dict[str, Deviation]


@lru_cache(maxsize=512)  # of all cases in all dtypes there are some 500
def truth(case: Case, device: str) -> Truth:
    """Computed once for all backends of a process."""
    return truth_with(case, device, None)


def truth_with(case: Case, device: str, keep: Tensor | None) -> Truth:
    """With dropout, of the weights that are kept, (B, H, M, N)."""
    yardstick = tolerance.baseline_arithmetic(case.torch_dtype)
    exact = _answers(case, device, torch.float64, keep)
    plain = [_answers(case, device, yardstick, keep)]
    if yardstick is torch.float32:  # of 16 bits' errors, the order of sums is no part
        plain.append(_answers(case, device, yardstick, keep, in_order=True))
    uncancelled = _uncancelled(case, device, exact, keep)
    # without it where lse is large by ALiBi's bias alone: what is right there is so without
    lse = tolerance.size(exact["lse"]).max_abs if case.level else 0.0
    return Truth(exact, bounds(case.torch_dtype, exact, plain, uncancelled, lse))


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
            tolerance.worst(tolerance.error(found[name], value) for found in plain),
            tolerance.size(value),
            uncancelled.get(name, 0.0),
            lse,
        )
        for name, value in exact.items()
    }


def _answers(
    case: Case,
    device: str,
    arithmetic: torch.dtype,
    keep: Tensor | None,
    *,
    in_order: bool = False,
) -> Results:
    data = inputs(case, device)
    out, lse = oracle.forward(
        data.q, data.k, data.v, data.rows, data.keys, case.mask, case.score(device),
        keep=keep, arithmetic=arithmetic, in_order=in_order,
    )  # fmt: skip
    found = oracle.backward(
        data.dout, data.q, data.k, data.v, out, lse, data.rows, data.keys, case.mask,
        case.score(device), keep=keep, arithmetic=arithmetic, in_order=in_order,
    )  # fmt: skip
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), found, strict=True))


def _uncancelled(case: Case, device: str, exact: Results, keep: Tensor | None) -> dict[str, float]:
    """The size of dq and dk with delta 0, which out 0 gives; see `tolerance.bounds`."""
    data = inputs(case, device)
    dq, dk, _ = oracle.backward(
        data.dout, data.q, data.k, data.v, torch.zeros_like(exact["out"]), exact["lse"],
        data.rows, data.keys, case.mask, case.score(device), keep=keep,
    )  # fmt: skip
    return {"dq": tolerance.size(dq).max_abs, "dk": tolerance.size(dk).max_abs}
