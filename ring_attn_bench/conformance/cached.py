"""A cache: one call of a backend, and each entry's attention over its own tokens in a row.

The truth knows no cache: tokens are drawn for each entry in a row, and put where the case says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ring_attn_bench.calls import sinks
from ring_attn_bench.conformance.caches import CachedCase
from ring_attn_bench.conformance.expected import Expected, Results, expect_forward
from ring_attn_bench.conformance.inputs import NAN, CaseTensors
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.contract.cache import Appended, Cache, CachedCall, caching
from ring_attn_bench.plan.lower import Cut
from ring_attn_bench.truth import oracle

NO_PAGE = 10**6
"""In a table behind an entry's last page: nobody should look there."""


@dataclass(frozen=True)
class CachedTensors(CaseTensors):
    """q (B, M, H, D); k and v what is appended, (B, A, G, .), of all entries. dout is q, unused.

    old: k (L, G, D) and v (L, G, E) of each entry's tokens before the append, which lie in the
    cache. goes: row, or page, and place in it of each entry's new tokens.
    """

    old: tuple[tuple[Tensor, Tensor], ...]
    cos: Tensor | None
    sin: Tensor | None
    sink: Tensor | None
    cache: Cache
    goes: tuple[tuple[Tensor, Tensor], ...]

    @property
    def given(self) -> dict[str, Tensor]:
        """What a backend must leave as it is; of the cache, all but where new tokens go."""
        rest = {"k_cache": _bits(self.cache.k), "v_cache": _bits(self.cache.v)}
        for bits in rest.values():
            for at in self.goes:
                bits[at] = 0
        return {"q": self.q, "k": self.k, "v": self.v} | rest


def inputs(case: CachedCase, device: str) -> CachedTensors:
    """Normal random values, the same on every device."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, device="cpu")
        return values.to(device, case.torch_dtype)

    widths = (case.key_heads, case.dim), (case.key_heads, case.head_dim_v)
    batch = len(case.lengths)
    q = drawn(batch, case.queries, case.heads, case.dim)
    new = [drawn(batch, case.appended, *width) for width in widths]
    old = []
    for length in case.lengths:
        k = drawn(length, *widths[0])
        old.append((k, k[..., : case.head_dim_v] if case.latent else drawn(length, *widths[1])))
    cos = sin = None
    if case.rotary:
        angles = torch.rand(case.room, case.rotary // 2, generator=generator, device="cpu") * 6.28
        cos, sin = (f(angles).to(device, case.torch_dtype) for f in (torch.cos, torch.sin))
    cache, goes = _cache(case, q, tuple(old))
    sink = torch.linspace(-1, 3, case.heads, device=device) if case.sink else None
    return CachedTensors(q, new[0], new[1], q, tuple(old), cos, sin, sink, cache, goes)


def expected(case: CachedCase, device: str, keep: Tensor | None = None) -> Expected:
    """What is right for each entry by itself, and what is to be in the cache."""
    data, score = inputs(case, device), case.score(device)

    def answered(arithmetic: torch.dtype, *, in_order: bool = False) -> Results:
        each: list[tuple[Tensor, Tensor]] = []
        steps = torch.arange(max(case.queries, case.appended), device=device)
        lengths = torch.tensor(case.lengths, device=device)[:, None]
        new_k = _rotated(data.k, lengths + steps[: case.appended], data, case, arithmetic)
        stands = steps[: case.queries] * (0 if case.one_place else 1)
        q = _rotated(data.q, lengths + stands, data, case, arithmetic)
        for entry, (k, v) in enumerate(data.old):
            first = case.skipped[entry] if case.skipped else 0
            total = len(k) + case.appended
            keys = torch.cat([k.to(new_k.dtype), new_k[entry]])[None, first:]
            values = torch.cat([v, data.v[entry]])[None, first:]
            at = torch.arange(total - case.queries, total, device=device)
            asked = oracle.Inquiry(
                at, torch.arange(first, total, device=device), case.mask, score,
                arithmetic=arithmetic, in_order=in_order,
            )  # fmt: skip
            result = oracle.forward(q[entry : entry + 1], keys, values, asked)
            each.append(result if data.sink is None else sinks.joined(*result, data.sink))
        out, lse = (torch.cat(x) for x in zip(*each, strict=True))
        left = {"k_cache": new_k, "v_cache": data.v} if case.appended else {}
        return {"out": out, "lse": lse} | left

    return expect_forward(case.torch_dtype, answered)


def parts(backend: Backend, case: CachedCase) -> tuple[Cut, ...]:
    """None: entries are not given one by one."""
    return ()


def two_blocks(case: CachedCase) -> tuple[Cut, ...]:
    """Never asked for: only a block is cut into two."""
    raise NotImplementedError(f"{case}: a cache is not cut into blocks")


def forward(
    backend: Backend, case: CachedCase, data: CaseTensors, parts: tuple[Cut, ...]
) -> Results:
    """out, lse, and the tokens that were appended as the cache holds them."""
    assert isinstance(data, CachedTensors)  # `inputs` made them
    kernel = caching(backend)
    assert kernel is not None  # the case's `refusal` asks
    device = data.q.device.type
    cache, new = data.cache, None
    if case.appended:
        new = Appended(data.k, data.v, data.cos, data.sin, case.interleaved, case.one_place)
    poison(device, (data.q,))
    out, lse = kernel.cached_forward(
        CachedCall(
            data.q, cache, case.mask, case.score(device), new, splits=case.splits, sink=data.sink
        )
    )
    results = {"out": out, "lse": lse}
    if case.appended:
        for name, x in (("k_cache", cache.k), ("v_cache", cache.v)):
            results[name] = torch.stack([x[at] for at in data.goes])
    return results


def backward(
    backend: Backend, case: CachedCase, data: CaseTensors, out: Tensor, lse: Tensor,
    parts: tuple[Cut, ...], *, deterministic: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Never asked for: the case's `refusal` says so."""
    raise NotImplementedError(f"{case}: a cache is forward only")


