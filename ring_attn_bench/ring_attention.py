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
                     (float64 of float64 inputs)
    group            the ranks, default all
    backend          a name from `ring-attn-bench list`; `auto` takes the first that can and logs it
    softcap          c > 0: scores become c * tanh(score / c)
    sink             (heads_q,): a logit of every row besides its keys', with a value of 0; its
                     gradient is this rank's share, to be summed over the group like any
                     parameter's
    context          a RingContext to use, instead of the one kept for the group

They return out (batch, tokens, heads_q, head_dim of v) in q's dtype. Before anything is sent they
raise InvalidArgument, UnknownName, Unsupported (the backend cannot do this; its reason is the
text), BackendUnavailable or NoProcessGroup; where ranks shake hands (on a CPU always, on GPUs if
the context says so) all ranks raise together. A feature is used or refused, never dropped.

Under autocast q, k and v are cast as torch's scaled_dot_product_attention casts them. The backward
is a collective: every rank must run it, even one whose own inputs need no gradient.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.ring.autocast import as_autocast
from ring_attn_bench.ring.autograd import RingAttention
from ring_attn_bench.ring.call import Arguments, agreed_call, refusing
from ring_attn_bench.ring.context import RingContext, context_for

Output = Tensor | tuple[Tensor, Tensor, None]


def ring_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    group: dist.ProcessGroup | None = None,
    *,
    partition: str,
    backend: str = "auto",
    softcap: float = 0.0,
    dropout_seed: int | None = None,
    sink: Tensor | None = None,
    context: RingContext | None = None,
) -> Output:
    """Attention of this rank's queries over the whole sequence, on any partition by name."""
    ring = context_for(group) if context is None else context
    arguments = Arguments(
        partition,
        backend,
        dropout_p,
        dropout_seed,
        softmax_scale,
        causal,
        window_size,
        alibi_slopes,
        softcap,
        deterministic,
        sink,
    )
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    call = agreed_call(q, k, v, arguments, ring)
    out, lse = RingAttention.apply(q, k, v, sink, call)  # type: ignore[no-untyped-call]
    return (out, lse, None) if return_attn_probs else out


class RingFunction:
    """A ring over one partition and, if `fixed_backend` is given, with that backend only."""

    def __init__(self, name: str, partition: str, fixed_backend: str | None = None) -> None:
        self.__name__ = name
        self.partition = partition
        self.fixed_backend = fixed_backend

    def __repr__(self) -> str:
        return f"<{self.__name__}: partition {self.partition}>"

    def _backend(self, asked: str | None) -> str:
        if self.fixed_backend is None:
            return asked or "auto"
        if asked not in (None, self.fixed_backend):
            raise InvalidArgument(
                f"{self.__name__} always runs backend {self.fixed_backend!r}, got "
                f"backend={asked!r}; call {self.__name__.removeprefix(self.fixed_backend + '_')}."
            )
        return self.fixed_backend


class SeparateFunction(RingFunction):
    """A ring function of q, k and v; its arguments are in this module's docstring."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        group: dist.ProcessGroup | None = None,
        *,
        backend: str | None = None,
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Output:
        """Attention of this rank's queries over the whole sequence."""
        ring = context_for(group) if context is None else context
        with refusing(q, ring):
            backend = self._backend(backend)
        return ring_attn_func(
            q,
            k,
            v,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            alibi_slopes,
            deterministic,
            return_attn_probs,
            group,
            partition=self.partition,
            backend=backend,
            softcap=softcap,
            dropout_seed=dropout_seed,
            sink=sink,
            context=ring,
        )


class KVPackedFunction(RingFunction):
    """A ring function of q and kv (batch, tokens, 2, heads_kv, head_dim)."""

    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        group: dist.ProcessGroup | None = None,
        *,
        backend: str | None = None,
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Output:
        """Attention of this rank's queries over the whole sequence."""
        ring = context_for(group) if context is None else context
        with refusing(kv, ring):
            backend = self._backend(backend)
            k, v = _unpacked("kv", kv, 2)
        return ring_attn_func(
            q,
            k,
            v,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            alibi_slopes,
            deterministic,
            return_attn_probs,
            group,
            partition=self.partition,
            backend=backend,
            softcap=softcap,
            dropout_seed=dropout_seed,
            sink=sink,
            context=ring,
        )


class QKVPackedFunction(RingFunction):
    """A ring function of qkv (batch, tokens, 3, heads, head_dim)."""

    def __call__(
        self,
        qkv: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        group: dist.ProcessGroup | None = None,
        *,
        backend: str | None = None,
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Output:
        """Attention of this rank's queries over the whole sequence."""
        ring = context_for(group) if context is None else context
        with refusing(qkv, ring):
            backend = self._backend(backend)
            q, k, v = _unpacked("qkv", qkv, 3)
        return ring_attn_func(
            q,
            k,
            v,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            alibi_slopes,
            deterministic,
            return_attn_probs,
            group,
            partition=self.partition,
            backend=backend,
            softcap=softcap,
            dropout_seed=dropout_seed,
            sink=sink,
            context=ring,
        )


def _unpacked(name: str, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
    """The parts of a packed tensor, as views; their gradients are stacked by one copy."""
    shape = tuple(packed.shape) if isinstance(packed, Tensor) else type(packed).__name__
    if not isinstance(packed, Tensor) or packed.dim() != 5 or packed.shape[2] != parts:
        raise InvalidArgument(
            f"{name} must have shape (batch, tokens, {parts}, heads, dim), got {shape}."
        )
    return packed.unbind(2)


ring_flash_attn_func = SeparateFunction("ring_flash_attn_func", "contiguous")
ring_flash_attn_kvpacked_func = KVPackedFunction("ring_flash_attn_kvpacked_func", "contiguous")
ring_flash_attn_qkvpacked_func = QKVPackedFunction("ring_flash_attn_qkvpacked_func", "contiguous")
zigzag_ring_flash_attn_func = SeparateFunction("zigzag_ring_flash_attn_func", "zigzag")
zigzag_ring_flash_attn_kvpacked_func = KVPackedFunction(
    "zigzag_ring_flash_attn_kvpacked_func", "zigzag"
)
zigzag_ring_flash_attn_qkvpacked_func = QKVPackedFunction(
    "zigzag_ring_flash_attn_qkvpacked_func", "zigzag"
)
stripe_flash_attn_func = SeparateFunction("stripe_flash_attn_func", "striped")
stripe_flash_attn_kvpacked_func = KVPackedFunction("stripe_flash_attn_kvpacked_func", "striped")
stripe_flash_attn_qkvpacked_func = QKVPackedFunction("stripe_flash_attn_qkvpacked_func", "striped")
triton_ring_flash_attn_func = SeparateFunction(
    "triton_ring_flash_attn_func", "contiguous", "triton"
)
triton_ring_flash_attn_kvpacked_func = KVPackedFunction(
    "triton_ring_flash_attn_kvpacked_func", "contiguous", "triton"
)
triton_ring_flash_attn_qkvpacked_func = QKVPackedFunction(
    "triton_ring_flash_attn_qkvpacked_func", "contiguous", "triton"
)
