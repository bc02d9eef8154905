"""Hugging Face transformers' models on our attention, on one device and on a ring.

    name = register()                                 # or, on every rank of a ring
    name = register(partition="zigzag", group=group)
    model = AutoModelForCausalLM.from_pretrained(..., attn_implementation=name)

Causal and full attention, sliding windows, softcaps, sinks (s_aux), padding on either side, caches,
and packed sequences by position_ids or cu_seq_lens_q and cu_seq_lens_k. Whatever else a model's
mask has in it (chunks, blocks of images, a mask of 4 dims) is refused.

On a ring every rank is given its shard of input_ids and the position_ids of its tokens
(`ring_attn_bench.position_ids`), without padding and without a cache; labels are shifted before
they are dealt. Windows and sinks count in the whole sequence. The gradients of parameters are this
rank's shares, to be summed over the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.attention import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.integrations import masks, ragged
from ring_attn_bench.integrations.kept import kept_on
from ring_attn_bench.ring.call import tell
from ring_attn_bench.ring.context import RingContext, context_of
from ring_attn_bench.ring_attention import ring_attn_func
from ring_attn_bench.sharding import position_ids as positions_of

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "ring_attn_bench"


def register(
    name: str = NAME,
    *,
    backend: str = "auto",
    partition: str | None = None,
    group: dist.ProcessGroup | DeviceMesh | None = None,
    context: RingContext | None = None,
) -> str:
    """Tells transformers of the attention, and of its masks, by one name, which is returned.

    backend: a name from `ring-attn-bench list`. partition: by which the sequence is dealt to the
    ranks of group (default all) or of context; None is attention on one device. A name that is
    registered again is what it was registered as last.

    Raises InvalidArgument for a group or a context without a partition.
    """
    if partition is None and (group is not None or context is not None):
        raise InvalidArgument(
            "a group or a context is given, and no partition; pass partition='zigzag', or how "
            "else the sequence is dealt to the ranks."
        )
    from transformers import AttentionInterface, AttentionMaskInterface

    one: Callable[..., tuple[Tensor, None]] = (
        OneDevice(backend) if partition is None else OnRing(backend, partition, group, context)
    )
    AttentionInterface.register(name, one)
    AttentionMaskInterface.register(name, masks.documents if partition is None else _on_ring)
    return name


@dataclass(frozen=True)
class OneDevice:
    """The attention of a module on one device, as transformers calls it."""

    backend: str

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        s_aux: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 - whatever a model hands through
    ) -> tuple[Tensor, None]:
        """out (batch, queries, heads, head_dim of v) of (batch, heads, tokens, head_dim)."""
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        _check(attention_mask, kwargs)
        named = _named(module, dropout, scaling, sliding_window, softcap, is_causal, s_aux)
        named["backend"] = self.backend
        starts = kwargs.get("cu_seq_lens_q"), kwargs.get("cu_seq_lens_k")
        if starts[0] is not None and starts[1] is not None and attention_mask is None:
            return _of_starts(q, k, v, starts, kwargs, named), None
        documents = attention_mask
        positions = kwargs.get("position_ids")
        tells = isinstance(positions, Tensor) and positions.dim() == 2 and not is_compiling()
        if documents is None and tells and q.shape[1] == k.shape[1] > 1:
            told = cast(Tensor, positions)
            documents = kept_on(told, len(q), partial(masks.of_positions, told, len(q)))
        if documents is None:
            return cast(Tensor, flash_attn_func(q, k, v, **named)), None
        return ragged.attention(q, k, v, documents, **named), None


def _of_starts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: tuple[Any, ...],
    told: dict[str, Any],
    named: dict[str, Any],
) -> Tensor:
    """Of rows that lie one behind another, whose documents begin where the caller says."""
    longest = told.get("max_length_q"), told.get("max_length_k")
    max_q, max_k = (
        int(x.diff().max()) if n is None else int(n) for x, n in zip(starts, longest, strict=True)
    )
    packed = [x.flatten(0, 1) for x in (q, k, v)]
    out = flash_attn_varlen_func(
        packed[0], packed[1], packed[2], starts[0], starts[1], max_q, max_k, **named
    )
    return cast(Tensor, out).view(*q.shape[:3], v.shape[3])


@dataclass(frozen=True)
class OnRing:
    """The attention of a module whose sequence is dealt to ranks."""

    backend: str
    partition: str
    group: dist.ProcessGroup | DeviceMesh | None
    context: RingContext | None

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        s_aux: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 - whatever a model hands through
    ) -> tuple[Tensor, None]:
        """out (batch, tokens, heads, head_dim of v) of this rank's (batch, heads, tokens, ...)."""
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        try:
            self._check(q, k, attention_mask, kwargs)
            named = _named(module, dropout, scaling, sliding_window, softcap, is_causal, s_aux)
        except Exception:
            if not is_compiling():  # padding may be in one rank's tokens alone
                tell(q, context_of(self.group, self.context))
            raise
        named["sink"] = named.pop("s_aux")
        out = ring_attn_func(
            q, k, v, **named, partition=self.partition, group=self.group, context=self.context,
            backend=self.backend,
        )  # fmt: skip
        return out, None

    def _check(
        self, q: Tensor, k: Tensor, attention_mask: Tensor | None, kwargs: dict[str, Any]
    ) -> None:
        """Raises InvalidArgument for what is not dealt to ranks."""
        _check(attention_mask, kwargs)
        if attention_mask is not None or kwargs.get("cu_seq_lens_q") is not None:
            raise InvalidArgument(
                "padding and packed sequences are not dealt to ranks; pass sequences without "
                "attention_mask and cu_seq_lens."
            )
        if q.shape[1] != k.shape[1]:
            raise InvalidArgument(
                f"q has {q.shape[1]} tokens and k {k.shape[1]}: keys in a cache are not dealt to "
                "ranks; call the model with use_cache=False."
            )
        self._check_positions(kwargs.get("position_ids"), q.shape[1])

    def _check_positions(self, given: object, tokens: int) -> None:
        """Raises InvalidArgument for positions that are not those of this rank's shard.

        None are too, of several ranks: a model that leaves them out counts each shard from 0.
        """
        if is_compiling() or (isinstance(given, Tensor) and given.dim() != 2):
            return
        ring = context_of(self.group, self.context)
        if not isinstance(given, Tensor):
            if ring.world_size == 1:
                return
            raise InvalidArgument(
                "the attention was given no position_ids, and a model that has none counts the "
                f"tokens of every rank from 0; pass ring_attn_bench.position_ids("
                f"{tokens * ring.world_size}, {ring.rank}, {ring.world_size}, "
                f"{self.partition!r})[None]."
            )
        where = ring.rank, ring.world_size, self.partition
        if not kept_on(given, (tokens, where), partial(_are_shards, given, tokens, where)):
            raise InvalidArgument(
                f"position_ids are not those of rank {ring.rank} of {ring.world_size} in a "
                f"{self.partition} ring, which are one sequence's; pass "
                f"ring_attn_bench.position_ids({tokens * ring.world_size}, {ring.rank}, "
                f"{ring.world_size}, {self.partition!r})[None], and one sequence in each row."
            )


