"""What is wrong with what a backend adds in place (`AccumulatingBackend`), over a row's two blocks.

Accumulators begin as NaN, which `first` says to overwrite, and not to add to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench.calls import kernel
from ring_attn_bench.conformance import blocks
from ring_attn_bench.conformance.cases import AnyCase
from ring_attn_bench.conformance.expected import Expected, Results, expected
from ring_attn_bench.conformance.faults import changed, faults
from ring_attn_bench.conformance.inputs import NAN, CaseTensors, cut
from ring_attn_bench.contract.backend import AccumulatingBackend, Backend
from ring_attn_bench.contract.tensors import Running, Sums
from ring_attn_bench.plan.lower import Cut


def accumulated_faults(
    backend: Backend, case: AnyCase, device: str, *, backward: bool
) -> list[str]:
    """Of a causal case with more keys than rows: its first keys are one block, the rest another."""
    assert isinstance(backend, AccumulatingBackend)  # is asked before
    kind, right = case.kind, expected(case, device)
    data, parts = kind.inputs(case, device), kind.two_blocks(case)
    if backward:
        results = _backward(backend, case, data, parts, right)
    else:
        results = _forward(backend, case, data, parts)
    return faults(right, results) + changed(data.given, kind.inputs(case, device).given)


def _forward(
    backend: AccumulatingBackend, case: AnyCase, data: CaseTensors, parts: tuple[Cut, ...]
) -> Results:
    """The last block writes the merged out to another tensor, in the inputs' dtype."""
    score = case.score(data.q.device.type)
    out = torch.full_like(data.dout, NAN, dtype=case.wide_dtype)
    target = torch.full_like(data.dout, NAN)
    lse = cut(out.new_full(out[..., 0].mT.shape, NAN))
    for part in parts:
        keys = data.keys.part(part.keys)
        running = Running(out, lse, target if part is parts[-1] else None)
        first = part is parts[0]
        kernel.forward_into(backend, data.q, keys, running, part.block, score, first=first)
    return {"out": target, "lse": lse}


def _backward(
    backend: AccumulatingBackend, case: AnyCase, data: CaseTensors, parts: tuple[Cut, ...],
    right: Expected,
) -> Results:  # fmt: skip
    """Each block's keys get their share twice, written and then added: half of it is the share."""
    score = case.score(data.q.device.type)
    rows, keys = data.rows(*right.given), data.keys
    sums = Sums(*(_unwritten(x, case) for x in (data.q, *keys)))
    for part in parts:
        for again in (False, True):
            into = sums._replace(dq=_unwritten(data.q, case)) if again else sums
            kernel.backward_into(
                backend, blocks.cut_out(rows, backend), keys.part(part.keys),
                into.part(part.rows, part.keys), part.block, score,
                first=again or part is parts[0], first_keys=not again, deterministic=False,
            )  # fmt: skip
    return {"dq": sums.dq, "dk": sums.dk / 2, "dv": sums.dv / 2}


def _unwritten(like: Tensor, case: AnyCase) -> Tensor:
    return torch.full(like.shape, NAN, dtype=case.wide_dtype, device=like.device)
