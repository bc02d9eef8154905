"""Which kernels a block gets: Hopper's where they serve it, the plain ones everywhere else.

What was asked for before, but for the addresses, is launched again without looking further.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

from ring_attn_backends.triton import launch as plain
from ring_attn_backends.triton.hopper import launch as hopper
from ring_attn_backends.triton.hopper.served import serves
from ring_attn_bench.problem import Documents
from ring_attn_bench.relaunch import Kept, Made, relaunch, signature

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Score
    from ring_attn_bench.tensors import Keys, Rows, Running, Sums

_kept = Kept()


class Launch(Protocol):
    """What both kinds of kernels are called by."""

    @property
    def scratch(self) -> tuple[Tensor, ...]:
        """Tensors among the arguments that nobody needs afterwards."""
        ...

    def made(self) -> tuple[Made, ...]:
        """Enqueues it, and returns the calls that were made."""
        ...


def forward(
    q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
    *, first: bool, fresh: bool = False,
) -> None:  # fmt: skip
    """Enqueues what `launch.forward_launch` describes.

    fresh: what is running was just made, in the way of `compute`, which spares a look at it.
    """
    given = (q, *keys, running.out, running.result, running.lse)

    def launches() -> Sequence[Launch]:
        if serves(given[:3], where, score):
            return [hopper.forward_launch(q, keys, running, where, score, first=first)]
        return [plain.forward_launch(q, keys, running, where, score, first=first)]

    name = "forward", first, fresh
    _enqueue(name, given, given[:3] if fresh else given, where, score, launches)


def backward(
    rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
    *, add: bool, add_keys: bool, fresh: bool = False,
) -> None:  # fmt: skip
    """Enqueues what `launch.backward_dq_launch` and `launch.backward_dkdv_launch` describe.

    fresh: the sums were just made, as above.
    """
    q, dout, _, lse, delta = rows
    assert delta is not None  # needs_delta
    read = (dout, q, *keys, lse, delta)

    def launches() -> Sequence[Launch]:
        groups = rows, keys, sums
        if serves((q, *keys, dout), where, score):
            return [
                hopper.backward_dq_launch(*groups, where, score, add=add),
                hopper.backward_dkdv_launch(*groups, where, score, add=add_keys),
            ]
        return [
            plain.backward_dq_launch(*groups, where, score, add=add),
            plain.backward_dkdv_launch(*groups, where, score, add=add_keys),
        ]

    name, given = ("backward", add, add_keys, fresh), (*read, *sums)
    _enqueue(name, given, read if fresh else given, where, score, launches)


def _enqueue(
    name: Hashable, given: tuple[Tensor, ...], seen: tuple[Tensor, ...],
    where: Block | Documents, score: Score, launches: Callable[[], Sequence[Launch]],
) -> None:  # fmt: skip
    """Launches what is kept, or the launches, which are then kept.

    seen: of the tensors given those that the others follow from.
    """
    if score.dropout_p or not given[0].is_cuda:  # a seed is a call's own; nothing is compiled
        _run(launches())
        return
    more = _more(where, score)
    place: Hashable = where
    if isinstance(where, Documents):  # which holds tensors
        place = where.mask, where.max_seqlen_q, where.max_seqlen_k
    key = (name, place, score.softmax_scale, score.softcap, signature((*seen, *more)))
    found = _kept.get(key)
    if found is not None:
        found.run((*given, *more))
        return
    made = launches()
    calls = _run(made)
    _kept[key] = relaunch(calls, (*given, *more), [x for one in made for x in one.scratch])


def _more(where: Block | Documents, score: Score) -> tuple[Tensor, ...]:
    """Tensors besides those of attention itself that kernels are handed."""
    more = [where.cu_seqlens_q, where.cu_seqlens_k] if isinstance(where, Documents) else []
    if score.alibi_slopes is not None:
        more.append(score.alibi_slopes)
    return tuple(more)


def _run(launches: Sequence[Launch]) -> list[Made]:
    return [call for one in launches for call in one.made()]
