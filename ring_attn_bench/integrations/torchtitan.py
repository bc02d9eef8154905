"""torchtitan's context parallelism through our ring: the forward of each inner attention is ours.

    from ring_attn_bench.integrations.torchtitan import apply_cp_to_forward

    apply_cp_to_forward(attention_modules, parallel_dims.get_mesh("cp"), seq_dim=2)

For models whose layers call `inner_attention(q, k, v, scale=, enable_gqa=, is_causal=)`: those of
v0.2.2 with sdpa, in place of apply_cp_to_attention_module, and those of main until 2026-08-19 (its
commit 5dd944e62), which had a function of this name. It stands where theirs stood: before
activation checkpoints, torch.compile and FSDP. Since then main gathers keys by a ShardingConfig
around the attention, so that there is no forward left to replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring_attention import ring_attn_func
from ring_attn_bench.sharding import shard


def apply_cp_to_forward(
    attention_modules: Sequence[nn.Module],
    cp_mesh: DeviceMesh,
    *,
    seq_dim: int,
    partition: str = "zigzag",
    backend: str = "auto",
    options: RingOptions | None = None,
) -> None:
    """Gives the modules a forward that attends over the whole sequence, by one ring for all.

    attention_modules: those of all layers, of all parts of a pipeline that this rank has.
    cp_mesh: one axis. Every rank of it must call this together.
    seq_dim: which dim of q, k and v has the tokens: 2 in v0.2.2, (batch, heads, tokens, head_dim),
        and 1 in main. Nothing can tell them apart.
    partition: how the sequence is dealt. zigzag is what torchtitan does by its load balancer
        headtail, contiguous what it does without one.
    backend: a name from `ring-attn-bench list`. options: how keys travel.

    Raises InvalidArgument, UnknownName, or as `RingContext`.
    """
    if seq_dim not in (1, 2):
        raise InvalidArgument(
            f"seq_dim is {seq_dim!r}; it must be 2 where q is (batch, heads, tokens, head_dim), or "
            "1 where it is (batch, tokens, heads, head_dim)."
        )
    get_partition(partition)
    forward = OnRing(seq_dim, partition, backend, RingContext(cp_mesh, options))
    for module in attention_modules:
        module.forward = forward


@dataclass(frozen=True)
class OnRing:
    """The forward of an inner attention, as torchtitan's layers call it."""

    seq_dim: int
    partition: str
    backend: str
    context: RingContext

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
        is_causal: bool = True,
        **others: Any,  # noqa: ANN401 - masks, which are refused
    ) -> Tensor:
        """out in the layout of q; key heads may be fewer whatever enable_gqa says.

        Raises InvalidArgument for a mask, or for DTensors, and as `ring_attn_func`.
        """
        for name, value in others.items():
            if value is not None:
                raise InvalidArgument(
                    f"{name} is given, and a ring knows causality alone; take the model's sdpa "
                    "attention, without masks of documents."
                )
        if any(isinstance(x, DTensor) for x in (q, k, v)):
            raise InvalidArgument(
                "q, k or v is a DTensor, and a ring takes this rank's tensors; call "
                "apply_cp_to_forward before the model is parallelized."
            )
        if self.seq_dim == 2:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = ring_attn_func(
            q, k, v, softmax_scale=scale, causal=is_causal, partition=self.partition,
            backend=self.backend, context=self.context, return_attn_probs=False,
        )  # fmt: skip
        return out.transpose(1, 2) if self.seq_dim == 2 else out


def prepare_context_parallel_input(
    inputs: Tensor,
    labels: Tensor,
    extra_kwargs: dict[str, Any],
    cp_mesh: DeviceMesh,
    *,
    partition: str = "zigzag",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """This rank's inputs and labels of whole ones (batch, tokens), and extra_kwargs with positions.

    For a trainer of your own, or a partition that torchtitan does not know: striped. Its trainer's
    own function of this name deals the same for zigzag. labels are shifted before. Positions that
    are given are dealt as they are, others count from 0, int32 (batch, tokens).

    Raises InvalidArgument for attention_masks, and as `shard`.
    """
    if extra_kwargs.get("attention_masks") is not None:
        raise InvalidArgument(
            "attention_masks are given, and a ring knows causality alone; take the model's sdpa "
            "attention, without masks of documents."
        )
    positions = extra_kwargs.get("positions")
    if positions is None:
        counted = torch.arange(inputs.shape[1], dtype=torch.int32, device=inputs.device)
        positions = counted.expand(inputs.shape)
    where = cp_mesh.get_local_rank(), cp_mesh.size(), partition
    inputs, labels, positions = (shard(x, *where) for x in (inputs, labels, positions))
    return inputs, labels, {**extra_kwargs, "positions": positions}
