"""What a caller passed with a cache, checked: each mistake is a sentence with what, got, allowed.

Shapes, dtypes and numbers alone; what lengths and tables hold is looked at in `contents`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.calls.dense import check_dense
from ring_attn_bench.calls.layout import is_expanded
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.validate import (
    check_alibi_slopes,
    check_numbers,
    check_sink,
    check_tensor,
    dtype_name,
)
from ring_attn_bench.contract.cache import is_latent
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.cached import MOST_SPLITS, CachedProblem, Dealt

_Q = ("batch", "tokens", "heads", "dim")
_ROWS = ("rows", "tokens", "heads", "dim")
_PAGES = ("pages", "page size", "heads", "dim")


def checked(given: CacheGiven, options: Options, dealt: Dealt | None) -> CachedProblem:
    """The problem as kernels are asked about it, if plain arguments can be right.

    dealt: how the cache lies on ranks, of which it is one's part; None is all of it.

    Raises InvalidArgument.
    """
    paged = given.block_table is not None
    check_tensor("q", given.q, _Q, may_be_empty=True)
    for name, x in (("k_cache", given.k_cache), ("v_cache", given.v_cache)):
        check_tensor(name, x, _PAGES if paged else _ROWS, may_be_empty=not paged)
    check_cache(given)
    batch = given.q.shape[0]
    page_size = given.k_cache.shape[1] if paged else None
    capacity = capacity_of(given, batch)
    if dealt is not None:
        _check_blocks(capacity, dealt)
        capacity *= dealt.ranks
    _check_new(given, batch, capacity)
    rotary_dim = _checked_rotary(given, capacity)
    if not isinstance(given.cache_seqlens, int):  # of which `contents` says what it may be
        _check_counts("cache_seqlens", given.cache_seqlens, batch, given.q.device)
    _check_counts("cache_batch_idx", given.cache_batch_idx, batch, given.q.device)
    _check_counts("cache_leftpad", given.cache_leftpad, batch, given.q.device)
    check_numbers(options)
    check_alibi_slopes(options.alibi_slopes, batch, given.q.shape[2], given.q.device)
    check_sink(options.sink, given.q.shape[2], given.q.device)
    if not 0 <= given.num_splits <= MOST_SPLITS:
        raise InvalidArgument(
            f"num_splits is {given.num_splits}; it must be 0, for as many as are fast, or the "
            f"number of programs that share the keys of a head, at most {MOST_SPLITS}."
        )
    check_no_gradient({**given._asdict(), "sink": options.sink})
    return CachedProblem(
        batch=batch,
        queries=given.q.shape[1],
        capacity=capacity,
        heads_q=given.q.shape[2],
        heads_kv=given.k_cache.shape[2],
        head_dim=given.q.shape[3],
        head_dim_v=given.v_cache.shape[3],
        dtype=dtype_name(given.q.dtype),
        device="cuda" if given.q.is_cuda else "cpu",
        mask=options.mask,
        softcap=options.softcap,
        alibi=options.alibi_slopes is not None,
        appended=0 if given.k is None else given.k.shape[1],
        page_size=page_size,
        rotary_dim=rotary_dim,
        indexed=given.cache_batch_idx is not None,
        padded=given.cache_leftpad is not None,
        splits=given.num_splits,
        latent=is_latent(given.k_cache, given.v_cache),
        dealt=dealt,
    )


def _check_blocks(room: int, dealt: Dealt) -> None:
    if room % dealt.block:
        raise InvalidArgument(
            f"the cache of this rank has room for {room} tokens, and block is {dealt.block}: the "
            "room must be a multiple of it."
        )


def check_cache(given: CacheGiven, names: tuple[str, str] = ("k_cache", "v_cache")) -> None:
    """Whether q and the cache, by these names of k and v, fit; raises InvalidArgument."""
    of_keys, of_values = names
    for name, x in zip(names, (given.k_cache, given.v_cache), strict=True):
        if x.stride(-1) != 1 and x.shape[-1] > 1:
            raise InvalidArgument(
                f"the last dim of {name} is not contiguous (its stride is {x.stride(-1)}, it must "
                f"be 1), and a copy of a cache in every call would be no cache; make it so once, "
                f"by {name}.contiguous()."
            )
    q, k, v = given.q, given.k_cache, given.v_cache
    for what, of_q, of_k, of_v in (
        ("dtype", q.dtype, k.dtype, v.dtype),
        ("device", q.device, k.device, v.device),
    ):
        if not of_q == of_k == of_v:
            raise InvalidArgument(
                f"q, {of_keys} and {of_values} must have one {what}, got {of_q}, {of_k} and {of_v}."
            )
    if k.shape[:3] != v.shape[:3]:
        raise InvalidArgument(
            f"{of_keys} has shape {tuple(k.shape)} and {of_values} {tuple(v.shape)}; all but their "
            "last dims must be the same."
        )
    if q.shape[-2] % k.shape[2]:
        raise InvalidArgument(
            f"q has {q.shape[-2]} heads and {of_keys} {k.shape[2]}: the query heads must be a "
            "multiple of the key heads."
        )
    if q.shape[-1] != k.shape[3]:
        raise InvalidArgument(
            f"q has head dim {q.shape[-1]} and {of_keys} {k.shape[3]}; they must be the same."
        )


def capacity_of(given: CacheGiven, batch: int) -> int:
    """Tokens that there is room for behind each entry; raises InvalidArgument."""
    table, size = given.block_table, given.k_cache.shape[1]
    if table is None:
        if given.cache_batch_idx is None and given.k_cache.shape[0] != batch:
            raise InvalidArgument(
                f"q has batch size {batch} and the cache {given.k_cache.shape[0]} rows; they must "
                "be as many, or cache_batch_idx says which row is whose."
            )
        return size
    if given.cache_batch_idx is not None:
        raise InvalidArgument(
            "cache_batch_idx is for a cache of rows, and block_table for one of pages; pass "
            "block_table[cache_batch_idx] alone."
        )
    check_dense("block_table", table)
    if table.dtype is not torch.int32:
        raise InvalidArgument(f"block_table is {dtype_name(table.dtype)}; it must be int32.")
    if table.ndim != 2 or table.shape[0] != batch or not table.shape[1]:
        raise InvalidArgument(
            f"block_table has shape {tuple(table.shape)}; it must be (batch, pages of an entry), "
            f"here ({batch}, 1 or more)."
        )
    _check_place("block_table", table, given.q.device)
    return size * table.shape[1]


def _check_new(given: CacheGiven, batch: int, capacity: int) -> None:
    """What is to be appended; raises InvalidArgument."""
    k, v = given.k, given.v
    if k is None and v is None:
        return
    if k is None or v is None:
        there, lacking = ("v", "k") if k is None else ("k", "v")
        raise InvalidArgument(
            f"{there} is given without {lacking}: new keys and values go into a cache together."
        )
    for name, x, cache in (("k", k, given.k_cache), ("v", v, given.v_cache)):
        check_tensor(name, x, _Q, may_be_empty=True)
        wanted = (batch, k.shape[1], *cache.shape[2:])
        if tuple(x.shape) != wanted:
            raise InvalidArgument(
                f"{name} has shape {tuple(x.shape)}; what is appended to {name}_cache must have "
                f"{wanted}: batch size, new tokens, heads, dim."
            )
        if x.dtype != cache.dtype:
            raise InvalidArgument(
                f"{name} is {dtype_name(x.dtype)} and {name}_cache {dtype_name(cache.dtype)}; they "
                "must be the same."
            )
        _check_place(name, x, given.q.device)
    if given.cache_seqlens is None:
        raise InvalidArgument(
            "k and v are given without cache_seqlens, which says behind how many tokens of the "
            "cache they go."
        )
    _check_writable(given)
    if k.shape[1] > capacity:
        raise InvalidArgument(
            f"k has {k.shape[1]} new tokens, and the cache has room for {capacity} in all."
        )


def _check_writable(given: CacheGiven) -> None:
    """Whether new tokens can be put into the cache, each where it has no other."""
    for name, cache in (("k_cache", given.k_cache), ("v_cache", given.v_cache)):
        if cache.is_inference() and not torch.is_inference_mode_enabled():
            raise InvalidArgument(
                f"{name} was made in inference mode, and nothing can be put into it outside of it; "
                "make the cache outside, or call under torch.inference_mode()."
            )
        if is_expanded(cache):
            raise InvalidArgument(
                f"{name} is expanded: several of its tokens are one in memory, and nothing can be "
                f"put into it; pass {name}.contiguous()."
            )


def _checked_rotary(given: CacheGiven, capacity: int) -> int:
    """The columns that are rotated; raises InvalidArgument."""
    cos, sin = given.rotary_cos, given.rotary_sin
    if cos is None and sin is None:
        return 0
    if cos is None or sin is None:
        there, lacking = (
            ("rotary_sin", "rotary_cos") if cos is None else ("rotary_cos", "rotary_sin")
        )
        raise InvalidArgument(f"{there} is given without {lacking}; it takes both to rotate.")
    if given.k is None:
        raise InvalidArgument(
            "rotary_cos and rotary_sin are given without k: they rotate new keys, and q as these. "
            "Keys of the cache are taken to be rotated; rotate q before the call."
        )
    for name, x in (("rotary_cos", cos), ("rotary_sin", sin)):
        check_tensor(name, x, ("positions", "pairs"), may_be_empty=False)
        if x.dtype not in (given.q.dtype, torch.float32):
            raise InvalidArgument(
                f"{name} is {dtype_name(x.dtype)}; it must be {dtype_name(given.q.dtype)}, as q "
                "is, or float32."
            )
        _check_place(name, x, given.q.device)
    if cos.shape != sin.shape or cos.dtype != sin.dtype:
        raise InvalidArgument(
            f"rotary_cos is {dtype_name(cos.dtype)} {tuple(cos.shape)} and rotary_sin "
            f"{dtype_name(sin.dtype)} {tuple(sin.shape)}; they must be alike."
        )
    head_dim = given.q.shape[3]
    if 2 * cos.shape[1] > head_dim:
        raise InvalidArgument(
            f"rotary_cos has {cos.shape[1]} pairs of columns, and the head dim is {head_dim}: at "
            f"most {head_dim // 2}."
        )
    if cos.shape[0] < capacity:
        raise InvalidArgument(
            f"rotary_cos has {cos.shape[0]} positions, and the cache has room for {capacity} "
            "tokens: there must be at least as many."
        )
    return 2 * cos.shape[1]


def _check_counts(name: str, x: Tensor | None, batch: int, device: torch.device) -> None:
    """One number for each batch entry; raises InvalidArgument."""
    if x is None:
        return
    check_dense(name, x, "a tensor of shape (batch,)")
    if x.dtype is not torch.int32:
        raise InvalidArgument(f"{name} is {dtype_name(x.dtype)}; it must be int32.")
    if tuple(x.shape) != (batch,):
        raise InvalidArgument(
            f"{name} has shape {tuple(x.shape)}; it must be (batch,) = ({batch},)."
        )
    _check_place(name, x, device)


def _check_place(name: str, x: Tensor, device: torch.device) -> None:
    if x.device != device:
        raise InvalidArgument(f"{name} is on {x.device}, but q is on {device}.")


def check_no_gradient(given: Mapping[str, object]) -> None:
    """Raises InvalidArgument where a gradient is asked for of one of these, by name."""
    if not torch.is_grad_enabled():
        return
    for name, x in given.items():
        if isinstance(x, Tensor) and x.requires_grad:
            raise InvalidArgument(
                f"{name} requires a gradient, and attention over a cache has none: it is forward "
                f"only. Call it under torch.no_grad(), or pass {name}.detach()."
            )
