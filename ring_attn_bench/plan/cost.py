"""How long a rank's pass takes, from its plan and a machine's measured figures.

A pass is walked as the executor makes it: transfers in their order over one link, launches in
theirs on one stream, each waiting for its keys. What is slow is said by few numbers, all of them
measured (`measured.py`): a kernel's pace, what merging costs, a link, and the host. docs/design.md
has the formulas and how far predictions are from what was measured.

Units: seconds, bytes, FLOP. Pure: no torch, no tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from ring_attn_bench.plan.memory import ShardShape
from ring_attn_bench.plan.plans import Plan, Step


@dataclass(frozen=True, slots=True)
class Pace:
    """A kernel's speed in one direction at one head dim.

    flops: FLOP/s of long rows, counting what the mask allows. half: keys a row at which half of
    that is left: what a row costs besides its keys, counted in keys.
    """

    flops: float
    half: float


@dataclass(frozen=True, slots=True)
class KernelPaces:
    """A backend's kernels. accumulates: whether it adds to running sums itself, so that no merge
    follows a launch. forward, backward: by head dim."""

    accumulates: bool
    forward: Mapping[int, Pace]
    backward: Mapping[int, Pace]


@dataclass(frozen=True, slots=True)
class LinkPace:
    """A transport between GPUs of one host.

    start: of a step's transfer. piece: of each of its fetches. bandwidth: bytes/s of one direction
    while all ranks send. steals: share of the launches' pace that a transfer takes while it runs.
    exposed: of a pass, whatever its length: ranks that meet, keys that are packed.
    """

    start: float
    piece: float
    bandwidth: float
    steals: float
    exposed: float


@dataclass(frozen=True, slots=True)
class Host:
    """What the host takes before a GPU can start: a pass, and each step of a forward and a
    backward. It runs ahead; where launches are shorter than that, it is what counts."""

    begin: float
    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU and its host. memory: bytes/s of elementwise kernels, reads and writes together.
    gap: from the end of a kernel to the beginning of the next, and its tail."""

    memory: float
    gap: float
    host: Host
    kernels: Mapping[str, KernelPaces]
    ways: Mapping[str, LinkPace]


@dataclass(frozen=True, slots=True)
class ToPredict:
    """What a prediction is asked for. kernel, way: by their names in a `Machine`."""

    machine: Machine
    kernel: str
    way: str
    shape: ShardShape

    @property
    def known(self) -> bool:
        """Whether the machine has figures for that kernel and that way."""
        return self.kernel in self.machine.kernels and self.way in self.machine.ways


def seconds(
    asked: ToPredict, plan: Plan, *, forward: bool = True, backward: bool = True,
    queued: bool = False,
) -> float:  # fmt: skip
    """Of a rank's forward, of its backward, or of one behind the other.

    queued: whether the host is ahead, as behind other work or in a graph, and does not count.
    """
    walk = _Walk(asked, plan, Host(0.0, 0.0, 0.0) if queued else asked.machine.host)
    if forward:
        walk.run(backward=False)
    if backward:
        walk.run(backward=True)
    return max(walk.clock, walk.host)


def one_call_seconds(asked: ToPredict, tokens: int, *, causal: bool, backward: bool) -> float:
    """Of the kernel's single call over a sequence of so many tokens on one GPU."""
    pairs = tokens * (tokens + 1) / 2 if causal else float(tokens) ** 2
    return _launch(asked, pairs, tokens, backward=backward) + _own(asked, tokens, backward)


def percent_of_one_call(
    asked: ToPredict, plan: Plan, *, causal: bool, forward: bool = True, backward: bool = True
) -> float:
    """The pace that a ring keeps of one call: of as many pairs as the rank has, on one GPU.

    100 x the time of one call over the sequence whose area is the plan's, over `seconds`.
    """
    tokens = round(sqrt(plan.area * (2 if causal else 1)))
    once = [
        one_call_seconds(asked, tokens, causal=causal, backward=way)
        for way, wanted in ((False, forward), (True, backward))
        if wanted
    ]
    return 100 * sum(once) / seconds(asked, plan, forward=forward, backward=backward)


def _pace(asked: ToPredict, backward: bool) -> Pace:
    kernel = asked.machine.kernels[asked.kernel]
    by_dim = kernel.backward if backward else kernel.forward
    return by_dim[min(by_dim, key=lambda dim: abs(dim - asked.shape.head_dim))]


def _launch(asked: ToPredict, pairs: float, rows: float, *, backward: bool) -> float:
    """Of one launch: P = flops x n / (n + half), with n = pairs / rows, the mean keys of a row."""
    pace, shape = _pace(asked, backward), asked.shape
    return asked.machine.gap + shape.flops(pairs + pace.half * rows, backward=backward) / pace.flops


def _own(asked: ToPredict, tokens: int, backward: bool) -> float:
    """Of what surrounds launches: delta from out and dout in a backward."""
    if not backward:
        return 0.0
    read = 2 * asked.shape.row(backward=False) * tokens * asked.shape.element
    return asked.machine.gap + read / asked.machine.memory


