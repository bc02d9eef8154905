"""A ring whose keys are already there: the same launches and buffers, and no communication.

Its results are meaningless. Its time beside the real ring's is what communication costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.transports.memory import FreshMemory


class TwinLink:
    """One pass on the twin's buffer."""

    def __init__(self, twin: Twin, plan: Plan) -> None:
        self._twin, self._plan = twin, plan
        self._received: list[tuple[Range, Tensor]] = []

    def publish(self, keys: Tensor) -> None:
        """Sees to the buffer."""
        self._local = self._twin.keys_like(keys, self._plan.landing_tokens)

    def post(self, index: int) -> None:
        """Posts nothing: no keys move."""

    def landed(self, index: int) -> Tensor:
        """The step's part of the local buffer."""
        return self._local[: self._plan.steps[index].landing_tokens]

    def give(self, index: int, partials: Tensor) -> None:
        """Hands our own partials back as if readers had sent them: so as much is summed."""
        step = self._plan.steps[index]
        at = 0
        for send in step.sends:
            part = partials[at : at + len(send.tokens)]
            self._received.append((Range(send.tokens.start, send.tokens.start + len(part)), part))
            at += len(part)

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """The partials that `give` left."""
        while len(self._received) > outstanding:
            yield self._received.pop(0)

    def finish(self) -> None:
        """Nothing is ever on its way."""


class Twin(FreshMemory):
    """Serves every step from one local buffer of random keys, which it keeps between passes."""

    def __init__(self) -> None:
        self._local: Tensor | None = None

    def begin(self, plan: Plan) -> TwinLink:
        """A pass of the plan's rank."""
        return TwinLink(self, plan)

    def resume(self, plan: Plan) -> TwinLink:
        """As `begin`: nothing is posted but gradients."""
        return self.begin(plan)

    def keys_like(self, keys: Tensor, tokens: int) -> Tensor:
        """The buffer (tokens, width), filled on first use, so that no timed pass does."""
        shape = (tokens, keys.shape[1])
        if self._local is None or self._local.shape != shape or self._local.dtype != keys.dtype:
            self._local = torch.randn(shape, dtype=torch.float32, device=keys.device).to(keys.dtype)
        return self._local
