"""Ring attention for users: flash-attn's calls, on q, k and v that are dealt to ranks.

Every rank of the group makes the same call with its own shard, batch first: q (batch, tokens,
heads_q, head_dim), k and v (batch, tokens, heads_kv, head_dim), where heads_kv divides heads_q;
kv (batch, tokens, 2, heads_kv, head_dim) and qkv (batch, tokens, 3, heads, head_dim) in the packed
forms. float16, bfloat16, float32 or float64. The `ring_`, `zigzag_ring_` and `stripe_` functions
differ in one thing, the partition by which the sequence was dealt: contiguous, zigzag or striped;
`ring_attn_bench.shard` deals it so.

What all of them take:

    dropout_p        probability of dropping an attention weight
    dropout_seed     what is dropped follows from it; default, drawn from rank 0's CPU generator, so
                     that torch.manual_seed and checkpointing hold (costs a broadcast)
    softmax_scale    factor of q.k, default head_dim ** -0.5
    causal           no query sees a key after it, in the whole sequence
    window_size      keys before and after a query that it may see, -1 for all
    alibi_slopes     float32 (heads_q,) or (batch, heads_q): adds -slope * |distance| to the scores
    deterministic    the same bits on every run
    return_attn_probs  return (out, lse, None): lse (batch, heads_q, tokens), natural log, float32
                     (float64 of float64 inputs), differentiable like out
    group            the ranks, default all: a process group or a DeviceMesh of one dim
    backend          a name from `ring-attn-bench list`; `auto`, the default, takes the first that
                     can and logs it
    softcap          c > 0: scores become c * tanh(score / c)
    sink             (heads_q,): a logit of every row besides its keys', with a value of 0; its
                     gradient is this rank's share, to be summed over the group like any
                     parameter's
    context          a RingContext to use, instead of the one kept for a group

They return out (batch, tokens, heads_q, head_dim of v) in q's dtype. Before anything is sent they
raise InvalidArgument, UnknownName, Unsupported (the backend cannot do this; its reason is the
text), BackendUnavailable or NoProcessGroup; where ranks shake hands (on a CPU always, on GPUs if
the context says so) all ranks raise together, but for a `group` or `context` that is none: a rank
that does not know its ring can tell nobody, and the others raise RingBroken after the timeout. A
feature is used or refused, never dropped.

Under autocast q, k and v are cast as torch's scaled_dot_product_attention casts them. The backward
is a collective: every rank must run it, in the order of the others. Where ranks shake hands,
another order is an error on all of them, and a rank whose own inputs need no gradient takes part
all the same: its out requires one. A context, and so a group without one, is one thread's at a
time: a second thread at once is refused, and so is the one that it met. A message that does not
arrive within the group's timeout, or never can, is a RingBroken where the group says so (gloo);
NCCL ends the process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.attend import Output, attend
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import flag
from ring_attn_bench.calls.unpack import unpacked
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.ring.call import Packed, agreed_call, tell
from ring_attn_bench.ring.context import RingContext, context_of
from ring_attn_bench.ring.groups import check_group
from ring_attn_bench.ring.threads import two_threads

if TYPE_CHECKING:
    from ring_attn_bench.signatures import (
        AnyPartitionFunction,
        KVPackedFunction,
        QKVPackedFunction,
        RingFunction,
    )


class Asked(NamedTuple):
    """What a ring function was called with, besides its tensors.

    options: of backend None where the caller left that open, or wrote so.
    """

    options: Options
    return_attn_probs: bool
    group: dist.ProcessGroup | DeviceMesh | None
    context: RingContext | None


def ring_attention(
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    group: dist.ProcessGroup | DeviceMesh | None = None,
    *,
    partition: str,
    backend: str | None = "auto",
    softcap: float = 0.0,
    dropout_seed: int | None = None,
    sink: Tensor | None = None,
    context: RingContext | None = None,
) -> Asked:
    """The arguments that all ring functions take after their tensors."""
    options = Options(
        backend, dropout_p, dropout_seed, softmax_scale, causal, window_size, softcap,  # type: ignore[arg-type]
        alibi_slopes, deterministic, sink, partition,
    )  # fmt: skip
    return Asked(options, return_attn_probs, group, context)


_POSITIONAL = 8
"""Of those, how many may be given by position; the tensors come before them."""


@dataclass(frozen=True)
class _Fixed:
    """What a function settles for its caller. partition: None leaves it to the caller.

    backend: the only one that it runs; None leaves that to the caller.
    """

    name: str
    partition: str | None = None
    backend: str | None = None

    @property
    def tensors(self) -> int:
        """How many arguments of the function are tensors to attend over."""
        return 1 if "_qkvpacked_" in self.name else 2 if "_kvpacked_" in self.name else 3

    def asked(self, *arguments: Any, **named: Any) -> Asked:  # noqa: ANN401 - any function's
        """The call's arguments, completed by the fixed ones."""
        if self.partition is not None:
            if "partition" in named:
                raise TypeError(f"{self.name}() got an unexpected keyword argument 'partition'")
            named = {"backend": None, **named, "partition": self.partition}
        try:
            return ring_attention(*arguments, **named)
        except TypeError as error:  # in the name of the function that was called
            if len(arguments) > _POSITIONAL:
                least, more = self.tensors, len(arguments)
                raise TypeError(
                    f"{self.name}() takes from {least} to {least + _POSITIONAL} positional "
                    f"arguments but {least + more} were given"
                ) from None
            raise TypeError(str(error).replace("ring_attention()", f"{self.name}()")) from None

    def options(self, asked: Asked) -> Options:
        """The options, with a backend; raises InvalidArgument for another one than the only one."""
        options = asked.options
        backend: str | None = options.backend
        if backend is None and self.partition is not None:
            backend = self.backend or "auto"
            options = options._replace(backend=backend)
        is_only = isinstance(backend, str) and backend == self.backend
        if self.backend is not None and not is_only:
            raise InvalidArgument(
                f"{self.name} always runs backend {self.backend!r}, got backend={shown(backend)}; "
                f"call {self.name.removeprefix(f'{self.backend}_')}."
            )
        return options  # what is no name is refused by `plain`


