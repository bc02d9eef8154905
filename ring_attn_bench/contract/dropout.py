"""Which attention weights dropout keeps: a hash of the seed, the head and two global positions.

The same seed gives the same mask bit for bit in one kernel call and on any ring, forward and
backward, because nothing counts calls, tiles or ranks. A kernel with dropout of its own computes
these bits; here they are in plain torch.

Everything is unsigned 32-bit arithmetic. A seed becomes two words by splitmix64's output function
(Steele, Lea & Flood 2014). A head's two words, and a row's first, come from `_mixed`, once each;
only two multiplications with a shift on either side are left for a weight, because a GPU computes
that for every weight, forward and backward. Philox would be ten rounds of two multiplications for
every four (Salmon et al. 2011).
"""

from __future__ import annotations

import torch
from torch import Tensor

# any odd numbers with many ones: a head, a row and a column are multiplied by them
HEAD_0, HEAD_1 = 0x9E3779B9, 0x85EBCA6B
ROW, COLUMN = 0xC2B2AE35, 0x9E3779B1
# the least biased 32-bit hash of this shape that was found (Wellons, hash-prospector: 16, 15, 15)
MULTIPLIER_0, MULTIPLIER_1 = 0x21F0AAAD, 0xD35A2D97

_MASK_32, _MASK_64 = 2**32 - 1, 2**64 - 1


def keep(
    seed: int, p: float, batch: int, heads: int, q_positions: Tensor, k_positions: Tensor
) -> Tensor:
    """Bool (B, H, M, N): whether the weight of a query (M,) for a key (N,) stays.

    batch, heads: how many of each; a batch entry's heads have numbers of their own. Positions are
    integers, taken modulo 2^32. Where documents are packed, each is a batch entry, and both
    positions count from its first key.
    """
    streams = torch.arange(batch * heads, device=q_positions.device).view(batch, heads)
    return numbers(seed, streams, q_positions, k_positions) >= threshold(p)


def numbers(seed: int, streams: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
    """Numbers below 2^32, (..., M, N), for heads (...): each is batch entry x heads + head."""
    word_0, word_1 = seed_words(seed)
    streams = streams[..., None].long()
    head_0 = _mixed(word_0 + streams * HEAD_0)
    head_1 = _mixed(word_1 ^ (streams * HEAD_1))
    row_0 = _mixed(head_0 + q_positions)[..., None]
    row_1 = (head_1 + q_positions * ROW)[..., None]
    x = (row_0 + k_positions * COLUMN) & _MASK_32
    x = x ^ (x >> 16) ^ (row_1 & _MASK_32)
    x = (x * MULTIPLIER_0) & _MASK_32
    x ^= x >> 15
    return (x * MULTIPLIER_1) & _MASK_32


def threshold(p: float) -> int:
    """Weights of smaller numbers are dropped: p, to a 2^32nd."""
    return min(round(p * 2**32), _MASK_32)


def seed_words(seed: int) -> tuple[int, int]:
    """Two 32-bit words of a seed, each of which changes wholly from one seed to the next."""
    x = (seed + 0x9E3779B97F4A7C15) & _MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK_64
    x ^= x >> 31
    return x & _MASK_32, x >> 32


def _mixed(x: Tensor) -> Tensor:
    """A permutation of the 32-bit numbers in which every bit depends on every other."""
    x = x & _MASK_32
    x = ((x ^ (x >> 16)) * MULTIPLIER_0) & _MASK_32
    x = ((x ^ (x >> 15)) * MULTIPLIER_1) & _MASK_32
    return x ^ (x >> 15)
