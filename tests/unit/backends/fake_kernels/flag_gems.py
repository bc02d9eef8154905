"""A stand-in for flag_gems 5.0.2: its two functions' signatures and their quirks, on a CPU.

What is imitated is flag_gems/ops/attention.py, flash_api.py and flash_kernel.py, where they decide
what is computed. Where the kernels would read or write beyond their tensors, it asserts.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from tests.unit.backends.fake_kernels import over_cache
from tests.unit.backends.fake_kernels.attention import Scores, documents, positions

ROWS = 128  # of a tile, in every configuration


class FlagGems:
    """The package's functions, with that many keys in a tile, and the calls that were made."""

    def __init__(self, tile_keys=32):
        self.calls = []
        self._tile_keys = tile_keys
        self._kernels = {}  # compiled ones, by what its cache asks for

    def flash_attention_forward(
        self, query, key, value, cumulative_sequence_length_q, cumulative_sequence_length_k,
        max_q, max_k, dropout_p, is_causal, return_debug_mask, *, scale=None, softcap=0.0,
        window_size_left=None, window_size_right=None, seqused_k=None, alibi_slopes=None,
        disable_splitkv=False,
    ):  # fmt: skip
        """out, lse and three values of dropout."""
        assert cumulative_sequence_length_q is None, "varlen is not supported yet."
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        assert not dropout_p, "the fake has no dropout"
        dim = query.shape[-1]
        width = next(width for width in (16, 32, 64, 96, 128, 192, 256) if width >= dim)
        if width != dim:
            query, key, value = (pad(x, (0, width - dim)) for x in (query, key, value))
        left = -1 if window_size_left is None else window_size_left
        right = -1 if window_size_right is None else window_size_right
        out, lse = self._dense(
            query, key, value, is_causal, left, right, scale or dim**-0.5, softcap, alibi_slopes,
            disable_splitkv,
        )  # fmt: skip
        return out[..., :dim], lse, None, None, None

    def _dense(
        self, q, k, v, causal, left, right, scale, softcap, slopes, disable_splitkv
    ):  # fmt: skip
        check_dtypes(q, k, v)
        (batch, rows, heads, dim), keys = q.shape, k.shape[1]
        left, right = (-1 if side >= keys else side for side in (left, right))
        causal = causal and not (rows == 1 and slopes is None)
        right = 0 if causal else right
        causal, local = left < 0 and right == 0, left >= 0 and right >= 0
        self.calls.append(("dense", causal, (left, right) if local else None))
        assert dim % 32 == 0, "head_size must be rounded to 32"
        assert disable_splitkv or local, "it writes beyond out"
        for x in (q, k):
            assert batch == 1 or x.stride(0) % (x.shape[2] * dim) == 0, "the compiler was lied to"
        assert alike(slopes, (heads,), (batch, heads))
        v = v.as_strided(k.shape, k.stride())
        out = torch.empty_like(q)
        even = (
            rows % ROWS == 0 and keys % self._tile_keys == 0
            and (rows % keys == 0 or keys % rows == 0)
            and all(side == -1 or side % self._tile_keys == 0 for side in (left, right))
        )  # fmt: skip
        asked = (
            *(x.stride() for x in (q, k, v, out)), *(x.data_ptr() % 16 for x in (q, k, v)),
            batch, heads, k.shape[2], dim, scale, softcap, causal, local, left, right,
            slopes is None,
        )  # fmt: skip
        made_for_even = self._kernels.setdefault(asked, even)
        assert even or not made_for_even, "it reads beyond the last key"
        seen = self._dense_mask(rows, keys, causal, local, left, right, even)
        lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
        for entry in range(batch):
            bias = alibi(slopes, entry, rows, keys, causal)
            scores = Scores(q[entry], k[entry], seen, scale, softcap, bias)
            out[entry], lse[entry] = scores.forward(v[entry], no_key=float("inf"))
        return out, lse

    def _dense_mask(self, rows, keys, causal, local, left, right, even):
        i, j = positions(rows, keys)
        if not causal and not local:
            return torch.ones(rows, keys, dtype=torch.bool)
        tile = torch.arange(rows)[:, None] // ROWS
        stop = keys + (tile + 1 - -(-rows // ROWS)) * ROWS + (right if local else 0)
        stop = stop.clamp(max=keys)
        if not even:
            stop = -(-stop // self._tile_keys) * self._tile_keys
        seen = (j <= i + right) & (j < stop)
        return seen & (j >= i - left) if local else seen

    def flash_attn_varlen_func(
        self, q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, cu_seqlens_k=None,
        seqused_k=None, q_v=None, dropout_p=0.0, softmax_scale=None, causal=False,
        window_size=None, softcap=0.0, alibi_slopes=None, deterministic=False,
        return_attn_probs=False, block_table=None, return_softmax_lse=False, out=None,
        scheduler_metadata=None, q_descale=None, k_descale=None, v_descale=None, s_aux=None,
        num_splits=0, cp_world_size=1, cp_rank=0, cp_tot_seqused_k=None, fa_version=2,
    ):  # fmt: skip
        """out and lse."""
        check_dtypes(q, k, v)
        assert not dropout_p, "the fake has no dropout"
        assert return_softmax_lse
        assert num_splits == 0, "num_splits > 0 is not implemented in GEMS."
        assert (cu_seqlens_k is None) != (seqused_k is None), "one of them must be provided"
        assert cu_seqlens_q.dtype == torch.int32
        heads, dim, count = q.shape[1], q.shape[2], cu_seqlens_q.numel() - 1
        assert dim % 8 == 0
        assert block_table is not None or dim in (16, 32, 64, 128, 256), "it reads beyond a head"
        assert dim > 8, "tl.dot wants 16 columns"
        assert k.shape == v.shape
        assert k.stride() == v.stride()
        assert alike(alibi_slopes, (heads,), (count, heads))
        left, right = window_size
        causal = causal and not (max_seqlen_q == 1 and alibi_slopes is None)
        right = 0 if causal else right
        left, right = (-1 if side >= max_seqlen_k else side for side in (left, right))
        local = left >= 0
        regrouped = (
            max_seqlen_q == 1 and alibi_slopes is None and heads > k.shape[-2] and left < 0 > right
        )
        assert not regrouped or q.shape[0] == count, "shape is invalid for input"
        assert q.shape[0] / count >= 0, "no division by zero"
        assert max_seqlen_q >= cu_seqlens_q.diff().max(), "no programs for the last rows"
        name = "packed" if block_table is None else "over a cache"
        self.calls.append((name, causal, (left, right) if local else None))
        out, lse = torch.empty_like(q), q.new_empty(heads, q.shape[0], dtype=torch.float32)
        parts = self._parts(q, k, v, cu_seqlens_q, cu_seqlens_k, seqused_k, block_table)
        for number, (at, own_k, own_v) in enumerate(parts):
            rows, keys = at.stop - at.start, len(own_k)
            i, j = positions(rows, keys)
            seen = torch.ones(rows, keys, dtype=torch.bool)
            if causal or local:
                seen &= j <= i + right
            if local:
                seen &= j >= i - left
            bias = alibi(alibi_slopes, number, rows, keys, causal)
            scores = Scores(q[at], own_k, seen, softmax_scale, softcap, bias)
            out[at], lse[:, at] = scores.forward(own_v, no_key=float("inf"))
        if regrouped:
            groups = k.shape[-2]
            lse = lse.view(groups, -1, count).transpose(1, 2).reshape(heads, count)
        return out, lse

    def _parts(self, q, k, v, starts, cu_seqlens_k, lengths, table):
        """Queries, keys and values of each document; pages are found by k's token stride alone."""
        if table is None:
            assert cu_seqlens_k.dtype == torch.int32
            return [(at, k[of], v[of]) for at, of in documents(q, k, starts, cu_seqlens_k)]
        over_cache.check_numbers(lengths, table)
        strides = (k.shape[1] * k.stride(1), *k.stride()[1:])
        k, v = (x.as_strided(x.shape, strides) for x in (k, v))
        ends = starts.tolist()
        return [
            (slice(first, stop), *(over_cache.tokens(x, where, 0, length) for x in (k, v)))
            for entry, (first, stop, length) in enumerate(
                zip(ends, ends[1:], lengths.tolist(), strict=False)
            )
            for where in [over_cache.places(k, table, entry)]
        ]


def check_dtypes(*tensors):
    assert all(x.dtype in (torch.float16, torch.bfloat16) for x in tensors)
    assert all(x.stride(-1) == 1 for x in tensors)


def alike(slopes, *shapes):
    return slopes is None or (
        slopes.dtype == torch.float32 and slopes.stride(-1) == 1 and slopes.shape in shapes
    )


def alibi(slopes, entry, rows, keys, causal):
    """In causal mode not from the row, but from the last key."""
    if slopes is None:
        return 0.0
    i, j = positions(rows, keys)
    own = (slopes if slopes.dim() == 1 else slopes[entry])[:, None, None]
    return own * (j - (keys - 1)) if causal else -own * (i - j).abs()
