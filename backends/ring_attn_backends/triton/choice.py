"""Which kernels a launch gets: Hopper's where they serve it, the plain ones everywhere else.

Takes what the functions of `launch` take, and gives something to `run`. What was asked for before,
but for the addresses, is found again without looking further (`hopper.prepared`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ring_attn_backends.triton import launch as plain
from ring_attn_backends.triton.hopper import launch as hopper
from ring_attn_bench.problem import Documents

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.hopper.prepared import Prepared
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Score


class Launch(Protocol):
    """One kernel call or some, ready to run."""

    def run(self) -> None:
        """Enqueues it on the current stream of the tensors' device."""
        ...


@dataclass(frozen=True, slots=True)
class Again:
    """A launch that was made before, for these tensors."""

    prepared: Prepared
    tensors: tuple[Tensor, ...]

    def run(self) -> None:
        """Enqueues it."""
        self.prepared.run(self.tensors)


@dataclass(frozen=True, slots=True)
class First:
    """A launch that will be found by its key when it has run."""

    key: Hashable
    launch: hopper.HopperLaunch
    tensors: tuple[Tensor, ...]

    def run(self) -> None:
        """Enqueues it, and remembers it."""
        from ring_attn_backends.triton.hopper import prepared

        found = prepared.run_first(self.launch, self.tensors)
        if found is not None:
            prepared.remember(self.key, found)


def forward_launch(
    q: Tensor, k: Tensor, v: Tensor, acc: Tensor, out: Tensor, lse: Tensor,
    where: Block | Documents, score: Score, *, first: bool,
) -> Launch:  # fmt: skip
    """As `launch.forward_launch`."""
    given = (q, k, v, acc, out, lse)

    def made(where: Block) -> hopper.HopperLaunch:
        return hopper.forward_launch(*given, where, score, first=first)

    return _hopper("forward", given, given[:3], where, score, first, made) or plain.forward_launch(
        *given, where, score, first=first
    )


def backward_dq_launch(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dq: Tensor, where: Block | Documents, score: Score, *, add: bool,
) -> Launch:  # fmt: skip
    """As `launch.backward_dq_launch`."""
    given = (dout, q, k, v, lse, delta, dq)

    def made(where: Block) -> hopper.HopperLaunch:
        return hopper.backward_dq_launch(*given, where, score, add=add)

    read = (q, k, v, dout)
    return _hopper("dq", given, read, where, score, add, made) or plain.backward_dq_launch(
        *given, where, score, add=add
    )


def backward_dkdv_launch(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dk: Tensor, dv: Tensor, where: Block | Documents, score: Score, *, add: bool,
) -> Launch:  # fmt: skip
    """As `launch.backward_dkdv_launch`."""
    given = (dout, q, k, v, lse, delta, dk, dv)

    def made(where: Block) -> hopper.HopperLaunch:
        return hopper.backward_dkdv_launch(*given, where, score, add=add)

    read = (q, k, v, dout)
    return _hopper("dkdv", given, read, where, score, add, made) or plain.backward_dkdv_launch(
        *given, where, score, add=add
    )


def _hopper(
    name: str, given: tuple[Tensor, ...], read: tuple[Tensor, ...], where: Block | Documents,
    score: Score, flag: bool, made: Callable[[Block], hopper.HopperLaunch],
) -> Launch | None:  # fmt: skip
    """read: q, k, v, and dout if given."""
    bare = score.alibi_slopes is None and score.dropout_p == 0
    if isinstance(where, Documents) or not bare or not given[0].is_cuda:
        return None
    if hopper.unserved(given[0].device.index) is not None:
        return None
    from ring_attn_backends.triton.hopper import prepared

    key = (
        name, where, score.softmax_scale, score.softcap, flag, prepared.signature(given)
    )  # fmt: skip
    try:
        found = prepared.known(key)
    except KeyError:
        if hopper.serves(read, where, score):
            return First(key, made(where), given)
        prepared.remember(key, None)
        return None
    return None if found is None else Again(found, given)
