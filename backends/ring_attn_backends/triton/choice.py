"""Which kernels a block gets: Hopper's where they serve it, the plain ones everywhere else.

What was asked for before, but for the addresses, is launched again without looking further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ring_attn_backends.triton import launch as plain
from ring_attn_backends.triton.hopper import launch as hopper
from ring_attn_bench.problem import Documents
from ring_attn_bench.relaunch import Kept, Relaunch, relaunch, signature

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Score

_kept = Kept()


def forward(
    q: Tensor, k: Tensor, v: Tensor, acc: Tensor, out: Tensor, lse: Tensor,
    where: Block | Documents, score: Score, *, first: bool, fresh: bool = False,
) -> None:  # fmt: skip
    """Enqueues what `launch.forward_launch` describes.

    fresh: acc, out and lse were just made, in the way of `compute`, which spares a look at them.
    """
    given = (q, k, v, acc, out, lse)

    def made(where: Block) -> list[hopper.HopperLaunch]:
        return [hopper.forward_launch(*given, where, score, first=first)]

    name, seen = ("forward", first, fresh), given[:3] if fresh else given
    if not _by_hopper(name, given, seen, given[:3], where, score, made):
        plain.forward_launch(*given, where, score, first=first).run()


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dq: Tensor, dk: Tensor, dv: Tensor, where: Block | Documents, score: Score,
    *, add: bool, add_keys: bool, fresh: bool = False,
) -> None:  # fmt: skip
    """Enqueues what `launch.backward_dq_launch` and `launch.backward_dkdv_launch` describe.

    fresh: dq, dk and dv were just made, as above.
    """
    given = (dout, q, k, v, lse, delta)

    def made(where: Block) -> list[hopper.HopperLaunch]:
        return [
            hopper.backward_dq_launch(*given, dq, where, score, add=add),
            hopper.backward_dkdv_launch(*given, dk, dv, where, score, add=add_keys),
        ]

    name, every = ("backward", add, add_keys, fresh), (*given, dq, dk, dv)
    seen = given if fresh else every
    if not _by_hopper(name, every, seen, (q, k, v, dout), where, score, made):
        plain.backward_dq_launch(*given, dq, where, score, add=add).run()
        plain.backward_dkdv_launch(*given, dk, dv, where, score, add=add_keys).run()


def _by_hopper(
    name: tuple[str | bool, ...], given: tuple[Tensor, ...], seen: tuple[Tensor, ...],
    read: tuple[Tensor, ...], where: Block | Documents, score: Score,
    made: Callable[[Block], list[hopper.HopperLaunch]],
) -> bool:  # fmt: skip
    """Whether Hopper's kernels did it.

    seen: of the tensors given those that the others follow from; read: q, k, v, dout if given.
    """
    bare = score.alibi_slopes is None and score.dropout_p == 0
    if isinstance(where, Documents) or not bare or not given[0].is_cuda:
        return False
    key = (name, where, score.softmax_scale, score.softcap, signature(seen))
    try:
        found = _kept[key]
    except KeyError:
        if not hopper.serves(read, where, score):
            _kept[key] = None
            return False
        again = _run_first(made(where), given)
        if again is not None:
            _kept[key] = again
        return True
    if found is None:
        return False
    found.run(given)
    return True


def _run_first(
    launches: Sequence[hopper.HopperLaunch], given: tuple[Tensor, ...]
) -> Relaunch | None:
    """Runs launches for the first time, and packs them for the next."""
    calls = [call for one in launches for call in one.made()]
    scratch = [x for one in launches for x in one.scratch]
    return relaunch(calls, given, scratch)
