"""Which process group a caller means, whether it is one still, and how it ends."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.errors import InvalidArgument, NoProcessGroup, shown

if TYPE_CHECKING:
    from ring_attn_bench.ring.context import RingContext


def resolve_group(group: dist.ProcessGroup | DeviceMesh | None) -> dist.ProcessGroup:
    """The group, a one-dim mesh's, or the default one.

    Raises NoProcessGroup with the way out, or InvalidArgument.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise NoProcessGroup(
            "a ring needs a process group, and none is initialised: start the program with "
            "`torchrun --nproc-per-node=N` and call torch.distributed.init_process_group() first."
        )
    given: object = dist.group.WORLD if group is None else group
    if isinstance(given, DeviceMesh):
        given = _group_of(given)
    if not isinstance(given, dist.ProcessGroup | DeviceMesh | int):
        raise InvalidArgument(
            f"group must be a process group or a DeviceMesh of one dim, got {type(given).__name__}."
        )
    if not isinstance(given, dist.ProcessGroup):  # torch's number for no member, or a mesh without
        raise InvalidArgument(
            "this rank is not in the process group it was given (got "
            f"{shown(given)}); call the ring only on the group's ranks."
        )
    return given


def _group_of(mesh: DeviceMesh) -> object:
    if mesh.ndim != 1:
        names = mesh.mesh_dim_names or ()
        dims = f" {names}" if names else ""
        name = "cp" if "cp" in names else next(reversed(names), None)
        one = "mesh.get_group(0)" if name is None else f"mesh[{name!r}]"
        raise InvalidArgument(
            f"this DeviceMesh has {mesh.ndim} dims{dims}, and a ring runs along one of them; "
            f"pass that one, {one} for instance."
        )
    return mesh if mesh.get_coordinate() is None else mesh.get_group()


def living(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """The group; raises NoProcessGroup if it was destroyed, though somebody holds it."""
    if is_destroyed(group):
        raise destroyed()
    return group


def is_destroyed(group: dist.ProcessGroup) -> bool:
    """Whether torch.distributed knows the group no more: most that is asked of it then fails."""
    try:
        dist.get_process_group_ranks(group)
    except (KeyError, ValueError):
        return True
    return False


def destroyed(before: str = "this call") -> NoProcessGroup:
    """The error of a group that is none any more."""
    return NoProcessGroup(
        f"the process group was destroyed before {before}; call "
        "torch.distributed.destroy_process_group() after the last one, or make the group again."
    )


def destroy(group: dist.ProcessGroup) -> None:
    """Gives a group's communicators back; every rank must."""
    with suppress(AssertionError, ValueError):  # with the default group all others went too
        dist.destroy_process_group(group)


def abort(group: dist.ProcessGroup) -> None:
    """Ends what a rank that failed has under way: to destroy a group would wait for its peers."""
    with suppress(RuntimeError):  # a backend that cannot
        group.abort()


def check_group(group: dist.ProcessGroup | DeviceMesh | None, context: RingContext | None) -> None:
    """Raises InvalidArgument for a group beside a context of other ranks."""
    if group is None or context is None:
        return
    both = resolve_group(group), context.group
    asked, ours = (dist.get_process_group_ranks(living(g)) for g in both)
    if asked != ours:
        raise InvalidArgument(
            f"group is of ranks {asked}, and context a ring of ranks {ours}; pass one of the two."
        )
