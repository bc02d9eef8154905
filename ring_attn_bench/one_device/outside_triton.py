"""The kernel of `outside`: sound starts of documents, and what is outside of them filled in.

A call of it is all that a complete packing pays, so that a call made before is made again.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from __future__ import annotations

from collections.abc import Hashable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ring_attn_bench.relaunch import Kept, Made, relaunch, signature

if TYPE_CHECKING:
    from ring_attn_bench.one_device.outside import Pair, Results, Starts

PROGRAMS = 512
"""At most: a wave on any GPU that has these kernels, each with a row of tokens at a time."""
STARTS = 1024
"""That a program looks at at a time; where there are fewer, `FEW_STARTS` will do."""
FEW_STARTS = 128
COLUMNS = 1024
"""Of a token, heads and their dims, that are filled in at a time."""

_kept = Kept()


def settle(
    starts: Starts, sound: Starts, tokens: Pair, longest: Pair, results: Results,
    seen: Hashable = None,
) -> None:  # fmt: skip
    """Writes the sound starts of queries and keys, and fills in the results by them.

    seen: all that is to be known of the results, just made, or None; it spares a look at them.
    """
    looks = _signature(results) if seen is None else seen
    key = tokens, longest, looks, signature(starts)
    tensors = (*starts, *sound, *_there(results))
    kept = _kept.get(key)
    if kept is None:
        _kept[key] = relaunch([_first(starts, sound, tokens, longest, results)], tensors)
    else:
        kept.run(tensors)


def fill(starts: Starts, results: Results) -> None:
    """Fills in the results by starts that are sound, which `settle` wrote."""
    key = _signature(results), starts[0].numel()
    tensors = (*starts, *_there(results))
    kept = _kept.get(key)
    if kept is None:
        made = _first(starts, None, _tokens(results), (0, 0), results)
        _kept[key] = relaunch([made], tensors)
    else:
        kept.run(tensors)


def _there(results: Results) -> tuple[Tensor, ...]:
    return tuple([x for x in results if x is not None])


def _signature(results: Results) -> Hashable:
    there = _there(results)
    which = tuple([x is None for x in results])
    return which, signature(there) if there else None


def _tokens(results: Results) -> Pair:
    rows, lse, dk, dv = results
    queries = rows.shape[0] if rows is not None else 0 if lse is None else lse.shape[1]
    return queries, next((x.shape[0] for x in (dk, dv) if x is not None), 0)


def _first(
    starts: Starts, sound: Starts | None, tokens: Pair, longest: Pair, results: Results
) -> Made:
    anything = any(x is not None for x in results)
    grid = (max(1, min(PROGRAMS, max(tokens))) if anything else 1, 1, 1)
    given = arguments(starts, sound, tokens, longest, results)
    device = starts[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        compiled = settle_and_fill[grid](**given, num_warps=4)
    return Made(compiled, grid, tuple(given.values()))


def arguments(
    starts: Starts, sound: Starts | None, tokens: Pair, longest: Pair, results: Results
) -> dict[str, Any]:
    """The kernel's arguments, in its order."""
    documents = starts[0].numel() - 1
    views = results._replace(lse=None if results.lse is None else results.lse.T)
    given: dict[str, Any] = {
        "cu_rows_ptr": starts[0],
        "cu_keys_ptr": starts[1],
        "sound_rows_ptr": sound[0] if sound else None,
        "sound_keys_ptr": sound[1] if sound else None,
    }
    given |= {f"{name}_ptr": x for name, x in results._asdict().items()}
    given |= {f"{name}_strides": _strides(x) for name, x in views._asdict().items()}
    given |= {f"{name}_sizes": _sizes(x) for name, x in views._asdict().items()}
    given |= {
        "documents": documents,
        "all_rows": tokens[0],
        "all_keys": tokens[1],
        "longest_rows": longest[0],
        "longest_keys": longest[1],
        "BLOCK": FEW_STARTS if documents < FEW_STARTS else STARTS,
        "COLUMNS": COLUMNS,
    }
    return given


def _strides(x: Tensor | None) -> tuple[int, int, int]:
    """Of token, head and column; lse is one column."""
    if x is None:
        return 0, 0, 0
    token, head, *column = x.stride()
    return token, head, column[0] if column else 0


def _sizes(x: Tensor | None) -> Pair:
    """How many heads and columns a tensor has."""
    if x is None:
        return 0, 0
    _, heads, *columns = x.shape
    return heads, columns[0] if columns else 1


NUMBERS = ("documents", "all_rows", "all_keys", "longest_rows", "longest_keys")
"""What Triton must not specialise: other documents would compile it again."""


