"""Bytes that a rank's passes move over its link, as its plan has them."""

from __future__ import annotations

from dataclasses import dataclass

from ring_attn_bench.plan.memory import ShardShape
from ring_attn_bench.plan.plans import Plan


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one rank; the two directions of a link do not share its pace."""

    received: int
    sent: int

    @property
    def busier(self) -> int:
        """Of the direction that has more."""
        return max(self.received, self.sent)


def traffic(
    plan: Plan, shape: ShardShape, *, forward: bool, backward: bool, keeps: bool = False
) -> Traffic:
    """Of a forward, of a backward, or of both.

    keeps: whether the keys that came to the forward stay, so that the backward fetches none. A
    transport may move more than that: an all-gather brings whole shards.
    """
    fetched = plan.fetched_tokens
    owed = sum(len(send.tokens) for step in plan.steps for send in step.sends)
    passes = int(forward) + int(backward and not keeps)
    came, left = (passes * shape.packed(tokens, shape.element) for tokens in (fetched, owed))
    if backward:  # gradients go the other way
        came += shape.packed(owed, shape.travels)
        left += shape.packed(fetched, shape.travels)
    return Traffic(came, left)
