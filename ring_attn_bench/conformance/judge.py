"""What is wrong with a backend's results on a case, in sentences; none where all is right."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ring_attn_bench.conformance.cases import AnyCase
from ring_attn_bench.conformance.expected import Expected, expected
from ring_attn_bench.conformance.faults import Dtypes, changed, faults, unlike
from ring_attn_bench.conformance.inputs import CaseTensors
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.plan.lower import Piece


def forward_faults(backend: Backend, case: AnyCase, device: str) -> list[str]:
    """What is wrong with the backend's out and lse, and with what its dropout keeps."""
    keep = case.kind.kept(backend, case, device)
    if keep is not None and (wrong := case.kind.kept_faults(backend, case, device, keep)):
        return wrong
    data = case.kind.inputs(case, device)
    found = faults(case, _expected(case, device, keep), _forward(backend, case, data))
    return found + changed(data.given, case.kind.inputs(case, device).given)


def backward_faults(backend: Backend, case: AnyCase, device: str) -> list[str]:
    """What is wrong with the backend's gradients, given the true out and lse."""
    right = _expected(case, device, case.kind.kept(backend, case, device))
    data = case.kind.inputs(case, device)
    found = faults(case, right, _backward(backend, case, data, right))
    return found + changed(data.given, case.kind.inputs(case, device).given)


def repeat_faults(backend: Backend, case: AnyCase, device: str, *, backward: bool) -> list[str]:
    """What is wrong with results that are asked to be the same every time."""
    right, data = expected(case, device), case.kind.inputs(case, device)

    def run() -> Mapping[str, Tensor]:
        if not backward:
            return _forward(backend, case, data)
        return _backward(backend, case, data, right, deterministic=True)

    first, *others = (run() for _ in range(3))
    return faults(case, right, first) or unlike(first, others)


def two_block_faults(
    backend: Backend, case: AnyCase, device: str, *, backward: bool = True
) -> list[str]:
    """What is wrong when a causal case's first keys and the rest are computed as two blocks.

    The forwards are merged by hand; each backward gets the whole rows' out and lse.
    """
    data, right, parts = (
        case.kind.inputs(case, device),
        expected(case, device),
        case.kind.two_blocks(case),
    )
    out, lse = case.kind.forward(backend, case, data, parts)
    found = faults(case, right, {"out": out, "lse": lse})
    if not backward:
        return found
    share = case.kind.backward(backend, case, data, out.to(case.torch_dtype), lse, parts)
    return found + faults(case, right, share)


def given(case: Dtypes, right: Expected) -> tuple[Tensor, Tensor]:
    """The true out and lse, as a backward is given them."""
    return right.results["out"].to(case.torch_dtype), right.results["lse"].to(case.wide_dtype)


def _expected(case: AnyCase, device: str, keep: Tensor | None) -> Expected:
    return expected(case, device) if keep is None else case.kind.expected(case, device, keep)


def _forward(backend: Backend, case: AnyCase, data: CaseTensors) -> dict[str, Tensor]:
    out, lse = case.kind.forward(backend, case, data, _parts(backend, case))
    return {"out": out, "lse": lse}


def _backward(
    backend: Backend,
    case: AnyCase,
    data: CaseTensors,
    right: Expected,
    *,
    deterministic: bool = False,
) -> dict[str, Tensor]:
    out, lse = given(case, right)
    parts = _parts(backend, case)
    return case.kind.backward(backend, case, data, out, lse, parts, deterministic=deterministic)


def _parts(backend: Backend, case: AnyCase) -> tuple[Piece, ...]:
    parts = case.kind.parts(backend, case)
    assert not isinstance(parts, str)  # the case's `refusal` says so, and is asked before
    return parts
