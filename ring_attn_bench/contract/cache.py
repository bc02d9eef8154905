"""A cache of keys, and the contract of a kernel that attends over one.

Shapes as in `backend`, and: R rows of the cache, C tokens in each; or P pages of S tokens, of which
an entry has up to L; A appended tokens, T queries of all entries.

An entry's *total* is its length and what is appended. Its last query stands at the last token of
that total, so query i of M stands at total - M + i; token j of its row, or of its pages in their
order, stands at j. It sees what the mask allows, of the tokens from `skipped` to the total.

On a GPU what the tensors of numbers hold is data that nobody has looked at. A kernel never reads
or writes outside of the cache for them: a length counts as 0 to C, appended tokens beyond C are
not there, and neither is what lies in a row or page that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from ring_attn_bench.contract.backend import as_reason

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.peer import CachedPeer
    from ring_attn_bench.plan.cached import CachedProblem, Dealt
    from ring_attn_bench.plan.problem import Mask, Score


class Cache(NamedTuple):
    """Keys and values of earlier tokens, and which of them belong to each batch entry.

    k (R, C, G, D) and v (R, C, G, E); or, where there is a table, (P, S, G, D) and (P, S, G, E).
    lengths: int32 (B,), tokens before the append; None where they are all C.
    table: int32 (B, L), each entry's pages, one next to another in memory.
    rows: int32 (B,), each entry's row; None is its number.
    skipped: int32 (B,), tokens at the beginning that are not there; None is none.
    dealt: where this is one rank's part; lengths and skipped count the tokens of all ranks, C is
    this one's, and an appended token is written by the rank that its place is dealt to.
    """

    k: Tensor
    v: Tensor
    lengths: Tensor | None = None
    table: Tensor | None = None
    rows: Tensor | None = None
    skipped: Tensor | None = None
    dealt: Dealt | None = None

    @property
    def latent(self) -> bool:
        """Whether v is the first of k's columns, in the same memory: see `CachedProblem.latent`."""
        return is_latent(self.k, self.v)

    @property
    def own_capacity(self) -> int:
        """C: tokens that there is room for behind an entry here."""
        size: int = self.k.shape[1]
        return size if self.table is None else size * self.table.shape[1]

    @property
    def capacity(self) -> int:
        """The same on all ranks together."""
        return self.own_capacity * (1 if self.dealt is None else self.dealt.ranks)


def is_latent(k: Tensor, v: Tensor) -> bool:
    """Whether a cache's v is a view of the first of its k's columns, and of fewer than all."""
    if not v.shape[-1] < k.shape[-1] or v.data_ptr() != k.data_ptr():
        return False
    steps = k.stride(), v.stride()
    if steps[0] == steps[1]:
        return True
    # those of a dim of one element say nothing: `unsqueeze` makes them of the widths
    sides = zip(v.shape, *steps, strict=True)
    return all(size == 1 or of_k == of_v for size, of_k, of_v in sides)


class Appended(NamedTuple):
    """New keys and values, k (B, A, G, D) and v (B, A, G, E): token t goes to length + t.

    cos, sin: (positions, rotary dim / 2), in q's dtype, or None. They rotate new keys by the place
    where these go, and q's leading columns (Su et al. 2021, RoFormer, equation 34): query i by
    length + i or, if one_place, all by length. interleaved: columns 2i and 2i + 1 are a pair; else
    i and i + rotary dim / 2.
    """

    k: Tensor
    v: Tensor
    cos: Tensor | None = None
    sin: Tensor | None = None
    interleaved: bool = True
    one_place: bool = False


class CachedCall(NamedTuple):
    """Queries over a cache: q (B, M, H, D), or where there are starts (T, H, D).

    starts: int32 (B + 1,), where each entry's queries begin, and after the last where they end;
    longest: the most queries of an entry. splits: see `CachedProblem`.
    wide: out in float32 (float64 of float64 inputs): it is a part of a sum.
    sink: (H,), contiguous, of any dtype: a logit of every row besides its keys', with a value of 0,
    for a backend that `takes_sinks`. An lse is never below it; infinity leaves out 0.
    alike: the same object in all calls that differ in addresses and contents alone, if there are
    such: what a kernel makes of a call it can keep by it, as long as it lives. None is unknown.
    """

    q: Tensor
    cache: Cache
    mask: Mask
    score: Score
    appended: Appended | None = None
    starts: Tensor | None = None
    longest: int = 0
    splits: int = 0
    wide: bool = False
    sink: Tensor | None = None
    alike: object = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that there are, in an order that all calls have, and without the starts."""
        cache, new = self.cache, self.appended or (None,) * 4
        told = cache.lengths, cache.table, cache.rows, cache.skipped, self.sink
        every = self.q, cache.k, cache.v, *told, *new[:4], self.score.alibi_slopes
        return tuple(x for x in every if x is not None)


class CallAgain(Protocol):
    """A call over a cache that was made, for other tensors of the same looks.

    The same shapes, strides, dtypes and device, that is; everything else is as it was.
    """

    def __call__(
        self, tensors: Sequence[Tensor], *, wants_lse: bool
    ) -> tuple[Tensor, Tensor | None] | None:
        """out and, if it is wanted, lse; tensors: as `CachedCall.tensors` has them.

        None, and nothing is done, where these differ in what looks do not tell.
        """
        ...


class CachedBackend(Protocol):
    """A kernel that attends over a cache. Forward only."""

    name: str

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """Why the problem cannot be computed, or None. Asked once, before anything runs."""
        ...

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """Appends in place; then out (B, M, H, E), in q's dtype or wider, and lse (B, H, M).

        Of packed queries (T, H, E) and (H, T), where rows in no entry may be anything. lse is
        float32 (float64 of float64 inputs), natural log; a query that sees no key has out 0 and lse
        -inf. The result does not depend on how much room there is beyond what a cache holds, and
        lengths that change neither compile nor capture anything anew.
        """
        ...


class CachedResults(NamedTuple):
    """The results of a call, and what makes it again, if something can."""

    out: Tensor
    lse: Tensor
    again: CallAgain | None


def repeats(backend: CachedBackend) -> Callable[[CachedCall], CachedResults] | None:
    """Its `cached_repeatable`, if it has one: `cached_forward`, and how it is made again.

    A step of decoding takes the GPU some 20 us: as long as a call that is looked at takes a host.
    """
    found = getattr(backend, "cached_repeatable", None)
    return cast("Callable[[CachedCall], CachedResults] | None", found)


def reason_over_cache(backend: CachedBackend | CachedPeer, problem: CachedProblem) -> str | None:
    """Why it does not compute the problem, or None; the one way to ask it."""
    return as_reason(backend.cached_unsupported(problem), "cached_unsupported")


def takes_sinks(backend: CachedBackend) -> bool:
    """Whether it has `cached_sinks = True`; a sink of a call by any other is joined afterwards."""
    return bool(getattr(backend, "cached_sinks", False))


def caching(backend: object) -> CachedBackend | None:
    """The backend if it attends over a cache."""
    names = "cached_unsupported", "cached_forward"
    has = all(callable(getattr(type(backend), name, None)) for name in names)
    return cast("CachedBackend", backend) if has else None
