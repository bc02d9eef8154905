"""Whether these kernels compute what is asked for, and on which GPU."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.triton.arguments import needs_precise_tanh
from ring_attn_backends.triton.hopper.extents import Extent
from ring_attn_bench.plan.problem import Documents, Score

if TYPE_CHECKING:
    from ring_attn_bench.contract.tensors import Gathering
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import Problem

CAPABILITY = (9, 0)
"""Of the GPUs that have what these kernels use: wgmma, and TMA as Hopper has it."""
TRITON_VERSIONS = ("3.6.", "3.7.")
"""Gluon is experimental and changes; these are the versions that the kernels were compiled with."""
NARROWEST, WIDEST = 32, 256
"""Head dims above the one and up to the other are served, in tiles of the next width of the table:
up to 32 half of each tile would be empty."""
_log = logging.getLogger("ring_attn_bench")


def serves(tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> bool:
    """Whether these kernels compute it, on this GPU; tensors: q, k, v, and dout if given."""
    if not tensors[0].is_cuda or unserved(tensors[0].device.index) is not None:
        return False
    return lacks(tensors, where, score) is None


def serves_cache(tensors: tuple[Tensor, ...], score: Score) -> bool:
    """Whether these kernels compute it for rows of a cache, on this GPU; tensors: q, k, v."""
    from ring_attn_backends.triton.hopper.descriptors import fits

    q, k, v = tensors
    if not q.is_cuda or unserved(q.device.index) is not None:
        return False
    return (
        _lacks(q, v, score) is None
        and 0 not in (*q.shape, *k.shape)
        and all(fits(x) for x in tensors)
        and all(_one_behind_the_other(x) for x in (k, v))
    )


def lacks(tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> str | None:
    """Why a block, or documents, are left to the plain kernels on any GPU, or None."""
    from ring_attn_backends.triton.hopper.descriptors import fits

    q, k, v, *_ = tensors
    why = _lacks(q, v, score)
    if why is not None:
        return why
    if not isinstance(where, Documents) and where.index_band is None:
        return "chunks with a mask that is no band of indices"
    if 0 in (*q.shape, *k.shape) or Extent.of(where, q.shape[0]).is_empty:
        return "nothing to compute"
    if not all(fits(x) for x in tensors):
        return "strides or addresses that TMA cannot read"
    return None


def serves_problem(problem: Problem) -> bool:
    """Whether these kernels compute its blocks, on the GPU that is current, as shards lie there."""
    if problem.device != "cuda" or unserved(torch.cuda.current_device()) is not None:
        return False
    if problem.alibi or problem.dropout_p > 0:
        return False
    dtype: torch.dtype = getattr(torch, problem.dtype)
    dims = problem.head_dim, problem.head_dim_v
    return _too_much(dtype, dims, Score(1.0, problem.softcap)) is None


def serves_gathered(tensors: tuple[Tensor, ...], keys: Gathering, score: Score) -> bool:
    """Whether these kernels compute it for gathered keys; tensors: q, and dout if given."""
    from ring_attn_backends.triton.hopper.descriptors import fits

    q, (k, v) = tensors[0], keys.own
    read = (*keys.own, *(keys.landed if keys.landed.k.shape[1] else ()))
    if not q.is_cuda or unserved(q.device.index) is not None:
        return False
    return (
        _lacks(q, v, score) is None
        and all(_in_a_row(x) for x in read)
        and 0 not in (*q.shape, *k.shape)
        and all(fits(x) for x in (*tensors, *read))
    )


def _lacks(q: Tensor, v: Tensor, score: Score) -> str | None:
    """What of scores, dtype and head dims is left to the plain kernels, or None."""
    if score.alibi_slopes is not None or score.dropout_p > 0:
        return "ALiBi and dropout"
    if score.softmax_scale <= 0:
        return "a scale that is not positive"
    return _too_much(q.dtype, (q.shape[-1], v.shape[-1]), score)


def _too_much(dtype: torch.dtype, head_dims: tuple[int, int], score: Score) -> str | None:
    """What of the dtype, the softcap and the head dims is left to the plain kernels, or None."""
    if dtype not in (torch.float16, torch.bfloat16):
        return str(dtype)
    if needs_precise_tanh(dtype, score):
        return f"a softcap of {score.softcap:g}, for which their tanh is too rough"
    if not NARROWEST < max(head_dims) <= WIDEST:
        return "head dims {} and {}".format(*head_dims)
    return None


def _in_a_row(keys: Tensor) -> bool:
    """Whether the heads of all batch entries of (B, N, G, D) lie in a row, as packed keys do."""
    return keys.shape[0] == 1 or keys.stride(0) == keys.shape[2] * keys.stride(2)


def _one_behind_the_other(keys: Tensor) -> bool:
    """Whether the tokens of all rows of (R, C, G, D) are as far apart as those of one."""
    return keys.shape[0] == 1 or keys.stride(0) == keys.shape[1] * keys.stride(1)


@cache
def unserved(device: int) -> str | None:
    """Why these kernels do not run on that GPU, or None."""
    import triton

    capability = torch.cuda.get_device_capability(device)
    why = refusal(capability, triton.__version__, bool(triton.knobs.runtime.interpret))
    if why is not None and capability == CAPABILITY:
        _log.warning("backend 'triton' takes its plain kernels, not those for Hopper: %s.", why)
    return why


def refusal(capability: tuple[int, int] | None, triton: str, interpreted: bool) -> str | None:
    """Why nothing is served here, or None. capability: the GPU's, or None if there is none."""
    if interpreted:
        return "Triton interprets"
    if capability != CAPABILITY:
        return "no Hopper" if capability is None else "no Hopper, but sm_{}{}".format(*capability)
    if not triton.startswith(TRITON_VERSIONS):
        return f"not tried with Triton {triton}"
    return None
