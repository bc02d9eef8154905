"""What is right over a cache: float64 attention over an entry's tokens, which knows of no cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.bench import accuracy
from ring_attn_bench.bench.accuracy import Results
from ring_attn_bench.bench.cached.inputs import CacheInputs, Tokens, put, shape_of
from ring_attn_bench.bench.inputs import dtype_of, mask_of, score_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.bench.tally import Tally
from ring_attn_bench.records.record import Case, TensorError
from ring_attn_bench.truth import oracle
from ring_attn_bench.truth.tolerance import baseline_arithmetic


@dataclass(frozen=True)
class Expected:
    """float64 results and plain PyTorch's, of some of the queries.

    Where the call appends also the cache afterwards, on this rank: 0 where no token is, as `held`.
    """

    kind: str
    rows: Tensor
    exact: Results
    plain: Results


def expect(
    case: Case, tokens: Tokens, x: CacheInputs, check: Check, seed: int, rank: int = 0
) -> Expected:
    """Of every query, or of a long sequence of no more than `check` wants: a sample."""
    queries, device = shape_of(case).queries, tokens.q.device
    rows, kind = torch.arange(queries, device=device), "full"
    if case.seqlen_total > check.full_up_to and queries > check.sampled_rows:
        rows = oracle.sample_rows(queries, check.sampled_rows, [], seed).to(device)
        kind = "sampled"
    exact, plain = (
        _attended(case, tokens, x, rows, arithmetic, rank)
        for arithmetic in (torch.float64, baseline_arithmetic(dtype_of(case)))
    )
    return Expected(kind, rows, exact, plain)


def judge(
    case: Case, place: WorkerPlace, expected: Expected, results: Results
) -> dict[str, TensorError]:
    """The error of each result, on all ranks; a collective over the group's processes."""
    errors = {}
    for name, result in results.items():
        exact = expected.exact[name]
        size = Tally()
        size.add(exact, None)
        sizes = size.over(place)
        own, plain = Tally(size=sizes.whole.rmse), Tally()
        own.look_at(result)
        own.add(_compared(name, result, expected.rows), exact)
        plain.add(expected.plain[name], exact)
        parts = [own.over(place), plain.over(place), sizes]
        errors[name] = accuracy.tensor_error(name, case, parts, None)
    return errors


def held(case: Case, tokens: Tokens, x: CacheInputs, rank: int = 0) -> Results:
    """The cache after a call that appends: 0 where there is no token, if that is still NaN."""
    there = torch.zeros_like(x.k_cache[..., :1, :1], dtype=torch.bool)
    ones = torch.ones_like(tokens.k[..., :1, :1], dtype=torch.bool)
    put(case, there, ones, tokens.totals, x.block_table, rank)
    return {
        name: cache.masked_fill(~there & cache.isnan(), 0.0)
        for name, cache in (("k_cache", x.k_cache), ("v_cache", x.v_cache))
    }


def _compared(name: str, x: Tensor, rows: Tensor) -> Tensor:
    if name in ("k_cache", "v_cache"):
        return x
    return x[:, :, rows] if name == "lse" else x[:, rows]


def _attended(
    case: Case, tokens: Tokens, x: CacheInputs, rows: Tensor, arithmetic: torch.dtype, rank: int
) -> Results:
    k = tokens.k if shape_of(case).rotary is None else _with_new_turned(case, tokens, x, arithmetic)
    each = [_entry(case, tokens, entry, k, x, rows, arithmetic) for entry in range(case.batch)]
    out, lse = (torch.cat(parts) for parts in zip(*each, strict=True))
    results = {"out": out, "lse": lse}
    if not shape_of(case).append:
        return results
    for name, cache, kept in (("k_cache", x.k_cache, k), ("v_cache", x.v_cache, tokens.v)):
        results[name] = torch.zeros_like(cache, dtype=kept.dtype)
        put(case, results[name], kept, tokens.totals, x.block_table, rank)
    return results


def _entry(
    case: Case, tokens: Tokens, entry: int, k: Tensor, x: CacheInputs, rows: Tensor,
    arithmetic: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out and lse of these rows of one entry's queries."""
    shape, total, one = shape_of(case), tokens.totals[entry], slice(entry, entry + 1)
    q, there = tokens.q[one], slice(shape.leftpad, total)
    stands = torch.arange(total - shape.queries, total, device=q.device)
    if shape.rotary is not None:
        one_place = not (mask_of(case).causal or mask_of(case).has_window)
        at = stands[:1].expand_as(stands) if one_place else stands  # as flash-attn without a mask
        q = _turned(q, at, x, shape.rotary, arithmetic)
    keys = torch.arange(shape.leftpad, total, device=q.device)
    asked = oracle.Inquiry(stands[rows], keys, mask_of(case), score_of(case), arithmetic=arithmetic)
    return oracle.forward(q[:, rows], k[one, there], tokens.v[one, there], asked)


def _with_new_turned(case: Case, tokens: Tokens, x: CacheInputs, arithmetic: torch.dtype) -> Tensor:
    """k, each entry's new tokens rotated by the places where they go."""
    shape, k = shape_of(case), tokens.k.to(arithmetic, copy=True)
    assert shape.rotary is not None  # who calls has asked
    for entry, total in enumerate(tokens.totals):
        at = torch.arange(total - shape.queries, total, device=k.device)
        new = tokens.k[entry : entry + 1, at]
        k[entry, at] = _turned(new, at, x, shape.rotary, arithmetic)[0]
    return k


def _turned(
    x: Tensor, places: Tensor, given: CacheInputs, rotary: str, arithmetic: torch.dtype
) -> Tensor:
    """x (B, N, heads, D) of tokens at places (N,), all columns turned as complex numbers."""
    assert given.rotary_cos is not None  # the case is rotated
    assert given.rotary_sin is not None
    wide = torch.promote_types(arithmetic, torch.float32)
    turn = torch.complex(given.rotary_cos.to(wide), given.rotary_sin.to(wide))[places][:, None]
    halves = rotary == "halves"
    pairs = x.to(wide).unflatten(-1, (2, -1) if halves else (-1, 2))
    pairs = pairs.transpose(-2, -1) if halves else pairs
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return (turned.transpose(-2, -1) if halves else turned).flatten(-2).to(arithmetic)
