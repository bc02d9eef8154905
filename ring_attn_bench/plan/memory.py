"""How many bytes a rank's passes take, from its plan alone: what the harness measures per call.

The executor's allocations in their order (`forward`, `backward`), without its tensors. B batch, M
rows, N keys, H and G heads, D and E head dims; *packed* is a token's k and v of all batch entries
in a row, B G (D + E) numbers; *wide* float32, or float64 for float64 inputs.

    term       of                         from .. to
    out        B M H E                    a forward .. the caller, through the backward: a result
    lse        B H M, wide                the same
    out_wide   B M H E, wide              a forward; none where every launch is its rows' only one
    outgoing   N packed                   a pass; none where nothing is sent; kept if symmetric
    landing    slots x the largest step,  a pass
               packed
    launch     out and lse of its rows,   a launch: results of a kernel that does not accumulate, to
               or dq, dk, dv              be merged or added, and what a kernel takes for itself
    delta      B H M, wide                a backward of a kernel that is told it
    dq_wide    B M H D, wide              a backward by steps; not wide where nothing is added to it
    home       N packed, wide             a backward: dk and dv of the rank's own keys
    partials   a step's keys, packed, as  the step's launches .. they were given: those of `slots`
               they travel, or wide where steps on their way and of one in the making; if symmetric
               launches add to them       of all steps, to the end of the pass
    inbox      what a step sends, packed, `give` .. added to home, as partials; kept if symmetric
               as it travels
    dq         B M H D                    the end of a backward .. the caller: a result
    dk_dv      N packed                   the same

in the inputs' dtype where nothing else is said. Inputs do not count, nor does what the communicator
holds. torch's allocator rounds each up to 512 bytes, and may leave 1 MiB of a large block unused.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ring_attn_bench.plan.gathered import Gathered
from ring_attn_bench.plan.plans import Launch, Plan, Step

Scratch = Callable[[Launch | Gathered], int]
"""Bytes that a kernel takes for itself in a backward's launch."""


@dataclass(frozen=True, slots=True)
class ShardShape:
    """Tensors of a rank: as `Problem` has them, without tokens. element: bytes of an input's
    number; wide: of an accumulator's; travels: of a gradient's that goes home."""

    batch: int
    heads_q: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    element: int = 2
    wide: int = 4
    travels: int = 4

    def flops(self, pairs: float, *, backward: bool) -> float:
        """Of so many allowed pairs: two products forward, five backward."""
        d, e = self.head_dim, self.head_dim_v
        each = 6 * d + 4 * e if backward else 2 * (d + e)
        return self.batch * self.heads_q * each * pairs

    def row(self, *, backward: bool) -> int:
        """Numbers of a row of out; of q, backward."""
        return self.batch * self.heads_q * (self.head_dim if backward else self.head_dim_v)

    @property
    def width(self) -> int:
        """Elements of a packed token."""
        return self.batch * self.heads_kv * (self.head_dim + self.head_dim_v)

    def packed(self, tokens: int, number: int) -> int:
        """Bytes of keys and values of so many tokens, or their gradients; number: of a number."""
        return tokens * self.width * number

    def rows(self, tokens: int, number: int) -> int:
        """Bytes of what is shaped as q."""
        return self.batch * tokens * self.heads_q * self.head_dim * number

    def out(self, tokens: int, number: int) -> int:
        """Bytes of what is shaped as out."""
        return self.batch * tokens * self.heads_q * self.head_dim_v * number

    def lse(self, tokens: int) -> int:
        """Bytes of what is shaped as lse."""
        return self.batch * tokens * self.heads_q * self.wide


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """What of a backend decides: `accumulating`, `needs_delta`, and what it takes for itself."""

    accumulates: bool
    needs_delta: bool
    scratch: Scratch = lambda launch: 0


@dataclass(frozen=True)
class Taken:
    """The most bytes at one time, and what they were then, by term."""

    bytes: int
    terms: Mapping[str, int]


