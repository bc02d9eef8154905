"""From a caller's arguments to a checked call and its tensors, on one device as on a ring."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ring_attn_bench.calls.attend import Call, Given
from ring_attn_bench.calls.autocast import as_autocast
from ring_attn_bench.calls.autograd_limits import check_not_traced
from ring_attn_bench.calls.layout import in_a_row, rows_in_a_row, with_unit_stride
from ring_attn_bench.calls.options import Options, drawn_seed
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.calls.validate import checked
from ring_attn_bench.plan.problem import Documents, Problem

Made = TypeVar("Made")
Seeded = TypeVar("Seeded", bound=Call)


class Way(Protocol[Made]):
    """Where a call is computed: on one device, of packed documents there, or on a ring."""

    @property
    def calls(self) -> Remembered[Made]:
        """Calls that were made before, by their keys."""
        ...

    @property
    def ranks(self) -> int | None:
        """Over how many the sequence is dealt; None on one device."""
        ...

    def made(self, problem: Problem, options: Options) -> Made:
        """The call that computes the problem, without its tensors; raises as `choose`."""
        ...


def prepared(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    way: Way[Made],
    documents: Documents | None = None,
) -> tuple[Made, Given, Options]:
    """The call, its tensors, and the options in plain types.

    Checks and choice follow from shapes, dtypes and numbers, and are made once for each of them:
    they take the host some 50 us. Only what the starts of documents hold is looked at each time,
    on a CPU. Raises what the public functions document.
    """
    if torch._C._get_tracing_state() is not None:
        check_not_traced()
    q, k, v = as_autocast(with_unit_stride(q), with_unit_stride(k), with_unit_stride(v))
    options = options.plain()
    options = within_float32(options, q)
    starts: tuple[Tensor, ...] = ()
    if documents is None:
        key = options.key(q, k, v)
    else:
        documents = _plain(documents)
        starts = in_a_row(documents.cu_seqlens_q), in_a_row(documents.cu_seqlens_k)
        longest = documents.max_seqlen_q, documents.max_seqlen_k
        on_gpu = getattr(q, "is_cuda", False)
        key = options.key(q, k, v, *starts, more=longest) if on_gpu else None
    call = way.calls.find(key)
    if call is None:
        call = way.made(checked(q, k, v, options, way.ranks, documents), options)
        way.calls.keep(key, call)
    if not q.stride(-1) == k.stride(-1) == v.stride(-1) == 1:
        q, k, v = rows_in_a_row(q), rows_in_a_row(k), rows_in_a_row(v)
    slopes = options.alibi_slopes
    slopes = None if slopes is None else in_a_row(slopes)
    if options.softmax_scale is not None and options.softmax_scale <= 0:
        q = with_unit_stride(options.folded(q))
    return call, Given(q, k, v, options.sink, slopes, *starts), options


_LARGEST = torch.finfo(torch.float32).max
_NO_CAP = 1e30
"""A softcap of which float32 scores below 1e26 differ from their own by less than a rounding, and
which kernels overflow with, in their units, or divide a score away by."""


def within_float32(options: Options, q: object) -> Options:
    """Plain options of a q, of numbers that kernels compute with as they are meant."""
    if options.softmax_scale is not None:
        options = _without_underflow(options, q)
    if options.softcap and _caps_nothing(options.softcap, q):
        options = options._replace(softcap=0.0)
    return options


def _caps_nothing(softcap: float, q: object) -> bool:
    """Whether it is none: 0 or less, as in flash-attn, or too large to be felt."""
    if softcap <= 0:
        return True
    return _NO_CAP <= softcap <= _LARGEST and getattr(q, "dtype", None) is not torch.float64


def _without_underflow(options: Options, q: object) -> Options:
    """A scale that float32 takes for 0, or next to it, as the 0 that kernels would make of it."""
    scale = options.softmax_scale
    tiny = scale is not None and 0 < abs(scale) < torch.finfo(torch.float32).tiny
    if tiny and getattr(q, "dtype", None) is not torch.float64:
        return options._replace(softmax_scale=0.0)
    return options


def _plain(documents: Documents) -> Documents:
    longest_q, longest_k = documents.max_seqlen_q, documents.max_seqlen_k
    if type(longest_q) is type(longest_k) is int:
        return documents
    return replace(
        documents,
        max_seqlen_q=integer("max_seqlen_q", longest_q),
        max_seqlen_k=integer("max_seqlen_k", longest_k),
    )


def seeded(call: Seeded, options: Options) -> Seeded:
    """The call with its seed for dropout, drawn if none was given."""
    if not options.dropout_p:
        return call
    return call.seeded(drawn_seed() if options.dropout_seed is None else options.dropout_seed)
