"""Tensors as a kernel can take them: a head dim that it has, and rows that begin where it reads.

A head dim is widened with zeros. That is exact: zero columns add nothing to q.k and to dout.v,
and what a kernel writes into them is cut off again.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ring_attn_bench.contract.cache import Cache
from ring_attn_bench.contract.tensors import Keys, Sums
from ring_attn_bench.errors import Unsupported

_ALIGNMENT = 16
"""Bytes: kernels load so many at once, and most do not check that they may."""


def rounded(dim: int, multiple: int) -> int:
    """The least multiple that is not less than dim."""
    return -(-dim // multiple) * multiple


def fitted(x: Tensor, width: int) -> Tensor:
    """x with its last dim widened to `width`, in memory that any kernel reads.

    x itself where nothing is to be done. Copied are rows that do not begin at a multiple of 16
    bytes, and dims of stride 0, which `sum().backward()` and `expand` make and TMA may not take.
    """
    if x.shape[-1] < width:
        wide = x.new_zeros(*x.shape[:-1], width)
        wide[..., : x.shape[-1]] = x
        return wide
    return x if _is_readable(x) else x.clone(memory_format=torch.contiguous_format)


def ended(starts: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies of tensors by token, with zeros from where the last document ends.

    For kernels that read whole tiles, and multiply what lies behind a document by weights of 0: by
    NaN in memory that nobody has written, they would spoil the last one. Where it ends only the
    device knows, so this is paid for whether or not there is anything behind.
    """
    numbers = torch.arange(len(tensors[0]), dtype=starts.dtype, device=starts.device)
    inside = (numbers < starts[-1])[:, None, None]
    return tuple(torch.where(inside, x, 0.0) for x in tensors)


def cropped(shares: Iterable[Tensor], keys: Keys) -> Sums:
    """dq, dk and dv without the columns that q, k and v were widened by; keys: as they came."""
    dq, dk, dv = shares
    dim, dim_v = keys.k.shape[-1], keys.v.shape[-1]
    return Sums(dq[..., :dim], dk[..., :dim], dv[..., :dim_v])


def check_readable(backend: str, cache: Cache) -> None:
    """Raises Unsupported where a kernel would end in a misaligned address.

    `fitted` would copy a cache in every call, and what is appended would go into the copy.
    """
    for name, x in (("k_cache", cache.k), ("v_cache", cache.v)):
        if not _is_aligned(x):
            raise Unsupported(
                backend,
                f"the tokens of {name} must begin at multiples of {_ALIGNMENT} bytes, where its "
                f"kernel reads; pass {name}.contiguous(), kept as the cache",
            )


def _is_readable(x: Tensor) -> bool:
    return _is_aligned(x) and all(s or n < 2 for s, n in zip(x.stride(), x.shape, strict=True))


def _is_aligned(x: Tensor) -> bool:
    if x.numel() == 0:
        return True
    if x.data_ptr() % _ALIGNMENT or x.stride(-1) != 1:
        return False
    strides = (s for s, size in zip(x.stride()[:-1], x.shape[:-1], strict=True) if size > 1)
    return all(s * x.element_size() % _ALIGNMENT == 0 for s in strides)
