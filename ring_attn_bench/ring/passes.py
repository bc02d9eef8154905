"""Runs a pass on one rank, or on all ranks of a ring in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from ring_attn_bench.contract.tensors import Kept, Keys, Rows, Sums
from ring_attn_bench.ring.backward import BackwardPass
from ring_attn_bench.ring.forward import ForwardPass, Job
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.ring.transports.loopback import Loopback

Result = TypeVar("Result", covariant=True)


class Pass(Protocol[Result]):
    """A forward or a backward pass of one rank."""

    def publish(self) -> None:
        """Makes the rank's keys readable."""
        ...

    def run(self) -> None:
        """Queues every launch of the pass."""
        ...

    def collect(self) -> Result:
        """The pass's results, complete."""
        ...


def run(one: Pass[Result]) -> Result:
    """One rank's pass, the others being run elsewhere at the same time."""
    one.publish()
    one.run()
    return one.collect()


def run_together(ranks: Sequence[Pass[Result]]) -> list[Result]:
    """The passes of all ranks, one after the other in this process."""
    for one in ranks:
        one.publish()
    for one in ranks:
        one.run()
    return [one.collect() for one in ranks]


def forward(
    job: Job, transport: Transport, q: Tensor, keys: Keys, sink: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """This rank's out (B, M, H, E) and lse (B, H, M)."""
    return run(ForwardPass(job, transport, q, keys, sink))


def forward_keeping(
    job: Job, transport: Transport, q: Tensor, keys: Keys, sink: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor], Kept]:
    """The same, and the keys that came, for `backward`."""
    one = ForwardPass(job, transport, q, keys, sink, keeps=True)
    return run(one), one.kept


def backward(
    job: Job,
    transport: Transport,
    rows: Rows,
    keys: Keys,
    dlse: Tensor | None = None,
    kept: Kept | None = None,
) -> Sums:
    """This rank's dq, dk, dv.

    kept: what the forward kept, on all ranks alike; None is nothing, and keys travel once more.

    dlse (B, H, M): for kernels that are not told delta; the others find it taken off rows.delta.
    """
    return run(BackwardPass(job, transport, rows, keys, dlse, kept))


def loopback_forward(
    jobs: Sequence[Job], shards: Sequence[tuple[Tensor, Keys]]
) -> list[tuple[Tensor, Tensor]]:
    """out and lse of every rank, from its q and keys."""
    board = Loopback()
    return run_together(
        [ForwardPass(job, board, *shard) for job, shard in zip(jobs, shards, strict=True)]
    )


def loopback_forward_keeping(
    jobs: Sequence[Job], shards: Sequence[tuple[Tensor, Keys]]
) -> list[tuple[tuple[Tensor, Tensor], Kept]]:
    """The same, and the keys that came to each rank."""
    board = Loopback()
    ranks = [
        ForwardPass(job, board, *shard, keeps=True) for job, shard in zip(jobs, shards, strict=True)
    ]
    return [(results, one.kept) for results, one in zip(run_together(ranks), ranks, strict=True)]


def loopback_backward(
    jobs: Sequence[Job], shards: Sequence[tuple[Rows, Keys]], kept: Sequence[Kept] | None = None
) -> list[Sums]:
    """dq, dk, dv of every rank, from its rows and keys, and what its forward kept, if it did."""
    board = Loopback()
    return run_together(
        [
            BackwardPass(job, board, *shard, kept=None if kept is None else kept[rank])
            for rank, (job, shard) in enumerate(zip(jobs, shards, strict=True))
        ]
    )