def kept(backend: Backend, case: CachedCase, device: str) -> None:
    """There is no dropout over a cache."""


def kept_faults(backend: Backend, case: CachedCase, device: str, keep: Tensor) -> list[str]:
    """No dropout mask is there to judge."""
    return []


def _cache(
    case: CachedCase, q: Tensor, old: tuple[tuple[Tensor, Tensor], ...]
) -> tuple[Cache, tuple[tuple[Tensor, Tensor], ...]]:
    """The cache, NaN where no token is, and where each entry's new tokens go."""
    device, batch = q.device, len(case.lengths)

    def numbers(values: Sequence[int]) -> Tensor | None:
        return torch.tensor(values, dtype=torch.int32, device=device) if values else None

    ends = [length + case.appended for length in case.lengths]
    table = rows = None
    if case.page is None:
        size, count = case.room, max((*case.rows, batch - 1)) + 1
        rows = numbers(case.rows)
    else:
        size, needed = case.page, [-(-end // case.page) for end in ends]
        count = sum(needed) + 3
        scattered = torch.randperm(count, generator=torch.Generator().manual_seed(4), device="cpu")
        table = q.new_full((batch, -(-case.room // size)), NO_PAGE, dtype=torch.int32)
        for entry, (stop, pages) in enumerate(zip(accumulate(needed), needed, strict=True)):
            table[entry, :pages] = scattered[stop - pages : stop]
    k, v = (
        q.new_full((count, size, case.key_heads, width), NAN)
        for width in (case.dim, case.head_dim_v)
    )
    if case.latent:
        v = k[..., : case.head_dim_v]
    places = []
    for entry, end in enumerate(ends):
        at = torch.arange(end, device=device)
        row = torch.full_like(at, case.rows[entry] if case.rows else entry)
        if table is not None:
            row, at = table[entry].long()[at // size], at % size
        length = case.lengths[entry]
        k[row[:length], at[:length]], v[row[:length], at[:length]] = old[entry]
        places.append((row[length:], at[length:]))
    lengths = numbers(case.lengths) if case.told else None
    return Cache(k, v, lengths, table, rows, numbers(case.skipped)), tuple(places)


def _bits(x: Tensor) -> Tensor:
    """As integers, of which NaN is like itself."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]).clone()


def _rotated(
    x: Tensor, places: Tensor, data: CachedTensors, case: CachedCase, arithmetic: torch.dtype
) -> Tensor:
    """x (B, N, heads, D) as a cache holds it: turned as complex numbers, and rounded once."""
    if data.cos is None or data.sin is None:
        return x
    wide = torch.promote_types(arithmetic, torch.float32)
    turn = torch.complex(data.cos.to(wide), data.sin.to(wide))[places][:, :, None]
    head, rest = x[..., : case.rotary].to(wide), x[..., case.rotary :].to(wide)
    last = (-1, 2) if case.interleaved else (2, -1)
    pairs = head.unflatten(-1, last)
    pairs = pairs if case.interleaved else pairs.transpose(-2, -1)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    turned = turned if case.interleaved else turned.transpose(-2, -1)
    joined = torch.cat([turned.flatten(-2), rest], dim=-1)
    return joined.to(arithmetic)
