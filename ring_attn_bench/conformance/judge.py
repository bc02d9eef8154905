"""What is wrong with a backend's results on a block, in sentences; none where all is right."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ring_attn_bench.conformance import calls, dropout
from ring_attn_bench.conformance.cases import Case
from ring_attn_bench.conformance.faults import Dtypes, changed, faults, unlike
from ring_attn_bench.conformance.inputs import Inputs, inputs
from ring_attn_bench.conformance.truth import Truth, truth, truth_with
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.plan.lower import Piece


def refusal(
    backend: Backend,
    case: Case,
    device: str,
    *,
    deterministic: bool = False,
    backward: bool = True,
) -> str | None:
    """Why the backend is not asked to compute the case, or None."""
    problem = case.problem(device, deterministic=deterministic, backward=backward)
    reason = backend.unsupported(problem)
    if reason is not None:
        return reason
    parts = calls.pieces(backend, case)
    return parts if isinstance(parts, str) else None


def forward_faults(backend: Backend, case: Case, device: str) -> list[str]:
    """What is wrong with the backend's out and lse."""
    if case.dropout_p:
        keep = dropout.kept(backend, case, device)
        right = truth_with(case, device, keep)
        return dropout.mask_faults(backend, case, device, keep) or _forward_faults(
            backend, case, device, right
        )
    return _forward_faults(backend, case, device, truth(case, device))


def backward_faults(backend: Backend, case: Case, device: str) -> list[str]:
    """What is wrong with the backend's gradients, given the true out and lse."""
    keep = dropout.kept(backend, case, device) if case.dropout_p else None
    found = truth(case, device) if keep is None else truth_with(case, device, keep)
    data = inputs(case, device)
    share = gradients(backend, case, data, *given(case, found))
    return faults(case, found, share) + _changed(case, data, device)


def repeat_faults(backend: Backend, case: Case, device: str, *, backward: bool) -> list[str]:
    """What is wrong with results that are asked to be the same every time."""
    right, data = truth(case, device), inputs(case, device)

    def run() -> Mapping[str, Tensor]:
        if not backward:
            return _forward(backend, case, data)
        return gradients(backend, case, data, *given(case, right), deterministic=True)

    first, *others = (run() for _ in range(3))
    return faults(case, right, first) or unlike(first, others)


def two_block_faults(
    backend: Backend, case: Case, device: str, *, backward: bool = True
) -> list[str]:
    """What is wrong when a causal case's first keys and the rest are computed as two blocks.

    The forwards are merged by hand; each backward gets the whole rows' out and lse.
    """
    data, right = inputs(case, device), truth(case, device)
    parts = calls.split(case, case.block.key_count - case.block.row_count)
    out, lse = calls.forward(backend, case, data, parts)
    found = faults(case, right, {"out": out, "lse": lse})
    if not backward:
        return found
    share = calls.backward(backend, case, data, out.to(case.torch_dtype), lse, parts)
    return found + faults(case, right, share)


def gradients(
    backend: Backend,
    case: Case,
    data: Inputs,
    out: Tensor,
    lse: Tensor,
    *,
    deterministic: bool = False,
) -> dict[str, Tensor]:
    """The backend's dq, dk, dv."""
    parts = _parts(backend, case)
    return calls.backward(backend, case, data, out, lse, parts, deterministic=deterministic)


def given(case: Dtypes, right: Truth) -> tuple[Tensor, Tensor]:
    """The true out and lse, as a backward is given them."""
    return right.results["out"].to(case.torch_dtype), right.results["lse"].to(case.wide_dtype)


def _forward_faults(backend: Backend, case: Case, device: str, right: Truth) -> list[str]:
    data = inputs(case, device)
    return faults(case, right, _forward(backend, case, data)) + _changed(case, data, device)


def _forward(backend: Backend, case: Case, data: Inputs) -> dict[str, Tensor]:
    out, lse = calls.forward(backend, case, data, _parts(backend, case))
    return {"out": out, "lse": lse}


def _changed(case: Case, data: Inputs, device: str) -> list[str]:
    return changed(data.given, inputs(case, device).given)


def _parts(backend: Backend, case: Case) -> tuple[Piece, ...]:
    parts = calls.pieces(backend, case)
    assert not isinstance(parts, str)  # `refusal` says so, and is asked before
    return parts
