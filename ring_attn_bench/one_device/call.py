"""From a caller's arguments to a checked call on one device: a ring of one, without a group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor

from ring_attn_bench.block import Abilities
from ring_attn_bench.one_device.one_launch import OneLaunch
from ring_attn_bench.plan import Plan, lone_plan
from ring_attn_bench.positions import Span
from ring_attn_bench.problem import Mask, Problem, Score
from ring_attn_bench.ring.autograd import RingCall
from ring_attn_bench.ring.choose import Planner, choose
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.ring.remembered import Remembered, key_of
from ring_attn_bench.ring.transports.alone import Alone
from ring_attn_bench.ring.validate import (
    check_alibi_slopes,
    check_attention,
    check_dropout_seed,
    check_options,
    check_sink,
    dtype_name,
)

_known: Remembered[OneLaunch | RingCall] = Remembered()


@dataclass(frozen=True)
class Options:
    """What a function of one device was called with, besides its tensors."""

    backend: str
    dropout_p: float
    dropout_seed: int | None
    softmax_scale: float | None
    causal: bool
    window_size: tuple[int, int]
    softcap: float
    alibi_slopes: Tensor | None
    deterministic: bool
    sink: Tensor | None

    def check(self, q: Tensor, batch: int) -> None:
        """Raises InvalidArgument for what cannot be right with such queries."""
        check_options(self.dropout_p, self.softmax_scale, self.softcap, self.window_size)
        check_dropout_seed(self.dropout_seed)
        check_alibi_slopes(self.alibi_slopes, batch, q.shape[-2], q.device)
        check_sink(self.sink, q.shape[-2], q.device)

    @property
    def mask(self) -> Mask:
        """Causality and the window."""
        return Mask.from_window_size(self.causal, self.window_size)

    def score(self, q: Tensor) -> Score:
        """The score; without a seed, one is drawn from torch's default CPU generator."""
        seed = self.dropout_seed
        if seed is None:
            # that generator, because activation checkpointing puts it back before it runs again
            seed = int(torch.randint(2**63 - 1, ()).item()) if self.dropout_p else 0
        scale = q.shape[-1] ** -0.5 if self.softmax_scale is None else self.softmax_scale
        return Score(scale, self.softcap, self.alibi_slopes, self.dropout_p, seed)

    def problem(
        self, q: Tensor, k: Tensor, v: Tensor, batch: int, seqlen: int, *, packed: bool = False
    ) -> Problem:
        """The problem as backends are asked about it."""
        wants = any(x is not None and x.requires_grad for x in (q, k, v, self.sink))
        device: Literal["cuda", "cpu"] = "cuda" if q.is_cuda else "cpu"
        return Problem(
            batch, seqlen, q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1],
            dtype_name(q.dtype), device, self.mask, self.softcap, self.alibi_slopes is not None,
            self.dropout_p, self.deterministic, torch.is_grad_enabled() and wants, packed,
        )  # fmt: skip


def local_call(q: Tensor, k: Tensor, v: Tensor, options: Options) -> OneLaunch | RingCall:
    """The call of tensors (batch, tokens, heads, dim); raises InvalidArgument, or as `choose`.

    Checks and choice follow from shapes, dtypes and numbers, and are made once for each of them:
    they take the host some 50 us.
    """
    check_dropout_seed(options.dropout_seed)
    key = key_of(
        (q, k, v, options.alibi_slopes, options.sink), options.backend, options.dropout_p,
        options.softmax_scale, options.causal, options.window_size, options.softcap,
        options.deterministic,
    )  # fmt: skip
    call = _known.find(key)
    if call is None:
        call = _checked_call(q, k, v, options)
        _known.keep(key, call)
        return call
    if options.alibi_slopes is None and not options.dropout_p:
        return call
    return call.scored(options.score(q))


def _checked_call(q: Tensor, k: Tensor, v: Tensor, options: Options) -> OneLaunch | RingCall:
    check_attention(q, k, v, ("batch", "tokens", "heads", "dim"))
    options.check(q, q.shape[0])
    problem = options.problem(q, k, v, q.shape[0], k.shape[1])
    backend, plan = choose(
        options.backend, problem, local_planner(q.shape[1], k.shape[1], options.mask)
    )
    wide = accumulator_dtype(q.dtype)
    job = Job(plan, backend, options.score(q), wide, options.deterministic)
    one = OneLaunch.of(job) if options.sink is None else None
    return one or RingCall(job, Alone())


def local_planner(rows: int, keys: int, mask: Mask) -> Planner:
    """The plan for that many queries and keys."""

    return partial(_planned, rows, keys, mask)


@lru_cache(maxsize=1024)
def _planned(rows: int, keys: int, mask: Mask, able: Abilities) -> Plan | str:
    # kept, because making it takes the host longer than a short kernel takes a GPU
    row_span, key_span = aligned(rows, keys)
    found = lone_plan((row_span,), (key_span,), mask.band, able)
    return f"a mask '{mask}': {found}" if isinstance(found, str) else found


def aligned(rows: int, keys: int) -> tuple[Span, Span]:
    """Positions of queries and keys whose last ones are at one place (flash-attn's alignment)."""
    return Span(max(0, keys - rows), rows), Span(max(0, rows - keys), keys)