@triton.jit(do_not_specialize=NUMBERS)
def settle_and_fill(
    cu_rows_ptr, cu_keys_ptr, sound_rows_ptr, sound_keys_ptr, rows_ptr, lse_ptr, dk_ptr, dv_ptr,
    rows_strides, lse_strides, dk_strides, dv_strides, rows_sizes, lse_sizes, dk_sizes, dv_sizes,
    documents, all_rows, all_keys, longest_rows, longest_keys,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Grid (any number): every program finds out by itself what is outside, the first writes it.

    Where there is no pointer to sound starts, those given are. What else has no pointer is not
    there. Strides (token, head, column) and sizes (heads, columns), of lse too.
    """
    first_row = tl.load(cu_rows_ptr)
    first_key = tl.load(cu_keys_ptr)
    if sound_rows_ptr is None:
        stop_row = tl.load(cu_rows_ptr + documents)
        stop_key = tl.load(cu_keys_ptr + documents)
    else:
        most_row, most_key, stop_row, stop_key = 0, 0, all_rows, all_keys
        for base in tl.range(0, documents + 1, BLOCK):
            at = base + tl.arange(0, BLOCK)
            rows = _running(cu_rows_ptr, at, documents, most_row, all_rows)
            keys = _running(cu_keys_ptr, at, documents, most_key, all_keys)
            too_long = _length(cu_rows_ptr, at, documents, rows, all_rows) > longest_rows
            too_long |= _length(cu_keys_ptr, at, documents, keys, all_keys) > longest_keys
            stop_row = tl.minimum(stop_row, tl.min(tl.where(too_long, rows, all_rows), 0))
            stop_key = tl.minimum(stop_key, tl.min(tl.where(too_long, keys, all_keys), 0))
            most_row = tl.max(rows, 0)
            most_key = tl.max(keys, 0)
        if tl.program_id(0) == 0:
            _write(sound_rows_ptr, cu_rows_ptr, documents, all_rows, stop_row, BLOCK)
            _write(sound_keys_ptr, cu_keys_ptr, documents, all_keys, stop_key, BLOCK)
        stop_row, stop_key = tl.minimum(stop_row, most_row), tl.minimum(stop_key, most_key)
        first_row = tl.minimum(tl.maximum(first_row, 0), stop_row)
        first_key = tl.minimum(tl.maximum(first_key, 0), stop_key)
    if rows_ptr is not None:
        _fill(rows_ptr, rows_strides, rows_sizes, first_row, stop_row, all_rows, 0.0, COLUMNS)
    if lse_ptr is not None:
        _fill(
            lse_ptr, lse_strides, lse_sizes, first_row, stop_row, all_rows, float("-inf"), COLUMNS
        )
    if dk_ptr is not None:
        _fill(dk_ptr, dk_strides, dk_sizes, first_key, stop_key, all_keys, 0.0, COLUMNS)
    if dv_ptr is not None:
        _fill(dv_ptr, dv_strides, dv_sizes, first_key, stop_key, all_keys, 0.0, COLUMNS)


@triton.jit
def _running(cu_ptr, at, documents, most, tokens):
    """The starts at these numbers, each as large as those before it, of which `most` is one."""
    starts = tl.load(cu_ptr + at, mask=at <= documents, other=0)
    starts = tl.minimum(tl.maximum(starts, most), tokens)
    return tl.associative_scan(starts, 0, _larger)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _length(cu_ptr, at, documents, starts, tokens):
    """How many tokens the documents have that begin there."""
    stops = tl.load(cu_ptr + at + 1, mask=at < documents, other=0)
    return tl.maximum(tl.minimum(stops, tokens), starts) - starts


@triton.jit
def _write(sound_ptr, cu_ptr, documents, tokens, stop, BLOCK: tl.constexpr):
    """The running starts, none of them beyond `stop`."""
    most = 0
    for base in tl.range(0, documents + 1, BLOCK):
        at = base + tl.arange(0, BLOCK)
        starts = _running(cu_ptr, at, documents, most, tokens)
        tl.store(sound_ptr + at, tl.minimum(starts, stop), mask=at <= documents)
        most = tl.max(starts, 0)


@triton.jit
def _fill(ptr, strides, sizes, first, stop, tokens, value, COLUMNS: tl.constexpr):
    """This program's share of the tokens before `first` and from `stop` on."""
    heads, width = sizes[0], sizes[1]
    filler = tl.full([COLUMNS], value, ptr.dtype.element_ty)
    for index in tl.range(tl.program_id(0), first + tokens - stop, tl.num_programs(0)):
        token = tl.where(index < first, index, index - first + stop).to(tl.int64)
        for base in tl.range(0, heads * width, COLUMNS):
            at = base + tl.arange(0, COLUMNS)
            head, column = at // width, at % width
            place = token * strides[0] + head.to(tl.int64) * strides[1] + column * strides[2]
            tl.store(ptr + place, filler, mask=at < heads * width)
