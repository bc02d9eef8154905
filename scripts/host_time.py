"""What a short call takes the host, without a GPU: the way from a caller to a kernel and back.

    python scripts/host_time.py [--rounds 25]

8 tokens, 2 query heads and 1 key head of 16, float32, causal, on a CPU, by a kernel that only hands
out memory: what is left is this project's own work, and torch's. *One launch* is `flash_attn_func`;
*a ring's rank* is rank 3 of 4, whose keys are already there, in four launches of a kernel that
merges by itself; *copy_engine* and *p2p* are rank 0 of 2 by the public function, by one launch and
by steps, over the real transports with a driver and messages that do nothing; a forward there is
one without gradients. All take turns; the figures are medians over rounds of 300 calls, in us. With
--counts, what a call over those transports asks of the host: Python functions of ours, torch's
operations, and the driver's, by kind.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import ring_attn_backends
import torch
from ring_attn_backends.reference import ReferenceBackend
from torch import Tensor

from ring_attn_bench import flash_attn_func
from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.transports.twin import Twin

CHECKOUT = Path(__file__).parents[1]
TRANSPORTS = "copy_engine", "p2p"
CALLS, TOKENS, HEADS, DIM = 300, 8, 2, 16
Call = Callable[[], object]


class Nothing(ReferenceBackend):
    """Computes nothing: what it gives has the right shapes, and nobody looks at the numbers."""

    name = "nothing"
    needs_delta = False

    def __init__(self) -> None:
        self._shares = Sums(*(torch.zeros(1, TOKENS, heads, DIM) for heads in (HEADS, 1, 1)))

    def forward(self, q: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """New tensors, because autograd marks them."""
        return torch.empty_like(q), torch.empty(1, HEADS, TOKENS)

    def backward(self, *_: object, **__: object) -> Sums:
        """The same each time."""
        return self._shares

    def forward_into(self, *_: object, **__: object) -> None:
        """Nothing."""

    def backward_into(self, *_: object, **__: object) -> None:
        """Nothing."""


def one_launch(leaves: list[Tensor], dout: Tensor) -> tuple[Call, Call]:
    """A forward pass, and both."""
    ring_attn_backends.BACKENDS[Nothing.name] = f"{__name__}:Nothing"
    q, k, v = leaves

    def forward() -> Tensor:
        return flash_attn_func(q, k, v, causal=True, backend=Nothing.name)

    return forward, lambda: torch.autograd.grad(forward(), leaves, dout)


def a_rings_rank(leaves: list[Tensor], dout: Tensor) -> tuple[Call, Call]:
    """A forward pass, and both, without autograd."""
    backend, (q, k, v) = Nothing(), [x.detach() for x in leaves]
    layout = Layout(get_partition("contiguous"), 4, TOKENS, Band(low=0))
    planned = plan(layout, 3, abilities(backend, alibi=False))
    assert not isinstance(planned, str)  # the reference can all
    job, twin, keys = Job(planned, backend, Score(DIM**-0.5), torch.float32), Twin(), Keys(k, v)
    forward = partial(passes.forward, job, twin, q, keys)
    return forward, lambda: passes.backward(job, twin, Rows(q, dout, *forward()), keys)


def microseconds(call: Call) -> float:
    """Of one call, over CALLS of them."""
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - began) / CALLS


def main() -> None:
    """Times, or counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--counts", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # a ring of the tests', who hold it to its counts
    sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "backends")]
    from tests.unit.ring.ring_stand_in import ring_of_two

    with ExitStack() as stack:
        over = {name: stack.enter_context(ring_of_two(name)) for name in TRANSPORTS}
        if options.counts:
            show_counts(over)
        else:
            show_times(over, options.rounds)


def show_counts(over: dict[str, tuple[Call, Call]]) -> None:
    """Prints a line for each call."""
    from tests.unit.ring.ring_stand_in import counted

    for name, calls in over.items():
        for what, call in zip(("forward", "both"), calls, strict=True):
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(counted(call).items()))
            print(f"{f'{name}, {what}':24} {counts}")


def show_times(over: dict[str, tuple[Call, Call]], rounds: int) -> None:
    """Prints the table."""
    leaves = [torch.randn(1, TOKENS, heads, DIM).requires_grad_() for heads in (HEADS, 1, 1)]
    dout = torch.randn(1, TOKENS, HEADS, DIM)
    calls: dict[str, Call] = {}
    for name, make in (("one launch", one_launch), ("a ring's rank", a_rings_rank)):
        calls[f"{name}, forward"], calls[f"{name}, both"] = make(leaves, dout)
    for name, pair in over.items():
        calls[f"{name}, forward"], calls[f"{name}, both"] = pair
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name in random.sample(list(calls), len(calls)):
            taken = microseconds(calls[name])
            if number:  # the first warms up
                times[name].append(taken)
    for name, taken_each in times.items():
        print(f"{name:24} {median(taken_each):8.1f} us")


if __name__ == "__main__":
    main()
