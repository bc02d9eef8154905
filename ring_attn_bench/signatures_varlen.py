"""What type checkers know of ring-flash-attention's varlen functions, as `signatures` has others'.

Only they read this file. The functions are in `ring_varlen`, and tests/unit/test_public_names.py
holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, Unpack, overload

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.options import Window
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.signatures import RingArguments


class VarlenFunction(Protocol):
    """A ring function of q, k and v, of documents that are dealt to all ranks."""

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
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
        cu_seqlens: Tensor,
        max_seqlen: int,
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
        cu_seqlens: Tensor,
        max_seqlen: int,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class VarlenKVPackedFunction(Protocol):
    """A ring function of q and kv, of documents that are dealt to all ranks."""

    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
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
        kv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class VarlenQKVPackedFunction(Protocol):
    """A ring function of qkv, of documents that are dealt to all ranks."""

    @overload
    def __call__(
        self,
        qkv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        backend: str | None = "auto",
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        qkv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        qkv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class GatheredFunction(Protocol):
    """A ring function of q, k and v, of documents prepared for a rank."""

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
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
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
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
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class GatheredKVPackedFunction(Protocol):
    """A ring function of q and kv, of documents prepared for a rank."""

    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
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
        kv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...


class GatheredQKVPackedFunction(Protocol):
    """A ring function of qkv, of documents prepared for a rank."""

    @overload
    def __call__(
        self,
        qkv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: Literal[False] = False,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        *,
        backend: str | None = "auto",
        softcap: float = 0.0,
        dropout_seed: int | None = None,
        sink: Tensor | None = None,
        context: RingContext | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        qkv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        *,
        return_attn_probs: Literal[True],
        **arguments: Unpack[RingArguments],
    ) -> tuple[Tensor, Tensor, None]: ...
    @overload
    def __call__(
        self,
        qkv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        heads_k_stride: int,
        local_k_slice: slice,
        *positional: Any,  # noqa: ANN401 - too long a list to be told apart
        return_attn_probs: bool = ...,
        **arguments: Unpack[RingArguments],
    ) -> Output: ...