def _are_shards(given: Tensor, tokens: int, where: tuple[int, int, str]) -> bool:
    wanted = positions_of(tokens * where[1], *where, device=given.device)
    return given.shape[1] == tokens and bool((given == wanted).all())


def _on_ring(
    *arguments: Any,  # noqa: ANN401 - as transformers calls it
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **others: Any,  # noqa: ANN401
) -> Tensor | None:
    """A mask function of transformers': positions of a shard look like several documents to it."""
    masks.documents_in(mask_function)
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask


def _check(attention_mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    if attention_mask is not None and attention_mask.dim() != 2:
        raise InvalidArgument(
            f"attention_mask has shape {tuple(attention_mask.shape)}; it must be (batch, keys): a "
            "mask of any form is for attn_implementation='sdpa' or 'eager'."
        )
    for name in ("output_attentions", "position_bias", "head_mask"):
        if kwargs.get(name) is not None and kwargs.get(name) is not False:
            raise InvalidArgument(
                f"{name} is given, which this attention does not do; leave it out, or take "
                "attn_implementation='eager'."
            )


def _named(
    module: torch.nn.Module,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
    is_causal: bool | None,
    s_aux: Tensor | None,
) -> dict[str, Any]:
    """The arguments of our functions; a window of w is a token and w - 1 before it."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if sliding_window is not None and not causal:
        raise InvalidArgument(
            f"sliding_window is {sliding_window} without causality, which models count in "
            "different ways; take attn_implementation='sdpa' or 'eager'."
        )
    return {
        "dropout_p": dropout,
        "softmax_scale": scaling,
        "causal": causal,
        "window_size": (-1, -1) if sliding_window is None else (sliding_window - 1, 0),
        "softcap": softcap or 0.0,
        "s_aux": s_aux,
    }
