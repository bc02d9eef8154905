"""NeMo Automodel's context parallelism through our ring: the model owns its dealing and attention.

    from ring_attn_bench.integrations.nemo_automodel import own_context_parallel

    own_context_parallel(model, device_mesh["cp"])

For models of Hugging Face's. Automodel asks a model that has `prepare_model_inputs_for_cp` for its
ContextParallelSharder; it gets one that pads rows and deals them by a partition of ours, while the
model's attention is the one of `integrations.transformers`, on that ring. Written against 0.5.0.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.integrations.transformers import register
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.sharding import position_ids, shard

NAME = "ring_attn_bench_ring"


def own_context_parallel(
    model: nn.Module,
    cp_mesh: DeviceMesh,
    *,
    partition: str = "zigzag",
    backend: str = "auto",
    name: str = NAME,
) -> None:
    """Gives the model its attention, under a name of transformers', and the hook for its batches.

    cp_mesh: one axis, all ranks of which call this together. backend: a name from
    `ring-attn-bench list`.

    Raises InvalidArgument for a model whose attention cannot be chosen, UnknownName, or as
    `RingContext`.
    """
    get_partition(partition)
    register(name, backend=backend, partition=partition, group=cp_mesh)
    model.set_attn_implementation(name)  # type: ignore[operator]  # a method of transformers'
    if model.config._attn_implementation != name:  # type: ignore[union-attr]
        raise InvalidArgument(
            f"{type(model).__name__} does not ask transformers for its attention and keeps its "
            "own, of each rank's tokens alone; take a model that does."
        )
    model.prepare_model_inputs_for_cp = Hook(partition)  # type: ignore[assignment]


@dataclass(frozen=True)
class Hook:
    """What Automodel calls a model's prepare_model_inputs_for_cp."""

    partition: str

    def __call__(self, batch: dict[str, Any], *, num_chunks: int = 1) -> dict[str, Any]:
        """The sharder; raises InvalidArgument for packed batches, which have no rows to deal."""
        if batch.get("qkv_format") == "thd":
            raise InvalidArgument(
                "the batch is packed (qkv_format is 'thd'), and its documents are not dealt to "
                "ranks here; give Automodel rows, without sequence packing."
            )
        from nemo_automodel.components.distributed.context_parallel.sharder import (
            ContextParallelSharder,
        )

        dealt = Dealt(self.partition)
        sharder = ContextParallelSharder(
            shard_batch=dealt.batch, local_token_global_indices=dealt.positions
        )
        return {"cp_sharder": sharder}


@dataclass(frozen=True)
class Dealt:
    """How rows are dealt: the two callables of a ContextParallelSharder."""

    partition: str

    def positions(
        self, cp_mesh: DeviceMesh, padded_seq_len: int, device: torch.device | None = None
    ) -> Tensor:
        """Where this rank's tokens stand, int64."""
        where = cp_mesh.get_local_rank(), cp_mesh.size(), self.partition
        return position_ids(padded_seq_len, *where, device)

    def batch(
        self,
        cp_mesh: DeviceMesh,
        tp_mesh: DeviceMesh | None,
        batch: dict[str, Any],
        *,
        loss_mask: Tensor | None = None,
        padding_token_id: int = 0,
    ) -> tuple[Any, dict[str, Any], Any]:
        """(nullcontext, this rank's batch, layout): rows padded to a multiple of 2 x the ranks.

        Padding is behind the tokens, where causality hides it; labels there are -100.
        Raises InvalidArgument for padding before tokens, and for what nobody says how to deal.
        """
        from nemo_automodel.components.distributed.context_parallel.sharder import ShardLayout

        batch = dict(batch)
        _check_mask(batch.pop("attention_mask", None))
        if loss_mask is not None:
            batch["loss_mask"] = loss_mask
        fills = {
            "input_ids": padding_token_id, "inputs_embeds": 0, "labels": -100,
            "padding_mask": True, "loss_mask": 0,
        }  # fmt: skip
        seqlen = batch["inputs_embeds" if "inputs_embeds" in batch else "input_ids"].shape[1]
        positions = batch.pop("position_ids", None)
        if positions is not None and not _count_from_0(positions):
            raise InvalidArgument(
                "position_ids do not count each row's tokens from 0, which several sequences in a "
                "row or several axes of positions do; give Automodel one sequence in each row."
            )
        pad = -seqlen % (2 * cp_mesh.size())
        where = cp_mesh.get_local_rank(), cp_mesh.size(), self.partition
        for key, x in batch.items():
            if key in fills:
                whole = functional.pad(x, (0, 0) * (x.dim() - 2) + (0, pad), value=fills[key])
                batch[key] = shard(whole, *where)
            elif isinstance(x, Tensor) and x.dim() > 1 and x.shape[1] == seqlen:
                raise InvalidArgument(
                    f"{key} has {seqlen} tokens in dim 1, and nobody says how it is padded and "
                    f"dealt; leave it out of the batch, which may have {', '.join(fills)}."
                )
        first = batch["inputs_embeds" if "inputs_embeds" in batch else "input_ids"]
        here = self.positions(cp_mesh, seqlen + pad, first.device)
        batch["position_ids"] = here[None].expand(len(first), -1)
        layout = ShardLayout(original_seq_len=seqlen, padded_seq_len=seqlen + pad)
        return nullcontext, batch, layout


def _check_mask(mask: Tensor | None) -> None:
    if mask is not None and (mask.dim() != 2 or bool((mask.int().diff() > 0).any())):
        raise InvalidArgument(
            "attention_mask is more than padding behind each row's tokens, which is all that "
            "causality hides; pad on the right."
        )


def _count_from_0(positions: Tensor) -> bool:
    counted = torch.arange(positions.shape[-1], device=positions.device)
    return positions.dim() == 2 and bool((positions == counted).all())