@dataclass
class _Ledger:
    """What is there, and what was there when it was most."""

    live: Counter[str] = field(default_factory=Counter)
    most: Taken = field(default_factory=lambda: Taken(0, {}))

    def take(self, **sizes: int) -> None:
        self.live.update(sizes)
        total = self.live.total()
        if total > self.most.bytes:
            terms = {name: size for name, size in self.live.items() if size}
            self.most = Taken(total, terms)

    def free(self, **sizes: int) -> None:
        self.live.subtract(sizes)

    def briefly(self, **sizes: int) -> None:
        self.take(**sizes)
        self.free(**sizes)


def forward(plan: Plan, sizes: ShardShape, kernel: KernelMemory, *, symmetric: bool) -> Taken:
    """The most that a forward takes. symmetric: whether keys leave from memory that is kept."""
    ledger, tokens = _Ledger(), plan.tokens
    results = {"out": sizes.out(tokens, sizes.element), "lse": sizes.lse(tokens)}
    if any(step.gathered for step in plan.steps):
        _publish(ledger, plan, sizes, symmetric=symmetric)
        ledger.take(**results)
        return ledger.most
    adopts = not kernel.accumulates and plan.merges_once
    ledger.take(**results)
    if not adopts and not all(launch.first and launch.last for launch in plan.launches):
        ledger.take(out_wide=sizes.out(tokens, sizes.wide))
    _publish(ledger, plan, sizes, symmetric=symmetric)
    for launch in plan.launches[adopts:]:  # what the first one gives is the results
        if not kernel.accumulates:
            rows = len(launch.rows)
            ledger.briefly(launch=sizes.out(rows, sizes.element) + sizes.lse(rows))
    return ledger.most


def backward(
    plan: Plan, sizes: ShardShape, kernel: KernelMemory, *, symmetric: bool, keeps: bool = False
) -> Taken:
    """The most that a backward takes, beyond the forward's out and lse, and keys that it kept."""
    return _Backward(plan, sizes, kernel, symmetric, keeps).run()


def forward_backward(
    plan: Plan, sizes: ShardShape, kernel: KernelMemory, *, symmetric: bool, keeps: bool = False
) -> Taken:
    """The most that a forward and then its backward take: out and lse stay for the backward.

    keeps: so do the keys that landed.
    """
    first = forward(plan, sizes, kernel, symmetric=symmetric)
    then = backward(plan, sizes, kernel, symmetric=symmetric, keeps=keeps)
    stay = {"out": sizes.out(plan.tokens, sizes.element), "lse": sizes.lse(plan.tokens)}
    if keeps:
        stay["kept"] = plan.slots * sizes.packed(plan.landing_tokens, sizes.element)
    both = Taken(then.bytes + sum(stay.values()), {**stay, **then.terms})
    return max(first, both, key=lambda taken: taken.bytes)


def _publish(ledger: _Ledger, plan: Plan, sizes: ShardShape, *, symmetric: bool) -> None:
    sends = any(step.sends for step in plan.steps)
    if sends and not symmetric:
        ledger.take(outgoing=sizes.packed(plan.tokens, sizes.element))
    ledger.take(landing=plan.slots * sizes.packed(plan.landing_tokens, sizes.element))


