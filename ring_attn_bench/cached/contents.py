"""What lengths, indices and tables hold, where they can be looked at: on a CPU.

On a GPU that would stall the queue; there they are data, and `contract.cache` says what they count
as.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.cached.memory import overlap
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.cached import CachedProblem

_MANY = 8
"""Numbers that a sentence shows."""


def check_call(given: CacheGiven, problem: CachedProblem) -> None:
    """What is not remembered of shapes and numbers, on any device; raises InvalidArgument."""
    for name, cache in (("k_cache", given.k_cache), ("v_cache", given.v_cache)):
        if cache.is_neg():
            raise InvalidArgument(
                f"{name} is a negated view, and kernels read memory; pass {name}.resolve_neg()."
            )
    if given.q.is_meta:
        raise InvalidArgument(
            "q is on the meta device, and what a call over a cache computes follows from numbers "
            "in lengths and tables; pass tensors that have some."
        )
    if given.k is not None and problem.latent:
        raise InvalidArgument(
            "v_cache is the first columns of k_cache, in the same memory, where new keys and new "
            "values would overwrite each other; write the new keys into k_cache before the call, "
            "and leave out k and v."
        )
    if given.k is not None and overlap(given.k_cache, given.v_cache):
        raise InvalidArgument(
            "k_cache and v_cache are one memory, in part at least, where new keys and new values "
            "would overwrite each other; pass a tensor for each."
        )
    if isinstance(given.cache_seqlens, int):
        check_range("cache_seqlens", [given.cache_seqlens], _room(problem))


def check_contents(given: CacheGiven, problem: CachedProblem) -> None:
    """Of tensors on a CPU; raises InvalidArgument."""
    lengths = _lengths(given, problem)
    check_range("cache_seqlens", lengths, _room(problem))
    if given.cache_leftpad is not None:
        for skipped, length in zip(_numbers(given.cache_leftpad), lengths, strict=True):
            check_range("cache_leftpad", [skipped], length, "the tokens of the entry")
    places: list[tuple[int, int]] = []
    if given.block_table is not None:
        places = _appended_pages(given.block_table, given, problem, lengths)
    elif given.cache_batch_idx is not None:
        rows = _numbers(given.cache_batch_idx)
        last = given.k_cache.shape[0] - 1
        check_range("cache_batch_idx", rows, last, "the last row of the cache")
        places = [(row, 0) for row in rows] if problem.appended else []
    if len(set(places)) < len(places):
        raise InvalidArgument(
            "two entries append to the same place of the cache; each must have its own "
            f"{'page' if given.block_table is not None else 'row'} to append to."
        )


def _appended_pages(
    table: Tensor, given: CacheGiven, problem: CachedProblem, lengths: list[int]
) -> list[tuple[int, int]]:
    """Page and place in it of every new token, if all pages in use exist."""
    counted: Callable[[int], int] = int if problem.dealt is None else problem.dealt.count
    totals = [counted(length + problem.appended) for length in lengths]
    check_pages(table, given, totals)
    size = given.k_cache.shape[1]
    used = -(-max(totals, default=0) // size)
    return [
        (pages[at // size], at % size)
        for pages, length, total in zip(table[:, :used].tolist(), lengths, totals, strict=True)
        for at in range(counted(length), total)
    ]


def check_pages(table: Tensor, given: CacheGiven, totals: Sequence[int]) -> None:
    """Whether the pages of an entry's first tokens exist; raises InvalidArgument."""
    count, size = given.k_cache.shape[:2]
    used = -(-max(totals, default=0) // size)  # a table may be much longer than what is there
    for pages, total in zip(table[:, :used].tolist(), totals, strict=True):
        check_range("block_table", pages[: -(-total // size)], count - 1, "the last page there is")


def _lengths(given: CacheGiven, problem: CachedProblem) -> list[int]:
    if given.cache_seqlens is None:
        return [problem.capacity] * problem.batch
    if isinstance(given.cache_seqlens, int):
        return [given.cache_seqlens] * problem.batch
    return _numbers(given.cache_seqlens)


def _room(problem: CachedProblem) -> int:
    return problem.capacity - problem.appended


def _numbers(x: Tensor) -> list[int]:
    numbers: list[int] = x.tolist()
    return numbers


def check_range(
    name: str, numbers: list[int], last: int, what: str = "the room that the cache has"
) -> None:
    """Raises InvalidArgument for numbers that are not 0 to the last."""
    if all(0 <= number <= last for number in numbers):
        return
    few = numbers[:_MANY]
    more = ", ..." if len(numbers) > _MANY else ""
    got = shown(few[0]) if len(numbers) == 1 else f"[{', '.join(map(str, few))}{more}]"
    raise InvalidArgument(f"{name} is {got}; allowed are 0 to {last}, {what}.")
