"""Whether these kernels compute what is asked for, and on which GPU."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.triton.arguments import needs_precise_tanh
from ring_attn_backends.triton.hopper.extents import Extent
from ring_attn_backends.triton.hopper.table import CAPABILITY, NARROWEST, WIDEST, refusal
from ring_attn_bench.problem import Documents

if TYPE_CHECKING:
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Gathering

_log = logging.getLogger("ring_attn_bench")


def serves(tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> bool:
    """Whether these kernels compute it, on this GPU; tensors: q, k, v, and dout if given."""
    if not tensors[0].is_cuda or unserved(tensors[0].device.index) is not None:
        return False
    return lacks(tensors, where, score) is None


def lacks(tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> str | None:
    """Why a block, or documents, are left to the plain kernels on any GPU, or None."""
    from ring_attn_backends.triton.hopper.descriptors import fits

    q, k, v, *_ = tensors
    if score.alibi_slopes is not None or score.dropout_p > 0:
        return "ALiBi and dropout"
    if score.softmax_scale <= 0:
        return "a scale that is not positive"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return str(q.dtype)
    if needs_precise_tanh(q.dtype, score):
        return f"a softcap of {score.softcap:g}, for which their tanh is too rough"
    if not NARROWEST < max(q.shape[-1], v.shape[-1]) <= WIDEST:
        return f"head dims {q.shape[-1]} and {v.shape[-1]}"
    if not isinstance(where, Documents) and where.index_band is None:
        return "chunks with a mask that is no band of indices"
    if 0 in (*q.shape, *k.shape) or Extent.of(where, q.shape[0]).is_empty:
        return "nothing to compute"
    if not all(fits(x) for x in tensors):
        return "strides or addresses that TMA cannot read"
    return None


def serves_gathered(tensors: tuple[Tensor, ...], keys: Gathering, score: Score) -> bool:
    """Whether these kernels compute it for gathered keys; tensors: q, and dout if given."""
    from ring_attn_backends.triton.hopper.descriptors import fits

    q, (k, v) = tensors[0], keys.own
    if not q.is_cuda or unserved(q.device.index) is not None:
        return False
    packed = all(_in_a_row(x) for group in keys[:2] for x in group)
    wide = NARROWEST < max(q.shape[-1], v.shape[-1]) <= WIDEST
    return (
        score.alibi_slopes is None
        and score.dropout_p == 0
        and score.softmax_scale > 0
        and q.dtype in (torch.float16, torch.bfloat16)
        and not needs_precise_tanh(q.dtype, score)
        and wide
        and packed
        and 0 not in (*q.shape, *k.shape, keys.landed.k.shape[1])
        and all(fits(x) for x in (*tensors, *keys.own, *keys.landed))
    )


def _in_a_row(keys: Tensor) -> bool:
    """Whether the heads of all batch entries of (B, N, G, D) lie in a row, as packed keys do."""
    return keys.shape[0] == 1 or keys.stride(0) == keys.shape[2] * keys.stride(2)


@cache
def unserved(device: int) -> str | None:
    """Why these kernels do not run on that GPU, or None."""
    import triton

    capability = torch.cuda.get_device_capability(device)
    why = refusal(capability, triton.__version__, bool(triton.knobs.runtime.interpret))
    if why is not None and capability == CAPABILITY:
        _log.warning("backend 'triton' takes its plain kernels, not those for Hopper: %s.", why)
    return why