class _Backward:
    """`ring.backward.BackwardPass` without its tensors."""

    def __init__(
        self, plan: Plan, sizes: ShardShape, kernel: KernelMemory, symmetric: bool, keeps: bool
    ) -> None:
        self._plan, self._sizes, self._kernel, self._symmetric = plan, sizes, kernel, symmetric
        self._keeps = keeps
        self._ledger = _Ledger()
        self._gifts: deque[dict[str, int]] = deque()
        self._last = 0

    def run(self) -> Taken:
        plan, sizes, ledger = self._plan, self._sizes, self._ledger
        launches = plan.launches
        alone = self._kernel.accumulates and len(plan.steps) == 1
        direct = alone and all(launch.first and launch.last for launch in launches)
        self._direct_keys = alone and all(launch.first_keys for launch in launches)
        gathers = any(step.gathered for step in plan.steps)
        if self._kernel.needs_delta:
            ledger.take(delta=sizes.lse(plan.tokens))
        self._adopts = not self._kernel.accumulates and plan.merges_once
        self._adopts_keys = not self._kernel.accumulates and plan.adds_keys_once
        if not gathers and not self._adopts:
            number = sizes.element if direct else sizes.wide
            ledger.take(dq_wide=sizes.rows(plan.tokens, number))
        if not self._keeps:
            _publish(ledger, plan, sizes, symmetric=self._symmetric)
        steps = list(enumerate(plan.steps))
        self._own_last = self._keeps and self._adopts
        if self._own_last:
            steps = [*steps[1:], steps[0]]
        for index, step in steps:
            if step.gathered is not None:
                self._gathered(step, step.gathered)
            elif not gathers:
                self._step(index, step)
        self._collect()
        rounds = not direct and not self._adopts
        if not gathers and rounds and sizes.element != sizes.wide:
            ledger.take(dq=sizes.rows(plan.tokens, sizes.element))
        return ledger.most

    def _step(self, index: int, step: Step) -> None:
        sizes, ledger = self._sizes, self._ledger
        if self._direct_keys:
            ledger.take(dk_dv=sizes.packed(self._plan.tokens, sizes.element))
            self._launches(step)
            return
        if index == 0:
            number = sizes.element if self._adopts_keys else sizes.wide
            ledger.take(home=sizes.packed(self._plan.tokens, number))
            self._launches(step)
            return
        travels = step.fetches and all(launch.first_keys for launch in step.launches)
        made = sizes.packed(step.landing_tokens, sizes.travels if travels else sizes.wide)
        ledger.take(partials=made)
        self._launches(step)
        self._add_received(outstanding=self._plan.slots - 1)
        given = sizes.packed(step.landing_tokens, sizes.travels)
        if not travels and sizes.travels != sizes.wide:  # rounded, while both are there
            ledger.take(partials=given)
            self._give(step, given)
            ledger.free(partials=made)
        else:
            self._give(step, given)

    def _gathered(self, step: Step, where: Gathered) -> None:
        sizes, ledger = self._sizes, self._ledger
        ledger.take(home=sizes.packed(self._plan.tokens, sizes.wide))
        partials = sizes.packed(step.landing_tokens, sizes.travels)
        ledger.take(partials=partials)
        own = 0
        if self._keeps and sizes.batch > 1:  # laid out as the others' are
            own = sizes.packed(self._plan.tokens, sizes.element)
        ledger.take(own=own)
        ledger.briefly(launch=self._kernel.scratch(where))
        self._give(step, partials)
        ledger.take(dq=sizes.rows(self._plan.tokens, sizes.element))
        ledger.free(own=own)

    def _launches(self, step: Step) -> None:
        sizes = self._sizes
        for launch in step.launches:
            results = 0
            is_first = launch is self._plan.launches[0]
            rows = sizes.rows(len(launch.rows), sizes.element)
            if is_first and self._adopts:
                self._ledger.take(dq=rows)
            elif self._own_last:  # which is added to what comes last
                self._ledger.take(early=rows)
            elif not self._kernel.accumulates:
                results += rows
            if not self._kernel.accumulates and not (is_first and self._adopts_keys):
                results += sizes.packed(len(launch.keys), sizes.element)
            self._ledger.briefly(launch=results + self._kernel.scratch(launch))

    def _give(self, step: Step, partials: int) -> None:
        inbox = 0
        if not self._symmetric:
            tokens = sum(len(send.tokens) for send in step.sends)
            inbox = self._sizes.packed(tokens, self._sizes.travels)
            self._ledger.take(inbox=inbox)
            for send in step.sends[-1:]:
                self._last = self._sizes.packed(len(send.tokens), self._sizes.travels)
        self._gifts.append({"partials": partials, "inbox": inbox})

    def _add_received(self, outstanding: int) -> None:
        if not self._symmetric and not self._adopts_keys and not self._own_last:
            self._free_gifts(outstanding)

    def _collect(self) -> None:
        """The last part that came is added up and rounded in one go."""
        is_home = self._direct_keys or (self._adopts_keys and not self._plan.sends)
        last = self._last if self._gifts else 0
        if not self._symmetric:
            self._free_gifts(0)
        self._ledger.take(inbox=last)
        if not is_home:
            self._ledger.take(dk_dv=self._sizes.packed(self._plan.tokens, self._sizes.element))
        self._ledger.free(inbox=last)
        self._free_gifts(0)

    def _free_gifts(self, outstanding: int) -> None:
        while len(self._gifts) > outstanding:
            self._ledger.free(**self._gifts.popleft())
