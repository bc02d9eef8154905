"""Deals a sequence to ranks and puts it back: shard, unshard and the positions in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.plain import integer
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.partition import get_partition
from ring_attn_bench.ring.context import resolve_group


def position_ids(
    seqlen: int, rank: int, world_size: int, partition: str, device: torch.device | None = None
) -> Tensor:
    """Global positions of rank's tokens, int64 (seqlen / world_size,): what rotary embeddings need.

    Raises InvalidArgument if the sequence cannot be dealt evenly, or UnknownName.
    """
    seqlen, rank = integer("seqlen", seqlen), integer("rank", rank)
    world_size = integer("world_size", world_size)
    _check_rank(rank, world_size)
    rule = get_partition(partition)
    spans = rule.spans(rank, world_size, rule.tokens_per_rank(seqlen, world_size))
    return torch.cat([torch.arange(s.start, s.last + 1, s.step, device=device) for s in spans])


def shard(x: Tensor, rank: int, world_size: int, partition: str, dim: int = 1) -> Tensor:
    """Rank's tokens of x, whose dim `dim` is the whole sequence; a copy, differentiable.

    Raises InvalidArgument if the sequence cannot be dealt evenly, or UnknownName.
    """
    dim = _checked_dim(x, dim)
    positions = position_ids(x.shape[dim], rank, world_size, partition, x.device)
    return x.index_select(dim, positions)


def unshard(
    x: Tensor, partition: str, group: dist.ProcessGroup | DeviceMesh | None = None, dim: int = 1
) -> Tensor:
    """The whole sequence from the shards of a group's ranks: the inverse of `shard`, on every rank.

    A collective. Differentiable: a rank's gradient is the sum over all ranks of the gradient at
    its tokens, that is the gradient of the sum of the ranks' losses. Raises NoProcessGroup,
    InvalidArgument or UnknownName.
    """
    found = resolve_group(group)
    get_partition(partition)
    dim = _checked_dim(x, dim)
    gathered: Tensor = _Unshard.apply(x, partition, found, dim)  # type: ignore[no-untyped-call]
    return gathered


def join_shards(shards: Sequence[Tensor], partition: str, dim: int = 1) -> Tensor:
    """The whole sequence from all its shards, in the order of their ranks.

    Raises InvalidArgument unless there are some, all of one shape, or UnknownName.
    """
    if not isinstance(shards, list | tuple):
        raise InvalidArgument(f"shards must be a list of tensors, got {type(shards).__name__}.")
    dims = {_checked_dim(x, dim) for x in shards}
    shapes = {tuple(x.shape) for x in shards}
    if len(shapes) != 1:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise InvalidArgument(f"shards must be at least one and all of one shape, got {found}.")
    (dim,) = dims
    seqlen = shards[0].shape[dim] * len(shards)
    positions = [position_ids(seqlen, r, len(shards), partition) for r in range(len(shards))]
    order = torch.argsort(torch.cat(positions)).to(shards[0].device)
    return torch.cat(list(shards), dim).index_select(dim, order)


class _Unshard(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        x: Tensor,
        partition: str,
        group: dist.ProcessGroup,
        dim: int,
    ) -> Tensor:
        ctx.partition, ctx.group, ctx.dim = partition, group, dim
        shards = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shards, x.contiguous(), group=group)
        return join_shards(shards, partition, dim)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        gradient: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        rank, world_size = dist.get_rank(ctx.group), dist.get_world_size(ctx.group)
        return shard(total, rank, world_size, ctx.partition, ctx.dim), None, None, None


def _checked_dim(x: Tensor, dim: int) -> int:
    """The dim, counted from the front; raises InvalidArgument unless x has it."""
    if not isinstance(x, Tensor):
        raise InvalidArgument(f"x must be a tensor, got {type(x).__name__}.")
    dim = integer("dim", dim)
    if not -x.dim() <= dim < x.dim():
        raise InvalidArgument(
            f"dim is {dim}; a tensor of shape {tuple(x.shape)} has {-x.dim()} to {x.dim() - 1}."
        )
    return dim % x.dim()


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise InvalidArgument(
            f"rank is {rank}; with world_size {world_size} it must be in [0, {world_size})."
        )
