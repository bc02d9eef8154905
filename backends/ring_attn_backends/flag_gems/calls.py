"""Calls of FlagGems' kernels: what each gets wrong, and how it is asked instead.

Line numbers are those of flag-gems 5.0.2: A for ops/flash_api.py, K for ops/flash_kernel.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ring_attn_backends.shared.calls import FlashCall
from ring_attn_backends.shared.padding import fitted
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.problem import Documents, Score

WIDTHS = (32, 64, 96, 128, 192, 256)
"""Head dims of the dense kernel; what FlagGems pads to 16, it refuses afterwards (A:1008)."""
PACKED_WIDTHS = (16, 32, 64, 128, 256)
"""Of the packed kernel: of others it also reads what lies behind in memory, NaN too (K:1543)."""
MAX_GRID = 65535
"""Programs along a grid's second axis."""
_ROWS = 128
"""Of a tile, in all configurations that its tuner keeps (K:257)."""
_KEYS = (32, 64, 128)
"""Of a tile: any of these, or of others between; K:257 keeps the first and the last."""
FAR = 2**30
"""For an open side of a window where documents are packed."""


def forward(
    package: Any,  # noqa: ANN401 - it has no types
    q: Tensor, keys: Keys, call: FlashCall,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out (B, M, H, D) and lse (B, H, M) of a block, all rows of which see a key."""
    dim, count = q.shape[-1], keys.k.shape[1]
    if _clips(call, q.shape[1], count):
        return _as_documents(package, q, keys, call)
    causal, left, right = mask_of(call, count - 1)
    above = -q.shape[1] % _ROWS if (causal or left >= 0) and q.shape[1] > _ROWS else 0
    q, keys = _dense(q, keys, above)
    out, lse, *_ = package.flash_attention_forward(
        q, *keys, None, None, q.shape[1], count, 0.0, causal, False,
        scale=_scale(call.score.softmax_scale, q.shape[1], count),
        softcap=call.score.softcap,
        window_size_left=left, window_size_right=right,
        alibi_slopes=slopes_of(call.score),
        # its merging of parts of keys writes where it must not with several heads (K:1158)
        disable_splitkv=True,
    )  # fmt: skip
    return out[:, above:, :, :dim], lse[:, :, above:]


def packed_forward(
    package: Any,  # noqa: ANN401 - as above
    q: Tensor, keys: Keys, call: FlashCall,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out (T, H, D) and lse (H, T)."""
    documents = call.documents
    assert documents is not None
    if not (q.numel() and keys.k.numel()):
        lse = q.new_full((q.shape[1], q.shape[0]), float("-inf"), dtype=torch.float32)
        return torch.zeros_like(q), lse
    if documents.cu_seqlens_q.numel() > MAX_GRID:
        raise Unsupported("flag_gems", f"it has no more than {MAX_GRID} documents")
    width = next(width for width in PACKED_WIDTHS if width >= q.shape[-1])
    dim, q, keys = q.shape[-1], fitted(q, width), _alike(*(fitted(x, width) for x in keys))
    check_offsets(q, keys.k)
    # an open side beside a limit is read as -1 keys, or as no limit on either (A:320)
    causal, left, right = mask_of(call, FAR)
    out, lse = package.flash_attn_varlen_func(
        q, *keys,
        # at one query for each document, and fewer key heads, it mixes up lse (A:572)
        max(2, documents.max_seqlen_q), documents.cu_seqlens_q,
        # all that it does with this is to take a side of as many keys for none (A:315)
        FAR + 1, documents.cu_seqlens_k,
        softmax_scale=call.score.softmax_scale, causal=causal, window_size=(left, right),
        softcap=call.score.softcap, alibi_slopes=slopes_of(call.score), return_softmax_lse=True,
    )  # fmt: skip
    # inf for rows that see nothing (K:1603)
    return out[..., :dim], lse.masked_fill(lse == float("inf"), float("-inf"))


def _as_documents(
    package: Any,  # noqa: ANN401 - as above
    q: Tensor, keys: Keys, call: FlashCall,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A block as packed documents, one for each batch entry."""
    (batch, rows), count = q.shape[:2], keys.k.shape[1]
    # made on the device: a copy from the host would wait for it
    numbers = torch.arange(batch + 1, dtype=torch.int32, device=q.device)
    call = replace(call, documents=Documents(numbers * rows, numbers * count, rows, count))
    flat = Keys(*(x.flatten(0, 1) for x in keys))
    out, lse = packed_forward(package, q.flatten(0, 1), flat, call)
    return out.unflatten(0, (batch, rows)), lse.unflatten(1, (batch, rows)).transpose(0, 1)


def _clips(call: FlashCall, rows: int, keys: int) -> bool:
    """Whether the dense kernel cannot be told the right side of a window.

    N keys or more it takes for none (A:974), and none beside a left side for no window (A:982).
    """
    is_full = call.left is None and call.right is None
    return not is_full and rows > keys and (call.right is None or call.right >= keys)


def mask_of(call: FlashCall, widest: int) -> tuple[bool, int, int]:
    """causal, left and right, where -1 is no limit and `widest` as good as none."""
    if call.left is None and call.right is None:
        return False, -1, -1
    if call.is_causal and call.score.alibi_slopes is None:
        return True, -1, -1
    # With ALiBi causal is a window too. In causal mode the bias counts from the last key, not from
    # the row (K:127): lse with it, and at 32k keys float32 has it to a thousandth.
    left, right = (widest if x is None else min(x, widest) for x in (call.left, call.right))
    return False, left, right


def _dense(q: Tensor, keys: Keys, above: int) -> tuple[Tensor, Keys]:
    """The tensors as wide as the kernel wants them, and q with so many more rows above.

    With a mask it looks for a tile's keys as if the last tile were full (K:397): at 200 causal
    rows and keys, rows 96 to 127 miss their last 32. Rows above move nothing: masks and ALiBi
    count from the last row.
    """
    batch, rows, heads, dim = q.shape
    width = next(width for width in WIDTHS if width >= dim)
    if above:
        longer = q.new_zeros(batch, above + rows, heads, width)
        longer[:, above:, :, :dim] = q
        q = longer
    q, k, v = (_whole_entries(fitted(x, width)) for x in (q, *keys))
    keys = _alike(k, v)
    check_offsets(q, keys.k)
    return q, keys


def _whole_entries(x: Tensor) -> Tensor:
    """The compiler is told that batch entries are whole tokens apart (K:430, K:455)."""
    whole = x.shape[0] == 1 or x.stride(0) % (x.shape[2] * x.shape[3]) == 0
    return x if whole else x.contiguous()


def _alike(k: Tensor, v: Tensor) -> Keys:
    """v is read by k's strides (K:459)."""
    if k.stride() == v.stride():
        return Keys(k, v)
    return Keys(*(x.clone(memory_format=torch.contiguous_format) for x in (k, v)))


def check_offsets(*tensors: Tensor) -> None:
    """Refuses tensors that 32-bit offsets cannot reach the end of."""
    for x in tensors:
        reach = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        if max(reach, x.numel()) >= 2**31:
            raise Unsupported("flag_gems", f"its offsets have 32 bits (a tensor spans {reach})")


def _scale(scale: float, rows: int, keys: int) -> float:
    """The scale, moved by less than float32 can tell, so that FlagGems compiles again.

    Whether a kernel checks bounds depends on both lengths (K:221), but the cache of compiled ones
    is not asked for lengths, only for strides (utils/libentry.py:637): of a long buffer, 255
    tokens would go to the kernel made for 256. The scale is compiled in, and asked for.
    """
    divides = rows % _ROWS == 0 and (rows % keys == 0 or keys % rows == 0)
    kinds = sum(divides and keys % tile == 0 for tile in _KEYS)
    return scale * (1 + kinds * 2.0**-40)


def slopes_of(score: Score) -> Tensor | None:
    """ALiBi's, if there are any, one after another."""
    slopes = score.alibi_slopes
    return None if slopes is None else slopes.contiguous()
