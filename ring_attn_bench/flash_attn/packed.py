"""flash-attn's functions of packed tensors: q, k and v, or k and v, in one.

They are views of it, and nothing is copied before the kernel; gradients come back in one tensor.
The arguments, what is returned and what is raised: help("ring_attn_bench.attention").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from ring_attn_bench.attention import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.calls.attend import LocalOutput
from ring_attn_bench.calls.options import Window
from ring_attn_bench.calls.unpack import unpacked
from ring_attn_bench.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Unpack

    from ring_attn_bench.signatures import LocalArguments, PackedDocumentsArguments


@overload
def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
) -> Tensor: ...
@overload
def flash_attn_qkvpacked_func(
    qkv: Tensor,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[LocalArguments],
) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def flash_attn_qkvpacked_func(
    qkv: Tensor,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[LocalArguments],
) -> LocalOutput: ...
def flash_attn_qkvpacked_func(  # type: ignore[misc]  # the last overload has more positions than there are
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
) -> LocalOutput:
    """`flash_attn_func` of qkv (batch, tokens, 3, heads, head_dim)."""
    q, k, v = unpacked("qkv", qkv, 3)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes,
        deterministic, return_attn_probs, backend=backend, sink=sink, dropout_seed=dropout_seed,
    )  # fmt: skip


@overload
def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
) -> Tensor: ...
@overload
def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[LocalArguments],
) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[LocalArguments],
) -> LocalOutput: ...
def flash_attn_kvpacked_func(  # type: ignore[misc]  # the last overload has more positions than there are
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
) -> LocalOutput:
    """`flash_attn_func` of q (batch, queries, heads_q, head_dim) and kv (batch, keys, 2, heads_kv,
    head_dim)."""
    k, v = unpacked("kv", kv, 2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes,
        deterministic, return_attn_probs, backend=backend, sink=sink, dropout_seed=dropout_seed,
    )  # fmt: skip


@overload
def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    check_cu_seqlens: bool = False,
) -> Tensor: ...
@overload
def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[PackedDocumentsArguments],
) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[PackedDocumentsArguments],
) -> LocalOutput: ...
def flash_attn_varlen_qkvpacked_func(  # type: ignore[misc]  # the last overload has more positions than there are
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    check_cu_seqlens: bool = False,
) -> LocalOutput:
    """`flash_attn_varlen_func` of qkv (tokens, 3, heads, head_dim), whose documents' queries and
    keys begin where cu_seqlens says."""
    q, k, v = unpacked("qkv", qkv, 3, documents=True)
    try:
        return flash_attn_varlen_func(
            q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale,
            causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
            backend=backend, sink=sink, dropout_seed=dropout_seed,
            check_cu_seqlens=check_cu_seqlens,
        )  # fmt: skip
    except InvalidArgument as error:  # in the words of this function's arguments
        text = re.sub(r"\b(cu_seqlens|max_seqlen)_[qk]\b( and \1_k)?", r"\1", str(error))
        raise InvalidArgument(text) from None


@overload
def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    check_cu_seqlens: bool = False,
) -> Tensor: ...
@overload
def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[PackedDocumentsArguments],
) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[PackedDocumentsArguments],
) -> LocalOutput: ...
def flash_attn_varlen_kvpacked_func(  # type: ignore[misc]  # the last overload has more positions than there are
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    check_cu_seqlens: bool = False,
) -> LocalOutput:
    """`flash_attn_varlen_func` of q (tokens, heads_q, head_dim) and kv (tokens, 2, heads_kv,
    head_dim)."""
    k, v = unpacked("kv", kv, 2, documents=True)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs, backend=backend, sink=sink, dropout_seed=dropout_seed,
        check_cu_seqlens=check_cu_seqlens,
    )  # fmt: skip
