"""Who computes a case over a cache: a kernel by our functions, of one device or a ring; a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.bench.cached.inputs import CacheInputs, dealt, room_of, shape_of
from ring_attn_bench.bench.contestant import Outputs, Refused
from ring_attn_bench.bench.flops import head_dim_v
from ring_attn_bench.bench.inputs import mask_of, score_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.cached_attention import flash_attn_with_kvcache, ring_attn_with_kvcache
from ring_attn_bench.contract.backend import Backend, is_interpreted
from ring_attn_bench.contract.cache import Appended, Cache, CachedCall, caching, reason_over_cache
from ring_attn_bench.contract.peer import CachedPeer, Peer, over_caches
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.records.cache_shape import BLOCK
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.context import RingContext

Step = Callable[[], Outputs]
"""One call: out (B, M, H, E) and lse (B, H, M), alike on all ranks; no lse where none is given."""


class CacheRunner(Protocol):
    """Whoever computes a case over a cache, on one process."""

    @property
    def took(self) -> None:
        """As a `Runner` has it: no option says anything of a cache."""

    @property
    def job(self) -> None:
        """As a `Runner` has it: there is no plan."""

    @property
    def follows_lengths(self) -> bool:
        """Whether a captured call reads lengths and tables when it is replayed; else it plans."""
        ...

    @property
    def version(self) -> str:
        """The version of the code that computes."""
        ...

    @property
    def interpreted(self) -> bool:
        """Whether its kernel runs in an interpreter, which has errors but no speed."""
        ...

    @property
    def kernel(self) -> Backend | None:
        """The kernel inside as a backend; None if there is none such."""
        ...

    def step(self, x: CacheInputs) -> Step:
        """A call over these inputs, as a user makes it; it may be made again and again."""
        ...

    def timed(self, x: CacheInputs) -> Callable[[], object]:
        """The same call without the lse, which nobody wants of a step of decoding."""
        ...


@dataclass(frozen=True)
class KernelRunner:
    """A kernel by the public function of one device or, with a context, of a ring."""

    case: Case
    kernel: Backend
    context: RingContext | None

    took = None
    job = None
    follows_lengths = True

    @property
    def version(self) -> str:
        """The version of the kernel's package."""
        return self.kernel.version()

    @property
    def interpreted(self) -> bool:
        """Whether the kernel says so."""
        return is_interpreted(self.kernel)

    def step(self, x: CacheInputs) -> Step:
        """With all arguments as flash-attn's users give them."""
        return self._call(x, wants_lse=True)

    def timed(self, x: CacheInputs) -> Callable[[], object]:
        """The same, but for the lse."""
        return self._call(x, wants_lse=False)

    def _call(self, x: CacheInputs, *, wants_lse: bool) -> Callable[[], Any]:
        case, shape = self.case, shape_of(self.case)
        arguments: dict[str, Any] = {
            **{name: value for name, value in vars(x).items() if value is not None},
            "causal": case.causal,
            "window_size": case.window,
            "softcap": case.softcap,
            "rotary_interleaved": shape.rotary != "halves",
            "num_splits": shape.splits,
            "backend": self.kernel.name,
            "return_softmax_lse": wants_lse,
        }
        if self.context is None:
            return partial(flash_attn_with_kvcache, **arguments)
        return partial(ring_attn_with_kvcache, **arguments, block=BLOCK, context=self.context)


@dataclass(frozen=True)
class PeerRunner:
    """Somebody else's attention over a cache, called as its users call it."""

    case: Case
    peer: Peer
    inside: CachedPeer

    took = None
    job = None
    follows_lengths = False
    kernel = None
    interpreted = False

    @property
    def version(self) -> str:
        """The version of the peer's package."""
        return self.peer.version()

    def step(self, x: CacheInputs) -> Step:
        """What the peer makes of the call, planned beforehand where it plans."""
        return self.inside.over_cache(call_of(self.case, x))

    def timed(self, x: CacheInputs) -> Callable[[], object]:
        """The very call: flash-attn computes an lse either way, FlashInfer is asked for none."""
        return self.step(x)


def make(
    case: Case, spec: Contestant, place: WorkerPlace, context: RingContext | None
) -> CacheRunner:
    """The contestant on this process; raises Refused with the backend's or the peer's reason."""
    if spec.playing or (case.world_size > 1 and place.processes == 1):
        raise Refused(
            "a cache that is dealt to ranks has a process for each: its ring is neither played by "
            "fewer nor by loopback"
        )
    try:
        if registry.is_peer(spec.backend):
            return _peer(case, spec.backend, place)
        kernel = registry.load(spec.backend)
    except BackendUnavailable as error:
        raise Refused(error.reason) from None
    cached = caching(kernel)
    if cached is None:
        raise Refused("it has no attention over a cache")
    if (reason := reason_over_cache(cached, problem_of(case, place))) is not None:
        raise Refused(reason)
    return KernelRunner(case, kernel, context if case.world_size > 1 else None)


def _peer(case: Case, name: str, place: WorkerPlace) -> PeerRunner:
    peer = registry.load_peer(name)
    inside = over_caches(peer)
    if inside is None:
        raise Refused("it is a ring, and has no attention over a cache")
    if case.world_size > 1:
        raise Refused("it knows of no cache that is dealt to ranks")
    if (reason := reason_over_cache(inside, problem_of(case, place))) is not None:
        raise Refused(reason)
    return PeerRunner(case, peer, inside)


def problem_of(case: Case, place: WorkerPlace) -> CachedProblem:
    """The case as a backend or a peer is asked about it."""
    shape = shape_of(case)
    return CachedProblem(
        batch=case.batch,
        queries=shape.queries,
        capacity=room_of(case) * case.world_size,
        heads_q=case.heads_q,
        heads_kv=case.heads_kv,
        head_dim=case.head_dim,
        head_dim_v=head_dim_v(case),
        dtype=case.dtype,  # type: ignore[arg-type]  # the suite has checked it
        device="cuda" if place.device.type == "cuda" else "cpu",
        mask=mask_of(case),
        softcap=case.softcap,
        appended=shape.queries if shape.append else 0,
        page_size=shape.page,
        rotary_dim=case.head_dim if shape.rotary else 0,
        padded=shape.leftpad > 0,
        splits=shape.splits,
        latent=shape.latent,
        dealt=dealt(case, place.ranks[0]),
    )


def call_of(case: Case, x: CacheInputs) -> CachedCall:
    """The inputs in the words of kernels."""
    shape = shape_of(case)
    new = None
    if x.k is not None and x.v is not None:
        one_place = not (mask_of(case).causal or mask_of(case).has_window)
        pairs = shape.rotary != "halves"
        new = Appended(x.k, x.v, x.rotary_cos, x.rotary_sin, pairs, one_place)
    cache = Cache(x.k_cache, x.v_cache, x.cache_seqlens, x.block_table, skipped=x.cache_leftpad)
    return CachedCall(x.q, cache, mask_of(case), score_of(case), new, splits=shape.splits)


def detached(outputs: Outputs) -> dict[str, Tensor]:
    """By name; lse is not there where none is given."""
    out, lse = outputs
    return {"out": out} if lse is None else {"out": out, "lse": lse}
