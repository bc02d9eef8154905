"""Documents of which only the first keys are used: flash-attn's seqused_k."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ring_attn_bench.calls.validate import check_packed, check_starts, check_used, read
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.one_device.outside import settled
from ring_attn_bench.plan.problem import Documents

_ANY = 2**62
"""A longest document, where none is too long: what counts is how many keys are used."""


def with_used_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    used: Tensor,
    *,
    checks: bool,
) -> tuple[Tensor, Tensor, Documents]:
    """k and v with the used keys of all documents in front, and documents of those alone.

    used: int32 (documents,). checks: whether to read lengths on a GPU too, and refuse wrong ones;
    else what is less than 0, or more than the document has, counts as 0, or as all of them.
    Raises InvalidArgument.
    """
    starts = documents.cu_seqlens_q, documents.cu_seqlens_k
    given = Documents(*starts, _ANY, _ANY)
    check_packed(q, k, v, given)  # on a CPU what starts hold too
    check_used(used, len(starts[1]) - 1, k)
    if checks and k.is_cuda:
        check_starts(given, q, k)
    reads = checks or not k.is_cuda
    if reads:
        _check_numbers(used, starts[1])
    ours, theirs = settled(starts, (len(q), len(k)), (len(q), len(k)))
    lengths = used.clamp(min=0).minimum(theirs.diff())
    ends = torch.cat((lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)))
    order = _used_first(theirs, lengths, len(k))
    if reads:
        order = order[: int(ends[-1])]
    found = Documents(ours, ends, documents.max_seqlen_q, documents.max_seqlen_k, documents.mask)
    return k.index_select(0, order), v.index_select(0, order), found


def _used_first(starts: Tensor, lengths: Tensor, tokens: int) -> Tensor:
    """The tokens in another order, each once: those that are used, as they stand, before others."""
    at = torch.arange(tokens, device=starts.device, dtype=torch.int32)
    document = torch.searchsorted(starts, at, right=True) - 1
    inside = (document >= 0) & (document < len(lengths))
    document = document.clamp(0, len(lengths) - 1)
    is_used = inside & (at - starts[document] < lengths[document])
    return torch.argsort((~is_used).to(torch.int8), stable=True)


def _check_numbers(used: Tensor, starts: Tensor) -> None:
    ((*at,),) = read("cu_seqlens_k", starts)
    ((*counts,),) = read("seqused_k", used)
    for index, (count, (start, stop)) in enumerate(zip(counts, pairwise(at), strict=True)):
        if not 0 <= count <= stop - start:
            raise InvalidArgument(
                f"seqused_k says that document {index} uses {count} keys, but it has "
                f"{stop - start}; it must be 0 to that many."
            )
