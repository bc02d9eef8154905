"""Ring attention as operators: `ring_attn` and its backward, both collectives and so ordered.

Of a ring a graph holds names: the partition's, the group's, the context's. The plan follows when an
operator runs; so the first call may be one that is traced, and makes the context.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.attend import Given, Output
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import prepared
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.ops import passes
from ring_attn_bench.ops.asked import SCHEMA, Asked, results, traced
from ring_attn_bench.ops.pair import pair
from ring_attn_bench.ring import handles
from ring_attn_bench.ring.call import OnRing, Packed, RingCall, agreed_call, tell
from ring_attn_bench.ring.context import RingContext, context_of
from ring_attn_bench.ring.groups import check_group
from ring_attn_bench.ring.handshake import agree_on_backward
from ring_attn_bench.ring.threads import two_threads

_ASKED = len(Asked._fields)


class Where(NamedTuple):
    """Which ring a call is of; "" is no group, or no context, given."""

    partition: str
    group: str
    context: str

    @classmethod
    def of(
        cls,
        partition: str,
        group: dist.ProcessGroup | DeviceMesh | None,
        context: RingContext | None,
    ) -> Where:
        """By what the caller gave; raises InvalidArgument for a context that is none."""
        if isinstance(group, DeviceMesh):
            group = group.get_group()
        if context is not None and not isinstance(context, RingContext):
            raise InvalidArgument(f"context must be a RingContext, got {type(context).__name__}.")
        name = "" if group is None else group.group_name
        return cls(partition, name, "" if context is None else context.handle)

    def ring(self) -> RingContext:
        """The ring; raises InvalidArgument for a context that is gone, or of another group."""
        group = _of_name(self.group) if self.group else None
        context = handles.of_name(self.context) if self.context else None
        ring = context_of(group, context)
        check_group(group, context)
        return ring


def _of_name(name: str) -> dist.ProcessGroup:
    # a function of torch's that has no public name
    return distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]


_SCHEMA = f"{SCHEMA}, str partition, str group, str context"


def attention(
    tensors: tuple[Tensor, ...],
    options: Options,
    return_attn_probs: bool,
    group: dist.ProcessGroup | DeviceMesh | None,
    context: RingContext | None,
) -> Output:
    """out or (out, lse, None) of a call that is traced; raises InvalidArgument."""
    q, k, v = tensors
    where = Where.of(_partition(options), group, context)
    out, lse, _ = torch.ops.ring_attn_bench.ring_attn(*traced(q, k, v, options), *where)
    return (out, lse, None) if return_attn_probs else out


def _partition(options: Options) -> str:
    if options.partition is None:
        raise InvalidArgument("partition is None; it must be a name like 'zigzag'.")
    return options.partition


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - as the schema says
    asked, where = Asked(*arguments[:_ASKED]).as_recorded(), Where(*arguments[_ASKED:])
    ring = where.ring()
    return passed(asked, ring, lambda: (*asked[:3], separated(asked, where.partition, ring)))


def passed(
    asked: Asked,
    ring: RingContext,
    separate: Callable[[], tuple[Tensor, Tensor, Tensor, Options]],
    packed: Callable[[], Packed] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """out, lse and, int64 (2,), the pass's number (-1: ranks shake no hands) and its seed.

    separate and packed are as `agreed_call` takes them.
    """
    turn, like = ring.turn, asked.q
    if not turn.lock.acquire(blocking=False):
        raise turn.refused(partial(tell, like, ring))
    try:
        with torch.set_grad_enabled(asked.grad_enabled):
            call, given = agreed_call(
                separate, like, ring, packed, take_part=_no_part, draw=partial(_drawn, asked)
            )
        out, lse = passes.forward(call, given)
        if turn.crossed:
            raise two_threads()
    finally:
        turn.lock.release()
    number = call.greet.args[-1] if isinstance(call.greet, partial) else -1
    return out, lse, torch.tensor([number, call.job.score.dropout_seed], device="cpu")


def separated(asked: Asked, partition: str, ring: RingContext) -> Options:
    """The options of a call; raises InvalidArgument for a ring that cannot be traced."""
    if ring.keeps:
        raise InvalidArgument(
            "RingOptions(keep_keys=True) keeps tensors that a traced graph knows nothing of; make "
            "the context of what is compiled with keep_keys=False, or call it outside."
        )
    options = asked.options(partition)
    return options if asked.drawn is None else options._replace(dropout_seed=None)


def _no_part(
    q: Tensor, k: Tensor, v: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, Options]:
    """The same, where this rank wants gradients; raises InvalidArgument where only others do."""
    if not q.requires_grad:
        raise InvalidArgument(
            "another rank wants gradients, and the graph that this one was compiled to has no "
            "backward; give it an input that requires a gradient, or call under torch.no_grad() "
            "on all ranks."
        )
    return q, k, v, options


def _drawn(asked: Asked) -> int:
    assert asked.drawn is not None  # as the options say
    return int(asked.drawn)


def called(
    asked: Asked, tensors: tuple[Tensor, Tensor, Tensor], partition: str, way: OnRing, told: Tensor
) -> tuple[RingCall, Given]:
    """The call of a forward that was agreed on, for its backward; told: what `passed` gave."""
    number, seed = told.tolist()
    with torch.set_grad_enabled(asked.grad_enabled):
        options = asked._replace(drawn=None).options(partition)
        (job, _), given, options = prepared(*tensors, options, way)
    ring, greet = way.ring, None
    if number >= 0:
        device = ring.message_device(given.q.device)
        greet = partial(agree_on_backward, ring.group, device, number)
    call = RingCall(job, ring, greet, ring=ring)
    return call.seeded(seed) if options.dropout_p else call, given


def _backward(
    dout: Tensor | None,
    dlse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    told: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    asked, where = Asked(*arguments[:_ASKED]).as_recorded(), Where(*arguments[_ASKED:])
    call, given = called(asked, asked[:3], where.partition, OnRing(where.ring()), told)
    return passes.backward(call, given, (out, lse), (dout, dlse))


def shapes(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """Tensors like those that `passed` gives."""
    q, v = arguments[0], arguments[2]
    return *results(q, v), torch.empty(2, dtype=torch.int64, device="cpu")


pair(
    "ring_attn", _SCHEMA, ("out", "lse", "told"), (_forward, _backward), shapes, ordered=True
)  # fmt: skip