def _traced(fixed: _Fixed, tensors: tuple[Tensor, ...], asked: Asked) -> Output:
    """An operator of the call, for whoever traces it."""
    from ring_attn_bench.ops import ring as traced  # what is never traced does without

    flag("return_attn_probs", asked.return_attn_probs)
    return traced.attention(tensors, fixed.options(asked), *asked[1:])


def attended(
    ring: RingContext,
    like: object,
    separate: Callable[[], tuple[Tensor, ...]],
    asked: Asked,
    settle: Callable[[Asked], Options],
    packed: Callable[[], Packed] | None = None,
) -> Output:
    """The call over a ring, all of whose mistakes are told to the other ranks.

    separate: q, k and v, batch first; settle: the options; packed: the documents of which sequences
    are packed, before anything else. They raise InvalidArgument. like: a tensor of q's
    device.
    """

    def separated() -> tuple[Tensor, Tensor, Tensor, Options]:
        if asked.group is not None:
            check_group(asked.group, asked.context)
        options = settle(asked)
        flag("return_attn_probs", asked.return_attn_probs)
        q, k, v = separate()
        return q, k, v, options

    turn = ring.turn  # no context manager: its frames cost the host more than the lock
    if not turn.lock.acquire(blocking=False):
        raise turn.refused(partial(tell, like, ring))
    try:
        call, given = agreed_call(separated, like, ring, packed)
        results = attend(call, given, return_attn_probs=bool(asked.return_attn_probs))
        if turn.crossed:
            raise two_threads()
        return results
    finally:
        turn.lock.release()


def _of_q_k_v(*settled: str) -> Any:  # noqa: ANN401 - the protocols in `signatures` say what
    fixed = _Fixed(*settled)

    def function(q: Tensor, k: Tensor, v: Tensor, *arguments: Any, **named: Any) -> Output:  # noqa: ANN401
        asked = fixed.asked(*arguments, **named)
        if is_compiling():
            return _traced(fixed, (q, k, v), asked)
        ring = context_of(asked.group, asked.context)
        return attended(ring, q, lambda: (q, k, v), asked, fixed.options)

    return _public(function, fixed, "q (batch, tokens, heads_q, head_dim), k and v alike")


