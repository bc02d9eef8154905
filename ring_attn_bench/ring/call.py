"""From a caller's arguments to a checked call that all ranks agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ring_attn_bench.partition import get_partition
from ring_attn_bench.plan import Layout
from ring_attn_bench.problem import Mask, Problem, Score
from ring_attn_bench.ring.autograd import RingCall
from ring_attn_bench.ring.choose import choose, ring_planner
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.dropout import drawn_seed
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.handshake import Signature, agree, refuse
from ring_attn_bench.ring.remembered import key_of
from ring_attn_bench.ring.validate import (
    check_alibi_slopes,
    check_dropout_seed,
    check_options,
    check_sink,
    check_tensors,
    problem_of,
)


@dataclass(frozen=True)
class Arguments:
    """What a ring function was called with, besides its tensors."""

    partition: str
    backend: str
    dropout_p: float
    dropout_seed: int | None
    softmax_scale: float | None
    causal: bool
    window_size: tuple[int, int]
    alibi_slopes: Tensor | None
    softcap: float
    deterministic: bool
    sink: Tensor | None = None


def agreed_call(
    q: Tensor, k: Tensor, v: Tensor, arguments: Arguments, ring: RingContext
) -> RingCall:
    """The call, checked here and, where ranks shake hands, against the other ranks' calls.

    Raises what the public functions document. A rank that refuses its own arguments tells the
    others, which then raise too instead of waiting for it.
    """
    with refusing(q, ring):
        call, signature = _known(q, k, v, arguments, ring)
    if ring.shakes_hands(q.device):
        agree(ring.group, ring.message_device(q.device), signature)
    if arguments.dropout_p and arguments.dropout_seed is None:
        seed = drawn_seed(ring.group, ring.message_device(q.device))
        call = call.scored(replace(call.job.score, dropout_seed=seed))
    return call


@contextmanager
def refusing(x: object, ring: RingContext) -> Iterator[None]:
    """Tells the other ranks, where they ask, if this one raises over its argument x or another."""
    try:
        yield
    except Exception:
        device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        if ring.shakes_hands(device):
            refuse(ring.group, ring.message_device(device))
        raise


def _known(
    q: Tensor, k: Tensor, v: Tensor, arguments: Arguments, ring: RingContext
) -> tuple[RingCall, Signature]:
    """As `_prepare`, once for calls that differ in their tensors' content only."""
    asked = arguments
    if asked.dropout_p or asked.dropout_seed is not None:  # which is part of the signature
        return _prepare(q, k, v, arguments, ring)
    key = key_of(
        (q, k, v, asked.alibi_slopes, asked.sink), asked.partition, asked.backend, asked.dropout_p,
        asked.softmax_scale, asked.causal, asked.window_size, asked.softcap, asked.deterministic,
    )  # fmt: skip
    found = ring.calls.find(key)
    if found is None:
        found = _prepare(q, k, v, arguments, ring)
        ring.calls.keep(key, found)
        return found
    if asked.alibi_slopes is None:
        return found
    call, signature = found
    score = replace(call.job.score, alibi_slopes=asked.alibi_slopes)
    return call.scored(score), signature


def _prepare(
    q: Tensor, k: Tensor, v: Tensor, arguments: Arguments, ring: RingContext
) -> tuple[RingCall, Signature]:
    check_tensors(q, k, v)
    ring.check_device(q.device)
    check_options(
        arguments.dropout_p, arguments.softmax_scale, arguments.softcap, arguments.window_size
    )
    check_dropout_seed(arguments.dropout_seed)
    check_alibi_slopes(arguments.alibi_slopes, q.shape[0], q.shape[2], q.device)
    check_sink(arguments.sink, q.shape[2], q.device)
    mask = Mask.from_window_size(arguments.causal, arguments.window_size)
    layout = Layout(
        get_partition(arguments.partition),
        ring.world_size,
        q.shape[1],
        mask.band,
        ring.options.slots,
        ring.options.grouping,
    )
    problem = problem_of(
        q,
        v,
        k.shape[2],
        ring.world_size,
        mask,
        softcap=arguments.softcap,
        alibi=arguments.alibi_slopes is not None,
        dropout_p=arguments.dropout_p,
        deterministic=arguments.deterministic,
        backward=torch.is_grad_enabled()
        and any(x is not None and x.requires_grad for x in (q, k, v, arguments.sink)),
    )
    backend, plan = choose(
        arguments.backend,
        problem,
        ring_planner(layout, ring.rank, mask),
        announces=ring.rank == 0,
    )
    scale = q.shape[-1] ** -0.5 if arguments.softmax_scale is None else arguments.softmax_scale
    score = Score(
        scale,
        arguments.softcap,
        arguments.alibi_slopes,
        arguments.dropout_p,
        arguments.dropout_seed or 0,
    )
    gradients = ring.gradient_dtype(q.dtype)
    job = Job(plan, backend, score, gradients, arguments.deterministic)
    signature = _signature(problem, layout, backend.name, score, ring, arguments.sink is not None)
    return RingCall(job, ring), signature


def _signature(
    problem: Problem, layout: Layout, backend: str, score: Score, ring: RingContext, sink: bool
) -> Signature:
    """Everything that ranks must have in common for their messages to fit."""
    return Signature.of(
        {
            "batch size": problem.batch,
            "tokens": layout.tokens,
            "query heads": problem.heads_q,
            "key heads": problem.heads_kv,
            "head dim": problem.head_dim,
            "head dim of v": problem.head_dim_v,
            "gradients wanted (1 yes, 0 no)": int(problem.backward),
            "a sink (1 yes, 0 no)": int(sink),
        },
        {
            "dtype": problem.dtype,
            "partition": layout.partition.name,
            "backend": backend,
            "mask": str(problem.mask),
            "softmax_scale, softcap or alibi_slopes": (
                f"{score.softmax_scale!r} {score.softcap!r} {problem.alibi}"
            ),
            "dropout_p or dropout_seed": f"{score.dropout_p!r} {score.dropout_seed}",
            "ring options": str(ring.options),
            "deterministic": str(problem.deterministic),
        },
    )
