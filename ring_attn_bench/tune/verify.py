"""Whether a trial is right: small problems of odd length, against float64 and by the usual rule."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ring_attn_bench.conformance import blocks
from ring_attn_bench.conformance.cases import ALL, CAUSAL, BlockCase
from ring_attn_bench.conformance.expected import Expected, Results, expected
from ring_attn_bench.conformance.faults import changed, faults
from ring_attn_bench.conformance.inputs import NAN, CaseTensors
from ring_attn_bench.contract.tensors import Sums
from ring_attn_bench.contract.tunable import Trial, TrialTensors, Tunable
from ring_attn_bench.plan.lower import Cut
from ring_attn_bench.plan.positions import Range, Span
from ring_attn_bench.records.outcome import TypedTrial

TOKENS = {"cuda": (777, 200), "cpu": (150, 50)}
"""By device: no multiple of any tile, but some whole tiles (on a CPU, which interprets, one); and
how many of the keys come before the rows, where they are a block of their own."""
ALIGNED = 16
"""Triton compiles for strides that 16 divides, as the lengths that are timed have them, anew."""


def cases(subject: TypedTrial, device: str) -> tuple[BlockCase, ...]:
    """Full, causal, and a causal one whose keys are two blocks: the second is added to the first.

    The last again without grouped heads: who has a group may share it among programs, and adds up
    their shares in another kernel.
    """
    tokens, before = TOKENS[device]
    batch, heads, key_heads = (2, 4, 2) if device == "cuda" else (1, 2, 1)
    all_of_it, rest = (Span(0, tokens),), (Span(before, tokens - before),)
    full = BlockCase(
        "full", all_of_it, all_of_it, ALL, batch, heads, key_heads, subject.trial.head_dim,
        dtype=subject.dtype,
    )  # fmt: skip
    added = replace(full, title="two blocks, causal", rows=rest, mask=CAUSAL)
    return (
        full,
        replace(full, title="causal", mask=CAUSAL),
        added,
        replace(added, title="two blocks, causal, no groups", key_heads=heads),
    )


def fault(backend: Tunable, subject: TypedTrial, device: str) -> str | None:
    """What is wrong with the trial, or None. Raises whatever the trial raises."""
    for case in cases(subject, device):
        wrong = _faults(backend, subject.trial, case, device)
        if wrong:
            return f"{case}: {wrong[0]}"
    return None


def _faults(backend: Tunable, trial: Trial, case: BlockCase, device: str) -> list[str]:
    data, right = case.kind.inputs(case, device), expected(case, device)
    results = _computed(backend, trial, case, data, right)
    return faults(right, results) + changed(data.given, case.kind.inputs(case, device).given)


def _computed(
    backend: Tunable, trial: Trial, case: BlockCase, data: CaseTensors, right: Expected
) -> Results:
    parts, score = _parts(case), case.score(data.q.device.type)
    added = len(parts) > 1
    tensors = _tensors(trial, case, data, right, wide=added)
    for part in parts:
        sums = tensors.sums.part(part.rows, part.keys)
        own = replace(tensors, keys=tensors.keys.part(part.keys), sums=sums)
        first = part is parts[0]
        if trial.kernel != "backward_dkdv":
            backend.trial_launch(trial, own, part.block, score, add=not first)()
            continue
        # each block has keys of its own: their share is written, and then added, which doubles it
        for again in (False, True) if added else (False,):
            backend.trial_launch(trial, own, part.block, score, add=again)()
    if trial.kernel == "forward":
        return {"out": tensors.rows.out, "lse": tensors.rows.lse}
    if trial.kernel == "backward_dq":
        return {"dq": tensors.sums.dq}
    times = 2 if added else 1
    return {"dk": tensors.sums.dk / times, "dv": tensors.sums.dv / times}


def _parts(case: BlockCase) -> tuple[Cut, ...]:
    """The keys before the first row, if there are any, are a block of their own."""
    before = case.rows[0].start
    if before:
        return blocks.split(case, before)
    rows, keys = case.block.row_count, case.block.key_count
    return (Cut(Range(0, rows), Range(0, keys), case.block),)


def _tensors(
    trial: Trial, case: BlockCase, data: CaseTensors, right: Expected, *, wide: bool
) -> TrialTensors:
    """Outputs hold NaN. wide: whether out is one that is added to."""
    rows, keys = data.rows(*right.given), data.keys
    assert rows.delta is not None
    lse = torch.full_like(rows.lse, NAN) if trial.kernel == "forward" else rows.lse
    out = torch.full_like(data.dout, NAN, dtype=case.wide_dtype if wide else case.torch_dtype)
    rows = rows._replace(out=out, lse=_aligned(lse), delta=_aligned(rows.delta))
    sums = Sums(*(torch.full_like(x, NAN, dtype=case.wide_dtype) for x in (data.q, *keys)))
    return TrialTensors(rows, keys, sums)


def _aligned(x: Tensor) -> Tensor:
    """The same values (B, H, M), cut out of rows whose length ALIGNED divides."""
    *outer, length = x.shape
    whole = x.new_full((*outer, -(-length // ALIGNED) * ALIGNED), NAN)
    return whole[..., :length].copy_(x)