def _of_q_kv(*settled: str) -> Any:  # noqa: ANN401
    fixed = _Fixed(*settled)

    def function(q: Tensor, kv: Tensor, *arguments: Any, **named: Any) -> Output:  # noqa: ANN401
        asked = fixed.asked(*arguments, **named)
        if is_compiling():
            return _traced(fixed, (q, *unpacked("kv", kv, 2)), asked)
        ring = context_of(asked.group, asked.context)
        return attended(ring, kv, lambda: (q, *unpacked("kv", kv, 2)), asked, fixed.options)

    return _public(function, fixed, "kv (batch, tokens, 2, heads_kv, head_dim)")


def _of_qkv(*settled: str) -> Any:  # noqa: ANN401
    fixed = _Fixed(*settled)

    def function(qkv: Tensor, *arguments: Any, **named: Any) -> Output:  # noqa: ANN401
        asked = fixed.asked(*arguments, **named)
        if is_compiling():
            return _traced(fixed, unpacked("qkv", qkv, 3), asked)
        ring = context_of(asked.group, asked.context)
        return attended(ring, qkv, lambda: unpacked("qkv", qkv, 3), asked, fixed.options)

    return _public(function, fixed, "qkv (batch, tokens, 3, heads, head_dim)")


def _public(function: Callable[..., Output], fixed: _Fixed, tensors: str) -> Callable[..., Output]:
    """The function with its own name, all of its arguments in its signature, and their meaning."""
    ours = inspect.signature(function).parameters.values()
    tail = dict(inspect.signature(ring_attention).parameters)
    if fixed.partition is not None:
        del tail["partition"]
        tail["backend"] = tail["backend"].replace(default=None)
    parameters = [p for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD] + list(tail.values())
    signature = inspect.Signature(parameters, return_annotation="Output")
    function.__name__ = function.__qualname__ = fixed.name
    function.__signature__ = signature  # type: ignore[attr-defined]  # inspect looks for it
    function.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": "Output"}
    dealt = "on any partition by name" if fixed.partition is None else f"dealt {fixed.partition}"
    function.__doc__ = (
        f"Attention of this rank's queries over the whole sequence, {dealt}.\n\n{tensors}.\n"
        f"The arguments' meanings, what is returned and raised: help({__name__!r})."
    )
    return function


ring_attn_func: AnyPartitionFunction = _of_q_k_v("ring_attn_func")

ring_flash_attn_func: RingFunction = _of_q_k_v("ring_flash_attn_func", "contiguous")
zigzag_ring_flash_attn_func: RingFunction = _of_q_k_v("zigzag_ring_flash_attn_func", "zigzag")
stripe_flash_attn_func: RingFunction = _of_q_k_v("stripe_flash_attn_func", "striped")
triton_ring_flash_attn_func: RingFunction = _of_q_k_v(
    "triton_ring_flash_attn_func", "contiguous", "triton"
)

ring_flash_attn_kvpacked_func: KVPackedFunction = _of_q_kv(
    "ring_flash_attn_kvpacked_func", "contiguous"
)
zigzag_ring_flash_attn_kvpacked_func: KVPackedFunction = _of_q_kv(
    "zigzag_ring_flash_attn_kvpacked_func", "zigzag"
)
stripe_flash_attn_kvpacked_func: KVPackedFunction = _of_q_kv(
    "stripe_flash_attn_kvpacked_func", "striped"
)
triton_ring_flash_attn_kvpacked_func: KVPackedFunction = _of_q_kv(
    "triton_ring_flash_attn_kvpacked_func", "contiguous", "triton"
)

ring_flash_attn_qkvpacked_func: QKVPackedFunction = _of_qkv(
    "ring_flash_attn_qkvpacked_func", "contiguous"
)
zigzag_ring_flash_attn_qkvpacked_func: QKVPackedFunction = _of_qkv(
    "zigzag_ring_flash_attn_qkvpacked_func", "zigzag"
)
stripe_flash_attn_qkvpacked_func: QKVPackedFunction = _of_qkv(
    "stripe_flash_attn_qkvpacked_func", "striped"
)
triton_ring_flash_attn_qkvpacked_func: QKVPackedFunction = _of_qkv(
    "triton_ring_flash_attn_qkvpacked_func", "contiguous", "triton"
)
