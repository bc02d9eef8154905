"""Deals a sequence to ranks and puts it back: shard, unshard and the positions in between.

partition: a name, or a partition as data, as `documents(...).partition` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.autograd_limits import (
    batched,
    check_not_traced,
    check_untransformed,
    first_order,
    many_gradients,
    transformed,
)
from ring_attn_bench.calls.dense import (
    INT32_MAX,
    check_can_be_sent,
    check_dense,
    checked_device,
    device_of,
)
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.partition import AnyPartition, get_partition
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.carriers import backend_of_device_types, message_device, shakes_hands
from ring_attn_bench.ring.context import next_number
from ring_attn_bench.ring.groups import destroyed, is_destroyed, living, resolve_group
from ring_attn_bench.ring.handshake import Gradients, Signature, agree, agree_on_backward, refuse


def position_ids(
    seqlen: int,
    rank: int,
    world_size: int,
    partition: AnyPartition,
    device: torch.device | None = None,
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
    where = checked_device(device)
    spans = rule.spans(rank, world_size, tokens)
    return torch.cat([torch.arange(s.start, s.last + 1, s.step, device=where) for s in spans])


def shard(x: Tensor, rank: int, world_size: int, partition: AnyPartition, dim: int = 1) -> Tensor:
    """Rank's tokens of x, whose dim `dim` is the whole sequence; a copy, differentiable.

    Raises InvalidArgument if the sequence cannot be dealt evenly, or UnknownName.
    """
    dim = _checked_dim(x, dim)
    positions = position_ids(x.shape[dim], rank, world_size, partition, x.device)
    return x.index_select(dim, positions)


def unshard(
    x: Tensor,
    partition: AnyPartition,
    group: dist.ProcessGroup | DeviceMesh | None = None,
    dim: int = 1,
    *,
    handshake: bool | None = None,
) -> Tensor:
    """The whole sequence from the shards of a group's ranks: the inverse of `shard`, on every rank.

    A collective. Differentiable: a rank's gradient is the sum over all ranks of the gradient at
    its tokens, that is the gradient of the sum of the ranks' losses. The backward is a collective
    too: every rank must run it, in the order of the others.

    handshake: whether ranks compare shapes, dtypes and arguments first, so that a difference, or a
        rank that refuses its own, is an error on all of them; None is yes on gloo, no on NCCL, as
        in `RingOptions`. A rank whose x needs no gradient then takes part in the others' backward.

    Raises NoProcessGroup, InvalidArgument, UnknownName, or RingBroken where the others do not come.
    """
    ring_group = living(resolve_group(group))
    device, greets = device_of(x), handshake
    if not isinstance(greets, bool):
        greets = shakes_hands(backend_of_device_types(ring_group), device)
    number = None
    try:
        dim = _checked_shard(x, partition, ring_group, dim, handshake)
    except Exception:
        if greets:
            refuse(ring_group, message_device(ring_group))
        raise
    if greets:
        if agree(ring_group, message_device(ring_group), _signature(x, partition, dim)):
            x = x if x.requires_grad else x.detach().requires_grad_()
        number = next_number(ring_group)
    try:
        gathered: Tensor = _Unshard.apply(x, partition, ring_group, dim, number)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        refused = transformed("unshard", error)
        if refused is None:
            raise
        raise refused from None
    return gathered


def _checked_shard(
    x: Tensor, partition: AnyPartition, group: dist.ProcessGroup, dim: int, handshake: object
) -> int:
    """The dim, counted from the front; raises where this rank's shard cannot be sent."""
    check_not_traced()
    check_untransformed("unshard", x)
    rule = get_partition(partition)
    dim = _checked_dim(x, dim)
    check_can_be_sent("x", x)
    if not isinstance(handshake, bool | None):
        raise InvalidArgument(
            f"handshake is {shown(handshake)}; it must be True, False or None (yes on gloo, no on "
            "NCCL)."
        )
    if x.requires_grad and torch.is_grad_enabled() and x.dtype.itemsize == 1:
        raise InvalidArgument(
            f"x is {str(x.dtype).removeprefix('torch.')} and needs a gradient, which is a sum over "
            "ranks, and no group adds numbers of that dtype; pass x.detach(), or x in bfloat16."
        )
    world_size = dist.get_world_size(group)
    rule.tokens_per_rank(x.shape[dim] * world_size, world_size)
    carried = backend_of_device_types(group)
    if x.device.type not in carried:
        able = ", ".join(f"{kind} by {name}" for kind, name in carried.items())
        raise InvalidArgument(
            f"x is on {x.device}, which this process group cannot carry (it has: {able}); move it "
            "there, or pass a group that can."
        )
    return dim


