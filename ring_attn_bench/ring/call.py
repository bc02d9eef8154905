"""From a caller's arguments to a checked call that all ranks agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ring_attn_bench.calls.attend import Given
from ring_attn_bench.calls.autograd_limits import check_untransformed
from ring_attn_bench.calls.dense import device_of
from ring_attn_bench.calls.options import Options, drawn_seed
from ring_attn_bench.calls.prepare import prepared
from ring_attn_bench.calls.remembered import Remembered, RememberedOf
from ring_attn_bench.contract.tensors import Kept, Keys, Rows, Sums
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.block import Abilities
from ring_attn_bench.plan.documents import NONE, DealtDocuments
from ring_attn_bench.plan.layout import Layout, Queries
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.backend_choice import Planner, able, choose, ring_planner
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.dropout import shared_seed
from ring_attn_bench.ring.fastest import Known, announce
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.handshake import (
    SINK,
    Gradients,
    Signature,
    agree,
    agree_on_backward,
    refuse,
)
from ring_attn_bench.ring.jobs import jobs
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import is_open, laid_out, one_launch_is_ruled, settled
from ring_attn_bench.ring.threads import two_threads

TakePart = Callable[[Tensor, Tensor, Tensor, Options], tuple[Tensor, Tensor, Tensor, Options]]


class RingCall(NamedTuple):
    """What a call computes, and how its keys travel: a `Call` of shards.

    A tuple, because one is made for each call.
    """

    job: Job
    transport: Transport
    greet: Callable[[], None] | None = None
    """What ranks that shake hands do before a backward."""
    keeps: bool = False
    """Whether keys that came stay for the backward: a `KeepingCall`."""
    ring: RingContext | None = None
    """Whose turn a backward takes; None where nobody else has one."""

    @property
    def needs_delta(self) -> bool:
        """Whether the kernel reads delta."""
        return self.job.backend.needs_delta

    def seeded(self, seed: int) -> RingCall:
        """The same call with another seed for dropout."""
        score = replace(self.job.score, dropout_seed=seed)
        return self._replace(job=replace(self.job, score=score))

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """This rank's out (B, M, H, E) in q's dtype, and lse (B, H, M)."""
        q, k, v, sink, slopes, *_ = given
        job = self.job if slopes is None else self._job(given)
        return passes.forward(job, self.transport, q, Keys(k, v), sink)

    def forward_keeping(self, given: Given) -> tuple[tuple[Tensor, Tensor], Kept]:
        """This rank's out and lse as of `forward`, and the other ranks' keys."""
        q, k, v, sink, *_ = given
        job = self.job if given.alibi_slopes is None else self._job(given)
        return passes.forward_keeping(job, self.transport, q, Keys(k, v), sink)

    def backward(
        self, given: Given, rows: Rows, dlse: Tensor | None, kept: Kept | None = None
    ) -> Sums:
        """This rank's dq, dk, dv."""
        ring = self.ring
        if ring is not None and not ring.turn.lock.acquire(blocking=False):
            raise ring.turn.refused(partial(tell, given.q, ring))
        try:
            if self.greet is not None:
                self.greet()
            job = self.job if given.alibi_slopes is None else self._job(given)
            sums = passes.backward(job, self.transport, rows, given.keys, dlse, kept)
            if ring is not None and ring.turn.crossed:
                raise two_threads()
            return sums
        finally:
            if ring is not None:
                ring.turn.lock.release()

    def _job(self, given: Given) -> Job:
        return replace(self.job, score=given.score(self.job.score))


Packed = tuple[DealtDocuments, DealtDocuments | None]
"""The documents of keys, and those of queries where they are others."""


