"""What type checkers know of the public functions: out alone, or (out, lse, None) where asked for.

Only they read this file. The functions are in `attention` and `ring_attention`, and
tests/unit/test_public_names.py holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypedDict, Unpack, overload

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.options import Window
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.partition import AnyPartition
from ring_attn_bench.ring.context import RingContext


class LocalArguments(TypedDict, total=False):
    """By name, what the functions of one device take besides tensors and return_attn_probs."""

    dropout_p: float
    softmax_scale: float | None
    causal: bool
    window_size: Window
    softcap: float
    alibi_slopes: Tensor | None
    deterministic: bool
    backend: str
    sink: Tensor | None
    dropout_seed: int | None


class PackedDocumentsArguments(LocalArguments, total=False):
    """Those of packed documents in packed tensors."""

    check_cu_seqlens: bool


class DenseArguments(LocalArguments, total=False):
    """Those of flash_attn_func, which knows other names of a sink."""

    s_aux: Tensor | None
    learnable_sink: Tensor | None


class VarlenArguments(DenseArguments, total=False):
    """Those of flash_attn_varlen_func."""

    check_cu_seqlens: bool
    seqused_k: Tensor | None


class CacheArguments(TypedDict, total=False):
    """By name, what the functions over a cache take besides q, the cache and what is appended."""

    rotary_cos: Tensor | None
    rotary_sin: Tensor | None
    cache_seqlens: int | Tensor | None
    cache_batch_idx: Tensor | None
    cache_leftpad: Tensor | None
    block_table: Tensor | None
    softmax_scale: float | None
    causal: bool
    window_size: Window
    softcap: float
    rotary_interleaved: bool
    alibi_slopes: Tensor | None
    num_splits: int
    backend: str
    sink: Tensor | None


class LocalCacheArguments(CacheArguments, total=False):
    """Those of one device, which knows other names of a sink."""

    s_aux: Tensor | None
    learnable_sink: Tensor | None


class RingCacheArguments(CacheArguments, total=False):
    """The arguments of the function over a cache that is dealt to ranks."""

    block: int
    group: dist.ProcessGroup | DeviceMesh | None
    context: RingContext | None


class RingArguments(TypedDict, total=False):
    """The arguments of the ring functions."""

    dropout_p: float
    softmax_scale: float | None
    causal: bool
    window_size: Window
    alibi_slopes: Tensor | None
    deterministic: bool
    group: dist.ProcessGroup | DeviceMesh | None
    backend: str | None
    softcap: float
    dropout_seed: int | None
    sink: Tensor | None
    context: RingContext | None


class RingDocumentsArguments(RingArguments, total=False):
    """The arguments of the ring function of packed documents."""

    partition: AnyPartition | None
    queries: Sequence[int] | Tensor | DealtDocuments | None


class RingFunction(Protocol):
    """A ring function of q, k and v."""

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        backend: str | None = None,
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class KVPackedFunction(Protocol):
    """A ring function of q and kv."""

    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        backend: str | None = None,
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class QKVPackedFunction(Protocol):
    """A ring function of qkv."""

    @overload
    def __call__(
        self,
        qkv: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        backend: str | None = None,
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        qkv: Tensor,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        qkv: Tensor,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class AnyPartitionFunction(Protocol):
    """`ring_attn_func`, which is told the partition."""

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        partition: str,
        backend: str | None = "auto",
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        partition: str,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        partition: str,
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...
