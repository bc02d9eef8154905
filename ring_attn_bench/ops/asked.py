"""The arguments of a call as a graph can hold them: tensors, numbers and names.

What a caller's autograd, autocast and generator have to do with a call is settled here, while it is
traced: an operator sees nothing of them.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ring_attn_bench.calls import autocast
from ring_attn_bench.calls.autograd_limits import under_a_transform
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import within_float32


class Asked(NamedTuple):
    """What all operators take, in the order of `SCHEMA`.

    dropout_seed: of what is dropped, if the caller gave one; drawn: int64 (), else.
    recorded: whether the call is differentiated. grad_enabled: whether autograd is on.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    sink: Tensor | None
    alibi_slopes: Tensor | None
    drawn: Tensor | None
    backend: str
    dropout_p: float
    dropout_seed: int | None
    softmax_scale: float | None
    causal: bool
    left: int
    right: int
    softcap: float
    deterministic: bool
    recorded: bool
    grad_enabled: bool

    def options(self, partition: str | None = None) -> Options:
        """As the functions were given them, with a seed."""
        seed = self.dropout_seed if self.drawn is None else int(self.drawn)
        return Options(
            self.backend, self.dropout_p, seed, self.softmax_scale, self.causal,
            (self.left, self.right), self.softcap, self.alibi_slopes, self.deterministic,
            self.sink, partition,
        )  # fmt: skip

    def as_recorded(self) -> Asked:
        """The same, with a q that says of itself whether there will be a backward."""
        q, k, v = self.q.detach(), self.k.detach(), self.v.detach()
        sink = None if self.sink is None else self.sink.detach()
        return self._replace(q=q.requires_grad_() if self.recorded else q, k=k, v=v, sink=sink)


SCHEMA = (
    "Tensor q, Tensor k, Tensor v, Tensor? sink, Tensor? alibi_slopes, Tensor? drawn, "
    "str backend, float dropout_p, SymInt? dropout_seed, float? softmax_scale, bool causal, "
    "SymInt left, SymInt right, float softcap, bool deterministic, bool recorded, "
    "bool grad_enabled"
)


def check_untransformed() -> None:
    """Raises InvalidArgument where torch.func traces: forward mode would give tangents of 0."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise under_a_transform("attention")


def traced(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Asked:
    """The arguments of a call that is traced: cast as autocast says, a scale's sign put into q."""
    check_untransformed()
    q, k, v = _cast(q, k, v)
    options = within_float32(options.plain(), q)
    left, right = cast(tuple[int, int], options.window_size)
    scale = options.softmax_scale
    if scale is not None and scale <= 0:
        q, scale = options.folded(q), abs(scale) or 1.0
    drawn = torch.randint(2**63 - 1, (), device="cpu") if options.draws_seed else None
    is_enabled = torch.is_grad_enabled()
    sink = options.sink
    recorded = is_enabled and any(x is not None and x.requires_grad for x in (q, k, v, sink))
    return Asked(
        q, k, v, sink, options.alibi_slopes, drawn, options.backend, options.dropout_p,
        options.dropout_seed, scale, options.causal, left, right, options.softcap,
        options.deterministic, recorded, is_enabled,
    )  # fmt: skip


def _cast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`calls.autocast.as_autocast`, without the cache that tracing warns of."""
    kind = q.device.type
    if not torch.is_autocast_enabled(kind):
        return q, k, v
    dtype = torch.get_autocast_dtype(kind)
    return autocast.cast(q, dtype), autocast.cast(k, dtype), autocast.cast(v, dtype)


def results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors like out and lse, of q (B, M, H, D) or (T, H, D)."""
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    wide = torch.promote_types(q.dtype, torch.float32)
    return out, q.new_empty(*q.shape[:-3], q.shape[-2], q.shape[-3], dtype=wide)


def gradients(asked: Asked) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors like dq, dk, dv and dsink; of no sink an empty one."""
    q, k, v, sink = asked[:4]
    like = q.new_empty(0) if sink is None else sink
    dq, dk, dv, dsink = (torch.empty_like(x, memory_format=torch.contiguous_format)
                         for x in (q, k, v, like))  # fmt: skip
    return dq, dk, dv, dsink
