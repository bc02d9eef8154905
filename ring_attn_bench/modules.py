"""Ring attention as a module of torch's: what a model is built of, without parameters."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.options import Window
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring_attention import ring_attn_func


class RingAttention(nn.Module):
    """Attention of this rank's queries over the whole sequence, with a ring of its own.

    partition: how the sequence is dealt: contiguous, zigzag or striped. group: the ranks, as a
        process group or one axis of a mesh, `mesh["cp"]`; default all. Every rank of it must make
        the module together, and call it in one order. options: how keys travel. context: a ring to
        share with other modules, instead of group and options; a model needs one for all layers.
    backend, dropout_p, softmax_scale, causal, window_size, softcap, deterministic: as
        `ring_attn_func` takes them; dropout is for training, as everywhere in torch.

    It has no parameters and an empty state_dict. A deep copy has the same ring, and one that was
    pickled makes its own, at the first call, of the same ranks. `torch.utils.checkpoint` of either
    kind, FSDP and torch.compile may be around it.

    Raises InvalidArgument, UnknownName, or as `RingContext`.
    """

    def __init__(
        self,
        partition: str,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        options: RingOptions | None = None,
        *,
        context: RingContext | None = None,
        backend: str = "auto",
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        get_partition(partition)
        if context is not None and (group is not None or options is not None):
            raise InvalidArgument(
                "a context is given beside a group or options, which it has of its own; pass one "
                "or the other."
            )
        self.partition = partition
        self.context = RingContext(group, options) if context is None else context
        self.backend = backend
        self.dropout_p = dropout_p
        self.softmax_scale = softmax_scale
        self.causal = causal
        self.window_size = window_size
        self.softcap = softcap
        self.deterministic = deterministic

    def forward(self, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None = None) -> Tensor:
        """out (batch, tokens, heads_q, head_dim of v) of shards, as `ring_attn_func`."""
        return ring_attn_func(
            q, k, v, self.dropout_p if self.training else 0.0, self.softmax_scale, self.causal,
            self.window_size, deterministic=self.deterministic, partition=self.partition,
            backend=self.backend, softcap=self.softcap, sink=sink, context=self.context,
            return_attn_probs=False,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """What differs between modules."""
        mask = "causal" if self.causal else "full"
        return f"{self.partition}, {mask}, window_size={self.window_size}, backend={self.backend!r}"
