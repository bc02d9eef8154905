"""Other people's rings, as third parties might plug them in: right, wrong, and broken ones."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from ring_attn_bench.sharding import position_ids, unshard


class Right:
    """Gathers all keys and computes in plain torch."""

    name = "planted[right]"
    kernel = "reference"
    worker_environment: ClassVar = {"cpu": {"PLANTED": "1"}}

    def version(self):
        return "right 1.0"

    def unsupported(self, problem, partition, world_size):
        return None if problem.mask.causal else "it is causal"

    def join(self, problem, partition, group):
        return Ring(problem, partition, group)


class Wrong(Right):
    """Is one percent off."""

    name = "planted[wrong]"

    def join(self, problem, partition, group):
        return Ring(problem, partition, group, factor=1.01)


class Raises(Right):
    """Raises on rank 1 while rank 0 waits for it."""

    name = "planted[raises]"

    def join(self, problem, partition, group):
        if dist.get_rank(group) == 1:
            raise RuntimeError("planted: rank 1 has had enough")
        return Ring(problem, partition, group)


class WithoutLse(Right):
    """Gives out alone, and has no kernel of ours inside."""

    name = "planted[without_lse]"
    kernel = None

    def join(self, problem, partition, group):
        return Ring(problem, partition, group, gives_lse=False)


@dataclass(frozen=True)
class Ring:
    """out and lse of this rank's rows."""

    problem: Any
    partition: str
    group: Any
    factor: float = 1.0
    gives_lse: bool = True

    def forward(self, q, k, v):
        keys, values = (unshard(x, self.partition, self.group) for x in (k, v))
        at = position_ids(
            keys.shape[1], dist.get_rank(self.group), dist.get_world_size(self.group),
            self.partition,
        )  # fmt: skip
        times = q.shape[2] // keys.shape[2]
        keys, values = (x.repeat_interleave(times, 2) for x in (keys, values))
        scores = torch.einsum("bmhd,bnhd->bhmn", q, keys) * self.problem.head_dim**-0.5
        later = at[:, None] < torch.arange(keys.shape[1])
        scores = scores.masked_fill(later, float("-inf"))
        out = torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1), values) * self.factor
        return out, scores.logsumexp(-1) if self.gives_lse else None

    def settings(self):
        return nullcontext()