class _Walk:
    """The launches' stream, the link and the host, and how far each of them is."""

    def __init__(self, asked: ToPredict, plan: Plan, host: Host) -> None:
        self._asked, self._plan, self._machine = asked, plan, asked.machine
        self._host = host
        self._way = asked.machine.ways[asked.way]
        self._accumulates = asked.machine.kernels[asked.kernel].accumulates
        self.clock = self.host = self._link = 0.0

    def run(self, *, backward: bool) -> None:
        plan, host = self._plan, self._host
        self._backward = backward
        self.host += host.begin
        self.clock = max(self.clock, self.host)
        if len(plan.steps) > 1:
            self.clock += self._way.exposed
        self.clock += _own(self._asked, plan.tokens, backward)
        self._link, arrived = self.clock, {}
        for index, step in enumerate(plan.steps):
            if step.launches or step.gathered is not None:
                self.clock = max(self.clock, self.host)
                self.host += host.backward if backward else host.forward
            for due in plan.due[index]:
                arrived[due] = self._moved(plan.steps[due], self.clock, self._element)
            if step.gathered is not None:
                self._gathered(step)
            elif step.launches:
                self.clock = max(self.clock, arrived.get(index, 0.0))
                self._compute(sum(self._seconds(step, at) for at in range(len(step.launches))))
                if backward and index:
                    self._moved(step, self.clock, self._asked.shape.travels)
        self._end()

    @property
    def _element(self) -> int:
        return self._asked.shape.element

    def _moved(self, step: Step, at: float, number: int) -> float:
        """When the step's keys have arrived, or its partials are with their owners."""
        tokens = max(step.landing_tokens, sum(len(send.tokens) for send in step.sends))
        if tokens:
            size = self._asked.shape.packed(tokens, number)
            took = self._way.start + self._way.piece * len(step.fetches)
            self._link = max(self._link, at) + took + size / self._way.bandwidth
        return self._link

    def _compute(self, took: float) -> None:
        """Launches for so long, slower while something moves."""
        under = max(0.0, min(took, self._link - self.clock))
        self.clock += took + self._way.steals * under

    def _seconds(self, step: Step, at: int) -> float:
        launch, shape, backward = step.launches[at], self._asked.shape, self._backward
        rows, keys = len(launch.rows), len(launch.keys)
        spread = (rows + keys) / 2 if backward else rows
        took = _launch(self._asked, launch.block.area, spread, backward=backward)
        if self._accumulates or self._plan.world_size == 1:
            return took
        first, own = launch.first, self._element
        # where rows are merged once, the first launch's are adopted, and stay in the input's dtype
        each = 3 * own if self._plan.merges_once else own + (4 if first else 8)
        adopted = first and self._plan.merges_once
        moved = 0 if adopted else shape.row(backward=backward) * rows * each
        if backward and not (launch.first_keys and self._plan.adds_keys_once):
            moved += shape.packed(keys, own + (4 if launch.first_keys else 8))
        if not moved:
            return took
        kernels = 3 if backward else 1
        return took + kernels * self._machine.gap + moved / self._machine.memory

    def _gathered(self, step: Step) -> None:
        """One launch, which takes each piece's pairs when it is there; backward dk and dv of all
        pieces first (3 of 5 products), and partials travel under dq."""
        where, shape, backward = step.gathered, self._asked.shape, self._backward
        assert where is not None
        pairs = [0] * (where.pieces + 1)
        for line in where.rows:
            for visit in line.visits:
                pairs[visit.piece] += visit.pairs(line.tokens, of_keys=False)
        pace, tokens = _pace(self._asked, backward), self._plan.tokens
        first = 0.6 if backward else 1.0
        start, self._link = self.clock, self.clock + self._way.start
        own = pace.half * tokens
        for piece, area in enumerate(pairs):
            if piece:
                size = shape.packed(len(step.fetches[piece - 1].tokens), self._element)
                self._link += self._way.piece + size / self._way.bandwidth
                self.clock = max(self.clock, self._link)
            extra = own if not piece else 0.0
            self.clock += first * shape.flops(area + extra, backward=backward) / pace.flops
        self.clock += self._way.steals * min(self._link - start, self.clock - start)
        if backward:
            self._moved(step, self.clock, shape.travels)
            self.clock += 0.4 * shape.flops(sum(pairs) + own, backward=True) / pace.flops
        self.clock += self._machine.gap * (2 if backward else 1)

    def _end(self) -> None:
        """A backward waits for what comes home, adds it up and rounds."""
        if not self._backward or len(self._plan.steps) == 1:
            return
        shape, tokens = self._asked.shape, self._plan.tokens
        self.clock = max(self.clock, self._link)
        sent = sum(len(send.tokens) for step in self._plan.steps for send in step.sends)
        moved = shape.packed(sent, 8 + shape.travels) + shape.packed(tokens, 4 + self._element)
        if not self._plan.gathers:
            moved += shape.row(backward=True) * tokens * (4 + self._element)
        self.clock += moved / self._machine.memory + self._machine.gap * 2
