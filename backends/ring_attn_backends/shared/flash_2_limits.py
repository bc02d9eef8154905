"""What flash-attn 2's kernels cannot do, in any build of them and in the one at hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from ring_attn_backends.shared import flash_2
from ring_attn_backends.shared.calls import FlashCall
from ring_attn_backends.shared.padding import rounded
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.problem import Documents, Mask, Problem, Score

_MAX_HEAD_DIM = 256
_PROBE_TOKENS = 4
_LITTLE_SHARED_MEMORY = {(8, 6), (8, 9), (12, 0), (12, 1)}
"""Devices of 99 KiB for a block."""


def unsupported(problem: Problem) -> str | None:
    """What no build computes right."""
    if torch.cuda.get_device_capability() < (8, 0):
        return "its CUDA kernel needs sm_80 or newer"
    if problem.dtype not in {"float16", "bfloat16"}:
        return f"its CUDA kernel computes in float16 and bfloat16 only, not {problem.dtype}"
    dim = max(problem.head_dim, problem.head_dim_v)
    if dim > _MAX_HEAD_DIM:
        return f"its CUDA kernel has head dims of at most {_MAX_HEAD_DIM} (got {dim})"
    if problem.dropout_p and problem.softcap:
        return "its CUDA kernel has dropout and softcap, but not both at once"
    little = torch.cuda.get_device_capability() in _LITTLE_SHARED_MEMORY
    if problem.dropout_p and problem.backward and dim > 192 and little:
        # flash_bwd_launch_template.h:300 returns without a word, and without gradients
        return f"with dropout, its backward at head dim {dim} needs 144 KiB of shared memory"
    elements = problem.seqlen * problem.heads_q * rounded(dim, 64)
    if problem.packed and problem.backward and elements >= 2**31:
        return f"its backward counts elements of packed queries in 32 bits (got {elements})"
    return None


def build_refusal(kernels: flash_2.Kernels, problem: Problem) -> str | None:
    """What the installed build was made without, asked of it by a call on a few tokens.

    A build says in an error what was left out of it, and says it nowhere else.
    """
    dim = rounded(max(problem.head_dim, problem.head_dim_v), 8)
    left = 1 if problem.mask.has_window else None
    asked = replace(
        problem, batch=1, seqlen=_PROBE_TOKENS, heads_q=1, heads_kv=1, head_dim=dim, head_dim_v=dim,
        mask=Mask(problem.mask.causal, left),
    )  # fmt: skip
    return _tried(kernels, asked)


@cache
def _tried(kernels: flash_2.Kernels, problem: Problem) -> str | None:
    dtype: torch.dtype = getattr(torch, problem.dtype)
    q = torch.zeros(1, _PROBE_TOKENS, 1, problem.head_dim, dtype=dtype, device=problem.device)
    slopes = torch.ones(1, device=q.device) if problem.alibi else None
    score = Score(1.0, problem.softcap, slopes, problem.dropout_p)
    documents = None
    if problem.packed:
        q = q[0]
        ends = torch.arange(0, _PROBE_TOKENS + 1, _PROBE_TOKENS, dtype=torch.int32, device=q.device)
        documents = Documents(ends, ends, _PROBE_TOKENS, _PROBE_TOKENS)
    right = 0 if problem.mask.causal else None
    call = FlashCall(problem.mask.window_left, right, score, 0, documents)
    try:
        out, lse = flash_2.forward(kernels, q, Keys(q, q), call)
        if problem.backward:
            rows = Rows(q, q, out, lse)
            flash_2.backward(kernels, rows, Keys(q, q), call, deterministic=problem.deterministic)
    except RuntimeError as error:
        return left_out(error)
    return None


def left_out(error: RuntimeError) -> str:
    """What a build lacks, by its own error; any other is raised: something is broken."""
    if "build" not in str(error):
        raise error
    return f"what is installed was built without it: {str(error).splitlines()[0]}"
