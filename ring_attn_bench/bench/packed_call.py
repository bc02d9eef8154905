"""A kernel's call of packed documents on one device, as `flash_attn_varlen_func` makes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ring_attn_bench.bench.contestant import problem_of
from ring_attn_bench.bench.documents import first_tokens, starts_of, stretches
from ring_attn_bench.bench.inputs import Inputs, score_of
from ring_attn_bench.calls.attend import Given
from ring_attn_bench.calls.delta import delta
from ring_attn_bench.contract.backend import Backend, PackedBackend, abilities
from ring_attn_bench.contract.backend import reason_against as refused_by
from ring_attn_bench.contract.tensors import Rows, Sums
from ring_attn_bench.one_device.call import local_planner
from ring_attn_bench.one_device.documents import DocumentsCall, PackedKernel
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.records.record import Case
from ring_attn_bench.ring.packing import accumulator_dtype


@dataclass(frozen=True)
class PackedCall:
    """All documents in one row of tokens; starts: cu_seqlens, int32 on their device."""

    call: DocumentsCall
    starts: Tensor

    @property
    def is_one_call(self) -> bool:
        """Whether the kernel takes them packed; else it is called for each of them."""
        return not isinstance(self.call.kernel, OneByOne)

    def forward(self, x: Inputs) -> tuple[Tensor, Tensor]:
        """out (1, T, H, E) and lse (1, H, T)."""
        out, lse = self.call.forward(self._given(x))
        return out[None], lse[None]

    def backward(self, x: Inputs, out: Tensor, lse: Tensor) -> Sums:
        """dq, dk and dv, with a batch dim."""
        wide = accumulator_dtype(out.dtype)
        row_sums = delta(x.dout[0], out[0], wide) if self.call.needs_delta else None
        rows = Rows(x.q[0], x.dout[0], out[0], lse[0], row_sums)
        return Sums(*(sums[None] for sums in self.call.backward(self._given(x), rows, None)))

    def _given(self, x: Inputs) -> Given:
        q, k, v = x.q[0], x.k[0], x.v[0]
        return Given(q, k, v, cu_seqlens_q=self.starts, cu_seqlens_k=self.starts)


def reason_against(case: Case, packed: PackedCall) -> str | None:
    """Why a kernel that is called for each document cannot be for one of them, or None."""
    kernel, starts = packed.call.kernel, starts_of(case)
    if not isinstance(kernel, OneByOne):
        return None
    able = abilities(kernel.backend, alibi=False)
    plans = (
        local_planner(stop - start, stop - start, packed.call.mask)(able)
        for start, stop in stretches(starts, case.seqlen_total)
    )
    return next((plan for plan in plans if isinstance(plan, str)), None)


def make(case: Case, backend: Backend, device: torch.device, length: int) -> PackedCall:
    """Of the first `length` tokens of the case's documents."""
    starts = starts_of(case)
    assert starts is not None  # who calls has asked
    starts = first_tokens(starts, length)
    longest = max(stop - start for start, stop in pairwise(starts))
    whole = problem_of(case, device, backward=True)
    problem = replace(whole, batch=len(starts) - 1, seqlen=longest, packed=True)
    kernel: PackedKernel = OneByOne(backend)
    if isinstance(backend, PackedBackend) and refused_by(backend, problem) is None:
        kernel = backend
    call = DocumentsCall(kernel, longest, longest, problem.mask, score_of(case), case.deterministic)
    return PackedCall(call, torch.tensor(starts, dtype=torch.int32, device=device))
