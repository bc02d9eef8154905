"""What is wrong with a backend's results on a case, in sentences; none where all is right."""

from __future__ import annotations

from ring_attn_bench.conformance.blocks import is_whole
from ring_attn_bench.conformance.cases import AnyCase
from ring_attn_bench.conformance.expected import Expected, Results, expected
from ring_attn_bench.conformance.faults import changed, faults, unlike, wider
from ring_attn_bench.conformance.inputs import CaseTensors
from ring_attn_bench.contract.backend import Backend, rounds_gradients
from ring_attn_bench.plan.lower import Cut


def result_faults(backend: Backend, case: AnyCase, device: str, *, backward: bool) -> list[str]:
    """What is wrong with out and lse; or with the gradients, given the true out and lse.

    Of a forward with dropout also with the weights that are kept.
    """
    kind = case.kind
    keep = kind.kept(backend, case, device)
    right = expected(case, device) if keep is None else kind.expected(case, device, keep)
    if keep is not None and not backward:
        wrong = kind.kept_faults(backend, case, device, keep)
        if wrong:
            return wrong
    data = kind.inputs(case, device)
    results = _results(backend, case, data, right, backward=backward)
    wrong = faults(right, results)
    if backward and rounds_gradients(backend) and is_whole(_parts(backend, case), data):
        wrong += wider(results, case.torch_dtype)
    return wrong + changed(data.given, kind.inputs(case, device).given)


def repeat_faults(backend: Backend, case: AnyCase, device: str, *, backward: bool) -> list[str]:
    """What is wrong with results that are asked to be the same every time."""
    right, data = expected(case, device), case.kind.inputs(case, device)
    first, *others = (
        _results(backend, case, data, right, backward=backward, deterministic=True)
        for _ in range(3)
    )
    return faults(right, first) or unlike(first, others)


def two_block_faults(
    backend: Backend, case: AnyCase, device: str, *, backward: bool = True
) -> list[str]:
    """What is wrong when a causal case's first keys and the rest are computed as two blocks.

    The forwards are merged by hand; each backward gets the whole rows' out and lse.
    """
    kind, right = case.kind, expected(case, device)
    data, parts = kind.inputs(case, device), kind.two_blocks(case)
    results = kind.forward(backend, case, data, parts)
    out, lse = results["out"], results["lse"]
    wrong = faults(right, results)
    if not backward:
        return wrong
    share = kind.backward(backend, case, data, out.to(case.torch_dtype), lse, parts)
    return wrong + faults(right, share)


def _parts(backend: Backend, case: AnyCase) -> tuple[Cut, ...]:
    parts = case.kind.parts(backend, case)
    assert not isinstance(parts, str)  # the case's `refusal` says so, and is asked before
    return parts


def _results(
    backend: Backend, case: AnyCase, data: CaseTensors, right: Expected,
    *, backward: bool, deterministic: bool = False,
) -> Results:  # fmt: skip
    kind, parts = case.kind, _parts(backend, case)
    if backward:
        given = right.given
        return kind.backward(backend, case, data, *given, parts, deterministic=deterministic)
    return kind.forward(backend, case, data, parts)