def _signature(x: Tensor, partition: AnyPartition, dim: int) -> Signature:
    """What ranks must have in common; the first sizes as numbers, for the sentence's sake."""
    off = not torch.is_grad_enabled() or x.is_inference()
    named = get_partition(partition).identity
    return Signature.of(
        {"number of dims": x.dim(), "dim": dim}
        | {f"size of dim {at}": size for at, size in enumerate(x.shape[:16])},
        {"shape": str(tuple(x.shape)), "dtype": str(x.dtype), "partition": named},
        Gradients.OFF if off else Gradients.WANTED if x.requires_grad else Gradients.UNNEEDED,
    )


def join_shards(shards: Sequence[Tensor], partition: AnyPartition, dim: int = 1) -> Tensor:
    """The whole sequence from all its shards, in the order of their ranks.

    Raises InvalidArgument unless there are some, all of one shape, or UnknownName.
    """
    if not isinstance(shards, list | tuple):
        raise InvalidArgument(f"shards must be a list of tensors, got {type(shards).__name__}.")
    dims = {_checked_dim(x, dim) for x in shards}
    for what in ("shape", "dtype", "device"):
        kinds = {str(tuple(x.shape) if what == "shape" else getattr(x, what)) for x in shards}
        if len(kinds) != 1:
            named = ", ".join(sorted(kinds)) or "none"
            raise InvalidArgument(
                f"shards must be at least one and all of one {what}, got {named}."
            )
    (dim,) = dims
    seqlen = shards[0].shape[dim] * len(shards)
    ranks, cpu = len(shards), torch.device("cpu")
    positions = [position_ids(seqlen, rank, ranks, partition, cpu) for rank in range(ranks)]
    order = torch.argsort(torch.cat(positions)).to(shards[0].device)
    return torch.cat(list(shards), dim).index_select(dim, order)


class _Unshard(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        x: Tensor,
        partition: AnyPartition,
        group: dist.ProcessGroup,
        dim: int,
        number: int | None,
    ) -> Tensor:
        """number: of this call among the group's, where ranks shake hands."""
        # weakly: a result that outlives its program kept the group for as long, and gloo, freed as
        # late as that, ended 1 of 6 programs that were done with SIGABRT
        ctx.partition, ctx.group, ctx.dim, ctx.number = partition, ref(group), dim, number
        # as bytes, because no group carries every dtype
        own = x.resolve_conj().resolve_neg().contiguous().view(torch.uint8)
        shards = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        try:
            dist.all_gather(shards, own, group=group)
        except RuntimeError as error:
            raise broken("the shards of the others", group, error) from error
        return join_shards([shard.view(x.dtype) for shard in shards], partition, dim)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        gradient: Tensor,
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return first_order(_Unshard.backward, ctx, gradient)
        if batched(gradient):
            raise many_gradients()
        check_dense("the gradient of what unshard gave", gradient)
        group = ctx.group()
        if group is None or is_destroyed(group):
            raise destroyed("the backward of this unshard")
        if ctx.number is not None:
            agree_on_backward(group, message_device(group), ctx.number)
        total = gradient.contiguous().clone()
        try:
            dist.all_reduce(total, group=group)
        except RuntimeError as error:
            raise broken("the gradients of the others", group, error) from error
        rank, world_size = dist.get_rank(group), dist.get_world_size(group)
        return shard(total, rank, world_size, ctx.partition, ctx.dim), None, None, None, None


def _checked_dim(x: Tensor, dim: int) -> int:
    """The dim, counted from the front; raises InvalidArgument unless x has it."""
    check_dense("x", x)
    dim = integer("dim", dim)
    if not x.dim():
        raise InvalidArgument(
            f"a tensor of shape () has no dim to deal, got dim={dim}; pass one whose dim is the "
            "sequence."
        )
    if not -x.dim() <= dim < x.dim():
        raise InvalidArgument(
            f"dim is {dim}; a tensor of shape {tuple(x.shape)} has {-x.dim()} to {x.dim() - 1}."
        )
    return dim % x.dim()


def _check_rank(rank: int, world_size: int) -> None:
    if world_size < 1:
        raise InvalidArgument(f"world_size is {world_size}; it must be at least 1.")
    if not 0 <= rank < world_size:
        raise InvalidArgument(
            f"rank is {rank}; with world_size {world_size} it must be in [0, {world_size})."
        )
