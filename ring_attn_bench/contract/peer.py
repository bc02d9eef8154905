"""The contract that somebody else's whole ring meets to be measured beside ours.

A peer brings kernels, schedule and communication of its own. What it shares with our ring is the
question: the harness deals the sequence to ranks by one of our partitions, so that one oracle
judges everybody, and leaves it to the peer to say which of them are its own.

Shapes: B batch, M tokens of this rank, H query heads, G key heads, D head dim.

    q, out (B, M, H, D)   k, v (B, M, G, D)   lse (B, H, M)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor

    from ring_attn_bench.contract.cache import CachedCall
    from ring_attn_bench.plan.cached import CachedProblem
    from ring_attn_bench.plan.documents import DealtDocuments
    from ring_attn_bench.plan.problem import Problem


class PeerRing(Protocol):
    """A peer on one rank, ready for one problem."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """out and lse (natural log) of this rank's rows; scores are scaled by head_dim ** -0.5.

        Gradients are autograd's: out must be differentiable, and more than once. lse is None where
        the peer gives none; then nobody judges it.
        """
        ...

    def settings(self) -> AbstractContextManager[object]:
        """What must be in force while a forward or its backward runs; `nullcontext()` for most.

        For packages that keep settings in globals: other contestants may live in this process.
        """
        ...


class Peer(Protocol):
    """Somebody else's ring: made without arguments, and only then is its package imported.

    name: its name in the registry, without the "peer:" that suites and records put before it.
    kernel: the backend of ours that has the same kernel, to run beside it on one GPU; or None.
    worker_environment: by device type, environment variables that its process must start with.

    One whose forward and backward can be captured in a CUDA graph, over NCCL, has `capturable =
    True` too.
    """

    name: str
    kernel: str | None
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]]

    def version(self) -> str:
        """The version of the code that runs, kernel included, for the records."""
        ...

    def unsupported(self, problem: Problem, partition: str, world_size: int) -> str | None:
        """Why it cannot be run, or None: what the peer itself refuses or has no argument for.

        What it accepts and gets wrong is not refused: it must show as wrong.
        """
        ...

    def join(self, problem: Problem, partition: str, group: dist.ProcessGroup) -> PeerRing:
        """This rank's part of a ring over the group's ranks, each of which calls this too."""
        ...


class PackedPeer(Protocol):
    """Somebody else's ring of packed documents: what a peer may have besides one of a sequence.

    The batch dim of its tensors is 1, and their tokens are a rank's of all documents, as they were
    dealt; cu_seqlens are the peer's own to make.
    """

    def documents_unsupported(self, problem: Problem, documents: DealtDocuments) -> str | None:
        """Why they cannot be run, or None: as `unsupported`, and for documents dealt otherwise."""
        ...

    def join_documents(
        self, problem: Problem, documents: DealtDocuments, group: dist.ProcessGroup
    ) -> PeerRing:
        """As `join`: what the peer prepares once for a batch is done here, and is in no time."""
        ...


class CachedPeer(Protocol):
    """Somebody else's attention over a cache, on one device: what a peer may have besides a ring.

    One that has no ring refuses every problem of one.
    """

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """Why it cannot be run, or None: what it refuses itself or has no argument for."""
        ...

    def over_cache(self, call: CachedCall) -> Callable[[], tuple[Tensor, Tensor | None]]:
        """A step over this cache as the peer's users make it, again and again.

        It gives out (B, M, H, E) and lse (B, H, M), natural log, or no lse where it has none. What
        the peer plans for by the lengths that the cache has now is done here, and is in no time.
        """
        ...


def is_capturable(peer: object) -> bool:
    """Whether the peer says that its passes can be put into CUDA graphs."""
    return getattr(type(peer), "capturable", False) is True


def over_caches(peer: object) -> CachedPeer | None:
    """The peer if it attends over a cache."""
    names = "cached_unsupported", "over_cache"
    has = all(callable(getattr(type(peer), name, None)) for name in names)
    return cast("CachedPeer", peer) if has else None


def of_documents(peer: object) -> PackedPeer | None:
    """The peer if it takes packed documents."""
    names = "documents_unsupported", "join_documents"
    has = all(callable(getattr(type(peer), name, None)) for name in names)
    return cast("PackedPeer", peer) if has else None
