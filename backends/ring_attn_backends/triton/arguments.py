"""The numbers and switches that every kernel is handed, from a block and its score.

At run time a kernel gets, none of them specialised, so that no step of a ring recompiles:

    group                    query heads for each key head
    M, N                     rows and keys
    low, high                the band of places: a row sees a key iff low <= row - key <= high
    row_split, row_jump      rows from `row_split` on are at places `row_jump` beyond their index
    key_split, key_jump      the same of keys (`places.py` says what a place is)
    row_start, key_start     the positions of place 0
    step                     from the position of one place to that of the next
    word_0, word_1           dropout's seed, see `dropout.seed_words`
    threshold, keep_share    dropout keeps a weight whose number is at least that; 1 - p
    scale, cap               see `scores.base2_scores`
    gradient_scale           what dq and dk are multiplied by at the end

and it is compiled for head dims, a tiling and these switches, which cost nothing where off:

    PRECISE   tanh's last bits       CHUNKED   rows and keys in two chunks each, some maybe empty
    CAPPED    softcap                PACKED    documents: M and N follow from cu_rows and cu_keys
    BIASED    ALiBi, with slopes     DROPPED   dropout
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ring_attn_backends.triton.lines import FAR
from ring_attn_bench.contract.dropout import seed_words, threshold
from ring_attn_bench.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.lines import Places
    from ring_attn_bench.plan.problem import Documents, Mask, Score

Arguments = dict[str, Any]

PLACES = (
    *("M", "N", "low", "high", "row_split", "row_jump", "key_split", "key_jump"),
    *("row_start", "key_start", "step"),
)
RUN_TIME = ("group", *PLACES, "word_0", "word_1", "threshold")
"""What Triton must not specialise: an integer of 1, or one that 16 divides, would recompile."""


def of_places(places: Places) -> Arguments:
    """Where the rows and keys of a block are."""
    return {
        "cu_rows_ptr": None,
        "cu_keys_ptr": None,
        "M": places.rows.count,
        "N": places.keys.count,
        "low": places.low,
        "high": places.high,
        "row_split": places.rows.split,
        "row_jump": places.rows.jump,
        "key_split": places.keys.split,
        "key_jump": places.keys.jump,
        "row_start": int32(places.rows.start),
        "key_start": int32(places.keys.start),
        "step": places.step,
        "CHUNKED": places.chunked,
        "PACKED": False,
    }


def band_of(mask: Mask) -> tuple[int, int]:
    """low and high where the last row and the last key are at one place."""
    band = mask.band
    low = -FAR if band.low is None else max(band.low, -FAR)
    return low, FAR if band.high is None else min(band.high, FAR)


def of_documents(documents: Documents) -> Arguments:
    """Where the rows and keys of packed documents are: the kernel reads it there."""
    low, high = band_of(documents.mask)
    return dict.fromkeys(PLACES, 0) | {
        "cu_rows_ptr": documents.cu_seqlens_q,
        "cu_keys_ptr": documents.cu_seqlens_k,
        "low": low,
        "high": high,
        "step": 1,
        "CHUNKED": False,
        "PACKED": True,
    }


def of_score(score: Score) -> Arguments:
    """How scores are made and which weights are dropped."""
    log2e = math.log2(math.e)
    capped, share, slopes = score.softcap > 0, 1 - score.dropout_p, score.alibi_slopes
    words = seed_words(score.dropout_seed)
    return {
        "slopes_ptr": slopes,
        "slopes_strides": _slopes_strides(slopes),
        "word_0": int32(words[0]),
        "word_1": int32(words[1]),
        "threshold": int32(threshold(score.dropout_p)),
        "keep_share": share,
        "scale": score.softmax_scale / score.softcap if capped else score.softmax_scale * log2e,
        "cap": score.softcap * log2e,
        "gradient_scale": score.softmax_scale / share,
        "CAPPED": capped,
        "BIASED": slopes is not None,
        "DROPPED": score.dropout_p > 0,
    }


LARGEST_ROUGH_CAP = 1024.0
"""Softcap up to which scores need no better tanh than one to 1e-7 absolute: above, they would be
further out than 1e-4, and at a cap of 1e6 by a tenth."""


def needs_precise_tanh(dtype: torch.dtype, score: Score) -> bool:
    """Whether scores of such inputs are made with a tanh that is right to the last bits near 0."""
    return dtype is torch.float32 or score.softcap > LARGEST_ROUGH_CAP


def of_shapes(q: Tensor, k: Tensor, v: Tensor) -> Arguments:
    """Heads, head dims and the widths of tiles; q (B, M, H, D), k (B, N, G, D), v (B, N, G, E)."""
    head_dim, head_dim_v = q.shape[-1], v.shape[-1]
    return {
        "group": q.shape[2] // k.shape[2],
        "D": head_dim,
        "E": head_dim_v,
        "BLOCK_D": padded(head_dim),
        "BLOCK_E": padded(head_dim_v),
    }


def of_tensors(tensors: dict[str, Tensor]) -> Arguments:
    """Their `pointers`, where kernels count inside a tile in 32 bits."""
    for name, tensor in tensors.items():
        assert tensor.stride(-1) == 1 or tensor.shape[-1] <= 1, f"{name}'s last dim has a stride"
        if tensor.ndim == 4 and tensor.stride(1) >= 2**23:  # x 128 tokens of a tile: in 32 bits
            reason = f"{name} has a token stride of {tensor.stride(1)} elements, 2^23 or more"
            raise Unsupported("triton", reason)
    return pointers(tensors)


def pointers(tensors: dict[str, Tensor]) -> Arguments:
    """Pointer and strides, all but the last dim's, of every tensor."""
    at = {f"{name}_ptr": x for name, x in tensors.items()}
    return at | {f"{name}_strides": strides(x, x.ndim - 1) for name, x in tensors.items()}


def needs_positions(score: Score) -> bool:
    """Whether a kernel must know where tokens are, and not only which see each other."""
    return score.alibi_slopes is not None or score.dropout_p > 0


def padded(head_dim: int) -> int:
    """The width of a tile of that head dim: a power of two, at least the 16 that tl.dot needs."""
    return max(16, 1 << (head_dim - 1).bit_length())


def _slopes_strides(slopes: Tensor | None) -> tuple[int, ...]:
    if slopes is None:
        return 0, 0
    # one row of slopes serves every batch entry
    return (0, *strides(slopes, 1)) if slopes.ndim == 1 else strides(slopes, 2)


def strides(tensor: Tensor, dims: int) -> tuple[int, ...]:
    """Of the first dims, as kernels take them."""
    # a dim of one element may have any stride; 0 spares the kernels a variant for each
    both = zip(tensor.shape[:dims], tensor.stride()[:dims], strict=True)
    return tuple(stride if size > 1 else 0 for size, stride in both)


def int32(number: int) -> int:
    """The signed number with the same 32 bits: a larger one would be another type to Triton."""
    return (number + 2**31) % 2**32 - 2**31
