"""The speed of a row's trials: all of them in turns, in random order, from a cold L2 cache.

Then each launch is judged, on other inputs: what is right in its first calls may go wrong in later
ones, and a speed says that it did not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.contract.tunable import TrialTensors, TunableBackend
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.outcome import MASKS, OUTPUTS, TimedShape, TypedTrial
from ring_attn_bench.records.status import Status
from ring_attn_bench.tune import again
from ring_attn_bench.workers.after_error import sentence, status_of

FEWEST_ROUNDS = 6
"""Below, no interval holds a median with 95 %; slower rows than `seconds` allow get no fewer."""

Launch = Callable[[], None]


@dataclass
class Timed:
    """Microseconds of each call by mask; none where the status is not ok."""

    times: dict[str, list[float]] = field(default_factory=lambda: {mask: [] for mask in MASKS})
    status: Status = Status.OK
    reason: str = ""


@dataclass
class _Ready:
    """A trial with one mask, that has run once into outputs of its own."""

    timed: Timed
    subject: TypedTrial
    mask: str
    launch: Launch
    own: dict[str, Tensor]

    @property
    def is_right(self) -> bool:
        """Whether nothing is known against it, whatever its mask."""
        return self.timed.status is Status.OK


def time_row(
    backend: TunableBackend,
    subjects: Sequence[TypedTrial],
    shape: TimedShape,
    rounds: int,
    seconds: float,
    device: str,
) -> list[Timed]:
    """Of subjects that share a row, in their order.

    In each round every trial runs once with each mask. After `seconds` there are no more rounds
    than FEWEST_ROUNDS. What a trial raises costs that trial; what it leaves as it was is its fault,
    and what it gets wrong once it was timed.
    """
    trials = [Timed() for _ in subjects]
    made: list[_Ready] = []
    inputs: dict[str, TrialTensors] = {}
    for mask in MASKS:
        inputs[mask] = _inputs(backend, subjects[0], shape, _block(shape, mask), device)
        for subject, timed in zip(subjects, trials, strict=True):
            if timed.status is Status.OK:
                made += _tried(backend, subject, inputs[mask], shape, mask, timed)
    ready = [x for x in made if x.is_right]
    if ready:
        _rounds([(x.timed.times[x.mask], x.launch) for x in ready], rounds, seconds, device)
        for mask in MASKS:
            _judge_again([x for x in ready if x.mask == mask], inputs[mask])
    return trials


def _tried(
    backend: TunableBackend,
    subject: TypedTrial,
    tensors: TrialTensors,
    shape: TimedShape,
    mask: str,
    timed: Timed,
) -> list[_Ready]:
    """A launch into outputs of its own, that has run once; none, and why, if it fails."""
    kernel = subject.trial.kernel
    held = tensors.rows if kernel == "forward" else tensors.sums
    own = {name: torch.full_like(getattr(held, name), float("nan")) for name in OUTPUTS[kernel]}
    if kernel == "forward":
        tensors = replace(tensors, rows=tensors.rows._replace(**own))
    else:
        tensors = replace(tensors, sums=tensors.sums._replace(**own))
    block, score = _block(shape, mask), _score(subject)
    try:
        launch = backend.trial_launch(subject.trial, tensors, block, score, add=False)
        launch()
        unwritten = [name for name in own if not bool(own[name].isfinite().all())]
    except Exception as error:
        timed.status, timed.reason = status_of(error), f"when timed, {sentence(error)}"
        return []
    if unwritten:
        reason = f"when timed, {unwritten[0]} is not written everywhere, or not finite"
        timed.status, timed.reason = Status.WRONG, reason
        return []
    return [_Ready(timed, subject, mask, launch, own)]


def _judge_again(ready: Sequence[_Ready], tensors: TrialTensors) -> None:
    """The very launches that were timed, all with one mask; what is wrong now has no speed."""
    if not ready:
        return
    first = ready[0]
    renewed = again.renew(tensors, Mask(causal=first.mask == "causal"), _score(first.subject))
    for x in ready:
        if not x.is_right:
            continue
        again.poison(x.own)
        try:
            x.launch()
            wrong = renewed.faults(x.subject.trial.kernel, x.own)
        except Exception as error:
            reason = f"when it was judged again after timing, {sentence(error)}"
            x.timed.status, x.timed.reason = status_of(error), reason
            continue
        if wrong:
            x.timed.status = Status.WRONG
            x.timed.reason = (
                f"right before it was timed, and wrong afterwards on other inputs: {x.mask}, "
                f"{wrong[0]}"
            )


def _inputs(
    backend: TunableBackend, subject: TypedTrial, shape: TimedShape, block: Block, device: str
) -> TrialTensors:
    """Normal random values; out and lse are the backend's own, for speed they are right enough."""
    generator = torch.Generator(device).manual_seed(1)
    dtype: torch.dtype = getattr(torch, subject.dtype)

    def drawn(heads: int) -> Tensor:
        size = shape.batch, shape.seqlen, heads, subject.trial.head_dim
        return torch.randn(size, generator=generator, device=device).to(dtype)

    q, dout = drawn(shape.heads_q), drawn(shape.heads_q)
    keys = Keys(drawn(shape.heads_kv), drawn(shape.heads_kv))
    wide = torch.promote_types(dtype, torch.float32)
    lse = q.new_zeros(shape.batch, shape.heads_q, shape.seqlen, dtype=wide)
    out, delta = torch.zeros_like(q), torch.zeros_like(lse)
    if subject.trial.kernel != "forward":
        out, lse = backend.forward(q, keys, block, _score(subject))
        delta = (dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).transpose(1, 2).contiguous()
    sums = Sums(*(torch.empty_like(x, dtype=wide) for x in (q, *keys)))
    return TrialTensors(Rows(q, dout, out, lse, delta), keys, sums)


def _score(subject: TypedTrial) -> Score:
    return Score(float(subject.trial.head_dim) ** -0.5)


def _block(shape: TimedShape, mask: str) -> Block:
    tokens = (Span(0, shape.seqlen),)
    return Block(tokens, tokens, Band(low=0 if mask == "causal" else None))


def _rounds(
    ready: Sequence[tuple[list[float], Launch]], rounds: int, seconds: float, device: str
) -> None:
    """Adds each launch's microseconds to its list."""
    clock = _DeviceClock() if device == "cuda" else _HostClock()
    order, random, began = list(ready), Random(1), time.monotonic()
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.monotonic() - began > seconds:
            break
        random.shuffle(order)
        taken = clock.microseconds([launch for _, launch in order])
        for (times, _), microseconds in zip(order, taken, strict=True):
            times.append(round(microseconds, 2))


class _DeviceClock:
    """A pair of CUDA events around each launch."""

    def __init__(self) -> None:
        # twice the cache, as in `bench.timing`: or a launch would find the last one's keys there
        size = 2 * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._flush = torch.empty(size, dtype=torch.uint8, device="cuda")

    def microseconds(self, launches: Sequence[Launch]) -> list[float]:
        """One after another; the host is ahead, for the first has run once before that counts."""
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in launches
        ]
        launches[0]()
        for (start, end), launch in zip(pairs, launches, strict=True):
            self._flush.zero_()
            start.record()
            launch()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in pairs]


class _HostClock:
    """For kernels that run on a CPU: what the host waits for them."""

    def microseconds(self, launches: Sequence[Launch]) -> list[float]:
        """How long each launch takes, one after another."""
        readings = [time.perf_counter()]
        for launch in launches:
            launch()
            readings.append(time.perf_counter())
        return [(b - a) * 1e6 for a, b in pairwise(readings)]
