"""What is right over a cache: float64 attention over an entry's tokens, which knows of no cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.bench import accuracy
from ring_attn_bench.bench.accuracy import Results
from ring_attn_bench.bench.cached.inputs import (
    CacheInputs,
    Tokens,
    owned,
    shape_of,
    slots_of,
)
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


def held(case: Case, x: CacheInputs, rank: int = 0) -> Results:
    """The cache after a call that appends: 0 where there is no token, if that is still NaN."""
    there = _there(case, x, rank)
    return {
        name: cache.masked_fill(~there & cache.isnan(), 0.0)
        for name, cache in (("k_cache", x.k_cache), ("v_cache", x.v_cache))
    }


def _compared(name: str, x: Tensor, rows: Tensor) -> Tensor:
    if name in ("k_cache", "v_cache"):
        return x
    return x[:, :, rows] if name == "lse" else x[:, rows]


def _there(case: Case, x: CacheInputs, rank: int) -> Tensor:
    """(rows, C, 1, 1), or of pages: where a token is after the call."""
    at = torch.arange(shape_of(case).leftpad, case.seqlen_total, device=x.q.device)
    _, places = owned(case, at, rank)
    there = torch.zeros(x.k_cache.shape[:2], dtype=torch.bool, device=x.q.device)
    there.view(-1)[slots_of(case, places, x.block_table)] = True
    return there[:, :, None, None]


def _attended(
    case: Case, tokens: Tokens, x: CacheInputs, rows: Tensor, arithmetic: torch.dtype, rank: int
) -> Results:
    shape, total = shape_of(case), case.seqlen_total
    q, k = tokens.q, tokens.k
    if shape.rotary is not None:
        stands = torch.arange(total - shape.queries, total, device=q.device)
        new = _turned(k[:, stands], stands, x, shape.rotary, arithmetic)
        k = torch.cat([k[:, : total - shape.queries].to(arithmetic), new], dim=1)
        one_place = not (mask_of(case).causal or mask_of(case).has_window)
        at = stands[:1].expand_as(stands) if one_place else stands  # as flash-attn without a mask
        q = _turned(q, at, x, shape.rotary, arithmetic)
    keys = torch.arange(shape.leftpad, total, device=q.device)
    asked = oracle.Inquiry(
        rows + total - shape.queries, keys, mask_of(case), score_of(case), arithmetic=arithmetic
    )
    out, lse = oracle.forward(
        q[:, rows], k[:, shape.leftpad :], tokens.v[:, shape.leftpad :], asked
    )
    results = {"out": out, "lse": lse}
    return results | dict(_kept(case, x, k, tokens.v, rank)) if shape.append else results


def _kept(
    case: Case, x: CacheInputs, k: Tensor, v: Tensor, rank: int
) -> Iterator[tuple[str, Tensor]]:
    """What the cache must hold after a call that appends."""
    at = torch.arange(shape_of(case).leftpad, case.seqlen_total, device=k.device)
    own, places = owned(case, at, rank)
    slots = slots_of(case, places, x.block_table)
    for name, cache, tokens in (("k_cache", x.k_cache, k), ("v_cache", x.v_cache, v)):
        kept = torch.zeros_like(cache, dtype=tokens.dtype)
        kept.flatten(0, 1)[slots] = tokens[:, own]
        yield name, kept


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