class OnRing(NamedTuple):
    """Where a call of shards is computed: a `Way`.

    documents: of which the sequence is packed, and how it was dealt; None is one sequence.
    queries: those of the queries, where they are others than the keys.
    """

    ring: RingContext
    documents: DealtDocuments | None = None
    queries: DealtDocuments | None = None

    @property
    def calls(self) -> Remembered[tuple[Job, Signature]]:
        """What the ring's context remembers of earlier calls: of fewer that are of documents, for
        each batch has plans of its own, and large ones."""
        if self.documents is None:
            return self.ring.calls
        return RememberedOf(self.ring.calls_of_documents, (self.documents, self.queries))

    @property
    def ranks(self) -> int:
        """How many ranks the ring has."""
        return self.ring.world_size

    def made(self, problem: Problem, options: Options) -> tuple[Job, Signature]:
        """The job, and what it must have in common with the other ranks'; raises as `choose`."""
        ring, documents = self.ring, self.documents
        if self.queries is None and problem.queries not in (None, problem.seqlen):
            rows, keys = (count // ring.world_size for count in (problem.queries, problem.seqlen))
            raise InvalidArgument(
                f"q, k and v must have one number of tokens, got {rows}, {keys} and {keys}."
            )
        partition = options.partition if documents is None else documents.partition
        if partition is None:
            raise InvalidArgument("partition is None; it must be a name like 'zigzag'.")
        tokens = problem.seqlen // ring.world_size
        starts, queries, void, room = None, None, NONE, None
        if documents is not None:
            starts, void, room = documents.apart, documents.void, documents.room
        if documents is not None and self.queries is not None:
            starts, theirs = documents.starts, self.queries
            queries = Queries(theirs.partition, theirs.tokens, theirs.starts)

        def known(name: str, blocks: Abilities) -> Known | None:
            if starts is not None:  # figures are of one sequence
                return None
            # not problem.backward: a rank whose inputs need no gradient takes the others' steps
            asked = replace(problem, backward=torch.is_grad_enabled())
            return Known.of(
                asked, ring.options, blocks, gpu=ring.gpu, kernel=name, transport=ring.transport
            )

        @cache
        def settle(name: str, blocks: Abilities) -> tuple[RingOptions, Layout]:
            where = partition, ring.world_size, tokens, problem.mask
            waits = one_launch_is_ruled(
                blocks, *where[:3], arrives=ring.arrives, documents=starts is not None
            )
            took = settled(
                *where, ring.options, waits=waits, known=known(name, blocks), documents=starts,
                queries=queries, void=void, room=room,
            )  # fmt: skip
            return took, laid_out(*where, took, starts, queries, void, room)

        def planner_of(name: str) -> Planner:
            def planner(blocks: Abilities) -> Plan | str:
                _, layout = settle(name, blocks)
                return ring_planner(layout, ring.rank, problem.mask)(blocks)

            return planner

        first = ring.rank == 0
        # on a GPU a launch for each document is what takes the time
        gathers = starts is not None and problem.device == "cuda"
        backend, _ = choose(
            options.backend, problem, planner_of, announces=first, gathers=gathers,
            documents=starts is not None,
        )  # fmt: skip
        blocks = able(backend, problem, documents=starts is not None)
        score = options.score(problem.head_dim)
        took, layout = settle(backend.name, blocks)
        if first and ring.world_size > 1 and is_open(ring.options):
            gpu = ring.gpu if known(backend.name, blocks) else ""
            announce(took, backend.name, ring.transport, gpu, ring.world_size)
        (job,) = jobs(
            problem, layout, backend, score, ring.options, (ring.rank,), hands_on=ring.hands_on
        )
        return job, _signature(problem, layout, job, options, self)


def agreed_call(
    separated: Callable[[], tuple[Tensor, Tensor, Tensor, Options]],
    like: object,
    ring: RingContext,
    packed: Callable[[], Packed] | None = None,
    *,
    take_part: TakePart | None = None,
    draw: Callable[[], int] = drawn_seed,
) -> tuple[RingCall, Given]:
    """The call and its tensors, checked here and, where ranks shake hands, against the others'.

    separated: q, k, v and the options of arguments in whatever form they came; may raise. like: an
    argument on their device. packed: the documents of tensors that hold several; may raise too.
    take_part: what this rank calls where only others want gradients, if not the same with a
    gradient of q; draw: makes a seed.
    Raises what the public functions document. A rank that refuses its own arguments tells the
    others, which then raise too instead of waiting for it.
    """
    try:
        way = OnRing(ring, *(() if packed is None else packed()))
        asked = separated()
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            check_untransformed("attention", *asked[:3], asked[3].sink, asked[3].alibi_slopes)
        (job, signature), given, options = prepared(*asked, way)
        device = given.q.device
        greets = ring.greets(device)
    except Exception:
        tell(like, ring)
        raise
    greet = None
    if greets:
        where = ring.message_device(device)
        seed = str(options.dropout_seed)
        if agree(ring.group, where, signature.with_text("dropout_seed", seed)):
            try:
                asked = (take_part or _taking_part)(*asked)
                (job, signature), given, options = prepared(*asked, way)
            except Exception:
                tell(like, ring)
                raise
            agree(ring.group, where, signature)
        greet = partial(agree_on_backward, ring.group, where, ring.next_number())
    # the call is not remembered, or a context would keep itself alive
    call = RingCall(job, ring, greet, ring.keeps, ring)
    if not options.dropout_p and options.dropout_seed is None:
        return call, given
    if options.draws_seed:
        return call.seeded(shared_seed(ring.group, ring.message_device(device), draw)), given
    return call if options.dropout_seed is None else call.seeded(options.dropout_seed), given


def _taking_part(
    q: Tensor, k: Tensor, v: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, Options]:
    """The same, with a gradient of q if none is needed: other ranks' pass through this one."""
    needed = any(x is not None and x.requires_grad for x in (q, k, v, options.sink))
    if not needed and any(x.is_inference() for x in (q, k, v)):
        raise InvalidArgument(
            "another rank wants gradients, and this one has tensors that were made in inference "
            "mode, which autograd keeps none of; pass q.clone(), k.clone() and v.clone(), made "
            "outside of it, or call under torch.no_grad() on all ranks."
        )
    return q if needed else q.detach().requires_grad_(), k, v, options


def tell(x: object, ring: RingContext) -> None:
    """Tells the other ranks, where they ask, that this one raises over x or another argument."""
    device = device_of(x)
    if ring.shakes_hands(device):
        refuse(ring.group, ring.message_device(device))


def _signature(
    problem: Problem, layout: Layout, job: Job, options: Options, way: OnRing
) -> Signature:
    """Everything that ranks must have in common for their messages to fit."""
    documents, queries = way.documents, layout.queries
    return Signature.of(
        {
            "batch size": problem.batch,
            "tokens": layout.tokens,
            "queries": layout.row_tokens,
            "query heads": problem.heads_q,
            "key heads": problem.heads_kv,
            "head dim": problem.head_dim,
            "head dim of v": problem.head_dim_v,
            SINK: int(options.sink is not None),
        },
        {
            "dtype": problem.dtype,
            "partition": layout.partition.identity,
            "partition of queries": "" if queries is None else queries.partition.identity,
            "cu_seqlens or seqused": (
                "" if documents is None else f"{documents.starts} {sorted(documents.void)}"
            ),
            "cu_seqlens of queries": "" if queries is None else str(queries.starts),
            "backend": job.backend.name,
            "mask": str(problem.mask),
            "softmax_scale, softcap or alibi_slopes": (
                f"{options.scale(problem.head_dim)!r} {options.softcap!r} {problem.alibi}"
            ),
            "dropout_p": repr(options.dropout_p),
            "ring options": str(way.ring.options),
            "deterministic": str(problem.deterministic),
        },
        Gradients.WANTED
        if problem.backward
        else Gradients.UNNEEDED
        if torch.is_grad_enabled()
        else Gradients.OFF,
    )
