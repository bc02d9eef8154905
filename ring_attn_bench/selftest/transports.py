"""Transports with one fault each: messages that arrive, spoilt on their way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.link import Link
from ring_attn_bench.ring.options import RingOptions


class SoundLink:
    """One pass by messages, unspoilt: each method hands on to theirs."""

    def __init__(self, sound: Link, plan: Plan, kept: dict[object, Tensor]) -> None:
        self._sound, self._plan, self._kept = sound, plan, kept

    def publish(self, keys: Tensor) -> None:
        """Sends this rank's keys unspoilt."""
        self._sound.publish(keys)

    def post(self, index: int) -> None:
        """Asks for a step's keys unspoilt."""
        self._sound.post(index)

    def landed(self, index: int) -> Tensor:
        """A step's keys, unspoilt."""
        return self._sound.landed(index)

    def give(self, index: int, partials: Tensor) -> None:
        """Sends a step's gradients home unspoilt."""
        self._sound.give(index, partials)

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """Other ranks' gradients for this rank's keys, unspoilt."""
        return self._sound.received(outstanding)

    def finish(self) -> None:
        """Waits for what is on its way, and no longer."""
        self._sound.finish()


class Sound:
    """Messages as they are, behind a seam of their own: each fault is another link."""

    link: ClassVar[type[SoundLink]] = SoundLink

    def __init__(self, group: dist.ProcessGroup, options: RingOptions) -> None:
        self._sound = registry.transport_class(registry.EVERYWHERE)(group, options)
        self._kept: dict[object, Tensor] = {}

    @staticmethod
    def unsupported(group: dist.ProcessGroup) -> str | None:
        """None: every group can send and receive."""
        return None

    def outgoing(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """New memory (tokens, width)."""
        memory: Tensor = self._sound.outgoing(tokens, width, dtype, device)
        return memory

    def begin(self, plan: Plan) -> Link:
        """This rank's end of a pass."""
        return self.link(self._sound.begin(plan), plan, self._kept)


def _instead(fresh: Tensor, other: Tensor | None) -> Tensor:
    """Other keys where they fit, and the fresh ones behind them."""
    if other is None:
        return fresh
    return torch.cat([other[: len(fresh)], fresh[len(other) :]])


class _StaleKeys(SoundLink):
    def landed(self, index: int) -> Tensor:
        fresh = super().landed(index)
        stale = self._kept.get("the step before") if index > 1 else None
        self._kept["the step before"] = fresh.clone()
        return _instead(fresh, stale)


class StaleKeys(Sound):
    """A step's landing area still holds the keys of the step before."""

    link = _StaleKeys


class _KeysOfTheFirstCall(SoundLink):
    def landed(self, index: int) -> Tensor:
        fresh = super().landed(index)
        return _instead(fresh, self._kept.setdefault((self._plan.rank, index), fresh.clone()))


class KeysOfTheFirstCall(Sound):
    """Every call is served the keys of the first: right for as long as inputs stay the same."""

    link = _KeysOfTheFirstCall


class _StepsSwapped(SoundLink):
    def landed(self, index: int) -> Tensor:
        steps = range(1, len(self._plan.steps))
        if index == steps[0]:  # two landing areas: both steps are on their way by now
            self._both = [self._sound.landed(step).clone() for step in steps]
        own, other = self._both[index - 1], self._both[-index]
        return _instead(own, other)


class StepsSwapped(Sound):
    """The keys of the first step come in the second, and those of the second in the first."""

    link = _StepsSwapped


class _LostHop(SoundLink):
    def give(self, index: int, partials: Tensor) -> None:
        if index == len(self._plan.steps) - 1:
            partials = torch.zeros_like(partials)
        super().give(index, partials)


class LostHop(Sound):
    """What the last step adds to dk and dv never gets home."""

    link = _LostHop


class _SecondStep(SoundLink):
    def landed(self, index: int) -> Tensor:
        keys = super().landed(index)
        return torch.cat(keys.chunk(2, dim=1)[::-1], dim=1) if index == 1 else keys


class SecondStep(Sound):
    """In the second step k lands where v belongs; the first, of own keys, and later are right."""

    link = _SecondStep


class _LateRank(SoundLink):
    def finish(self) -> None:
        super().finish()
        if self._plan.rank == LateRank.rank:
            time.sleep(LateRank.seconds)


class LateRank(Sound):
    """Rank 1 sleeps at the end of each pass."""

    rank, seconds = 1, 0.05
    link = _LateRank
