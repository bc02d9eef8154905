"""Runs a pass on one rank, or on all ranks of a ring in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from ring_attn_bench.ring.backward import BackwardPass
from ring_attn_bench.ring.forward import ForwardPass, Job
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.ring.transports.loopback import Loopback
from ring_attn_bench.tensors import Keys, Rows, Sums

Result = TypeVar("Result", covariant=True)


class Pass(Protocol[Result]):
    """A forward or a backward pass of one rank."""

    def publish(self) -> None:
        """Makes the rank's keys readable."""
        ...

    def run(self) -> None:
        """Queues every launch."""
        ...

    def collect(self) -> Result:
        """The results, complete."""
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


def backward(
    job: Job, transport: Transport, rows: Rows, keys: Keys, dlse: Tensor | None = None
) -> Sums:
    """This rank's dq, dk, dv.

    dlse (B, H, M): for kernels that are not told delta; the others find it taken off rows.delta.
    """
    return run(BackwardPass(job, transport, rows, keys, dlse))


def loopback_forward(
    jobs: Sequence[Job], shards: Sequence[tuple[Tensor, Keys]]
) -> list[tuple[Tensor, Tensor]]:
    """out and lse of every rank, from its q and keys."""
    board = Loopback()
    return run_together(
        [ForwardPass(job, board, *shard) for job, shard in zip(jobs, shards, strict=True)]
    )


def loopback_backward(jobs: Sequence[Job], shards: Sequence[tuple[Rows, Keys]]) -> list[Sums]:
    """dq, dk, dv of every rank, from its rows and keys."""
    board = Loopback()
    return run_together(
        [BackwardPass(job, board, *shard) for job, shard in zip(jobs, shards, strict=True)]
    )
