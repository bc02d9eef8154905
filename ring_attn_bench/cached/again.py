"""A step of decoding that was made before is made again at once: what it looks like is looked up.

A call that is looked at, checked and packed takes a host longer than a GPU takes for a short cache.
All of that follows from what `alike_of` looks at, and is done once.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.cached.memory import overlap, overwritten
from ring_attn_bench.calls.autograd_limits import transforms
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.contract.cache import CachedCall, CallAgain, is_latent

_made: Remembered[CallAgain] = Remembered()


Alike = tuple[Hashable, list[Tensor]]
"""What all calls look like that can be made again by one of them, and this one's
`CachedCall.tensors`."""


def again(alike: Alike, *, wants_lse: bool) -> tuple[Tensor, Tensor | None] | None:
    """What `CallAgain` gives, or None where this is to be looked at."""
    key, tensors = alike
    made = _made.find(key)
    return None if made is None else made(tensors, wants_lse=wants_lse)


def keep(alike: Alike, call: CachedCall, again: CallAgain | None) -> None:
    """Keeps how it is made again, unless the call was made of copies."""
    key, tensors = alike
    made_of = call.tensors
    if again is None or len(made_of) != len(tensors):
        return
    if all(one is other for one, other in zip(made_of, tensors, strict=True)):
        _made.keep(key, again)


def alike_of(given: CacheGiven, options: Options) -> Alike | None:
    """All that a call follows from but addresses and contents, if it can be made again."""
    try:
        return _alike_of(given, options)
    except Exception:  # no tensor, or none of memory: refused where all is checked
        return None


def _alike_of(given: CacheGiven, options: Options) -> Alike | None:
    (
        q, k_cache, v_cache, k, v, cos, sin, lengths, rows, skipped, table,
        interleaved, splits,
    ) = given  # fmt: skip
    if not (type(q) is Tensor and _is_on_gpu(q) and options.is_plain()):
        return None
    if type(interleaved) is not bool or type(splits) is not int or transforms():
        return None
    records = torch.is_grad_enabled()
    tensors: list[Tensor] = []
    looks: list[object] = []
    for x in (
        q, k_cache, v_cache, lengths, table, rows, skipped, options.sink,
        k, v, cos, sin, options.alibi_slopes,
    ):  # fmt: skip
        if x is None:
            looks.append(None)
            continue
        # an integer too; of what requires a gradient there is a sentence
        if type(x) is not Tensor or x.is_neg() or (records and x.requires_grad):
            return None
        # where nothing lies between its elements the shape tells its strides
        strides = None if x.is_contiguous() else x.stride()
        looks += (x.size(), strides, x.dtype, x.get_device())
        tensors.append(x)
    if k is not None and _cannot_append(k_cache, v_cache, (q, k, v)):
        return None
    key = (
        *looks, interleaved, splits, options.backend, options.softmax_scale, options.causal,
        options.window_size, options.softcap, is_latent(k_cache, v_cache),
    )  # fmt: skip
    return key, tensors


def _is_on_gpu(q: Tensor) -> bool:
    """On a CPU contents are looked at each time."""
    return q.is_cuda


def _cannot_append(k_cache: Tensor, v_cache: Tensor, read: tuple[Tensor | None, ...]) -> bool:
    """Where nothing, or nobody knows which, would be put into a cache: there is a sentence.

    And where what is read is overwritten: there is a copy.
    """
    if overlap(k_cache, v_cache):
        return True
    if overwritten(read, (k_cache, v_cache)):
        return True
    of_inference = k_cache.is_inference() or v_cache.is_inference()
    return of_inference and not torch.is_inference_mode_enabled()
