"""Deals a sequence to ranks and puts it back: shard, unshard and the positions in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.dense import INT32_MAX, check_dense
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.errors import InvalidArgument, NoProcessGroup, shown
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
    tokens = rule.tokens_per_rank(seqlen, world_size)
    if tokens > INT32_MAX:
        raise InvalidArgument(
            f"a sequence of {seqlen} tokens gives {tokens} to each of {world_size} ranks, and no "
            f"rank holds more than {INT32_MAX}."
        )
    where = _device(device)
    spans = rule.spans(rank, world_size, tokens)
    return torch.cat([torch.arange(s.start, s.last + 1, s.step, device=where) for s in spans])


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
    for what in ("shape", "dtype", "device"):
        kinds = {str(tuple(x.shape) if what == "shape" else getattr(x, what)) for x in shards}
        if len(kinds) != 1:
            found = ", ".join(sorted(kinds)) or "none"
            raise InvalidArgument(
                f"shards must be at least one and all of one {what}, got {found}."
            )
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
        # weakly: a result that outlives its program kept the group for as long, and gloo, freed as
        # late as that, ended 1 of 6 programs that were done with SIGABRT
        ctx.partition, ctx.group, ctx.dim = partition, ref(group), dim
        # as bytes, because no group carries every dtype
        own = x.resolve_conj().resolve_neg().contiguous().view(torch.uint8)
        shards = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shards, own, group=group)
        return join_shards([shard.view(x.dtype) for shard in shards], partition, dim)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        gradient: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        group = ctx.group()
        if group is None:
            raise NoProcessGroup(
                "the process group of this unshard was destroyed before its backward."
            )
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=group)
        rank, world_size = dist.get_rank(group), dist.get_world_size(group)
        return shard(total, rank, world_size, ctx.partition, ctx.dim), None, None, None


def _checked_dim(x: Tensor, dim: int) -> int:
    """The dim, counted from the front; raises InvalidArgument unless x has it."""
    check_dense("x", x)
    dim = integer("dim", dim)
    if not -x.dim() <= dim < x.dim():
        raise InvalidArgument(
            f"dim is {dim}; a tensor of shape {tuple(x.shape)} has {-x.dim()} to {x.dim() - 1}."
        )
    return dim % x.dim()


def _device(device: object) -> torch.device:
    """The device, on which there can be a tensor; raises InvalidArgument."""
    try:
        return torch.empty(0, device=device).device  # type: ignore[call-overload, no-any-return]
    except Exception as error:  # of every kind, by what is wrong with it
        why = (str(error).strip().splitlines() or ["it is none"])[0][:120]
        raise InvalidArgument(
            f"device is {shown(device)}; it must be a device that is there, or None: {why}"
        ) from None


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise InvalidArgument(
            f"rank is {rank}; with world_size {world_size} it must be in [0, {world_size})."
        )
