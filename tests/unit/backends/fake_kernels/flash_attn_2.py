"""A stand-in for flash_attn.flash_attn_interface 2.8.3: its signatures, its quirks, on a CPU.

What is imitated is csrc/flash_attn/flash_api.cpp and its kernels, line by line where they decide
what is computed: which window a window is, which bias ALiBi's, what an lse is.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from tests.unit.backends.fake_kernels import over_cache
from tests.unit.backends.fake_kernels.attention import (
    Scores,
    by_pointer,
    check_addresses,
    documents,
    positions,
    summed,
)


class Made(NamedTuple):
    """A call that was made."""

    name: str
    mask: Mask
    deterministic: bool = False


class FlashAttn2:
    """The module's four functions, and the calls that were made; what its build holds."""

    def __init__(self, *, head_dims=None, dtypes=(torch.float16, torch.bfloat16)):
        self._head_dims, self._dtypes = head_dims, dtypes
        self.calls = []

    def _flash_attn_forward(
        self, q, k, v, dropout_p, softmax_scale, causal, window_size_left, window_size_right,
        softcap, alibi_slopes, return_softmax,
    ):  # fmt: skip
        batch, rows, heads, _ = q.shape
        keys = k.shape[1]
        self._check(q, k, v, dropout_p, softcap)
        left, right = self._dense_sides(window_size_left, window_size_right, keys)
        if rows == 1 and alibi_slopes is None:
            causal = False
        right = 0 if causal else right
        mask = Mask(left, right, keys, alibi_slopes)
        self.calls.append(Made("dense forward", mask))
        return _forward(
            q, k, v, None, None, mask, (batch, heads, rows), softmax_scale, softcap, dropout_p
        )

    def _flash_attn_varlen_forward(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
        softmax_scale, causal, window_size_left=-1, window_size_right=-1, softcap=0.0,
        alibi_slopes=None, return_softmax=False, block_table=None, leftpad_k=None, seqused_k=None,
        zero_tensors=False,
    ):  # fmt: skip
        self._check(q, k, v, dropout_p, softcap)
        _check_lengths(cu_seqlens_q, cu_seqlens_k)
        total, heads, _ = q.shape
        if max_seqlen_q == 1 and alibi_slopes is None:
            causal = False
        left, right = window_size_left, 0 if causal else window_size_right
        grouped = heads > k.shape[1] and left < 0 and right < 0 and not dropout_p
        if max_seqlen_q == 1 and grouped and alibi_slopes is None:
            # queries are regrouped as if every document had one
            q.reshape(len(cu_seqlens_q) - 1, k.shape[1], heads // k.shape[1], q.shape[2])
        left, right = self._dense_sides(left, right, max_seqlen_k)
        mask = Mask(left, right, max_seqlen_k, alibi_slopes)
        self.calls.append(Made("varlen forward", mask))
        return _forward(
            q, k, v, cu_seqlens_q, cu_seqlens_k, mask, (heads, total), softmax_scale, softcap,
            dropout_p,
        )  # fmt: skip

    def _flash_attn_backward(
        self, dout, q, k, v, out, softmax_lse, dq, dk, dv, dropout_p, softmax_scale, causal,
        window_size_left, window_size_right, softcap, alibi_slopes, deterministic, rng_state=None,
    ):  # fmt: skip
        self._check(q, k, v, dropout_p, softcap, dout, out)
        batch, rows, heads, _ = q.shape
        right = 0 if causal else window_size_right
        left, right = self._dense_sides(window_size_left, right, k.shape[1])
        mask = Mask(left, right, k.shape[1], alibi_slopes)
        self.calls.append(Made("dense backward", mask, deterministic))
        lse = by_pointer(softmax_lse, (batch, heads, rows))
        return _backward(
            dout, q, k, v, out, lse, dq, dk, dv, None, None, mask, softmax_scale, softcap,
            dropout_p, rng_state,
        )  # fmt: skip

    def _flash_attn_varlen_backward(
        self, dout, q, k, v, out, softmax_lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k,
        max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size_left,
        window_size_right, softcap, alibi_slopes, deterministic, rng_state=None,
        zero_tensors=False,
    ):  # fmt: skip
        self._check(q, k, v, dropout_p, softcap, dout, out)
        _check_lengths(cu_seqlens_q, cu_seqlens_k)
        right = 0 if causal else window_size_right
        left, right = self._dense_sides(window_size_left, right, max_seqlen_k)
        mask = Mask(left, right, max_seqlen_k, alibi_slopes)
        self.calls.append(Made("varlen backward", mask, deterministic))
        lse = by_pointer(softmax_lse, (q.shape[1], q.shape[0]))
        return _backward(
            dout, q, k, v, out, lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k, mask, softmax_scale,
            softcap, dropout_p, rng_state,
        )  # fmt: skip

    def flash_attn_with_kvcache(
        self, q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None,
        cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None,
        softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
        rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False,
    ):  # fmt: skip
        """mha_fwd_kvcache: new keys first, then each entry as if it were alone."""
        self._check(q, k_cache, v_cache, 0.0, softcap)
        assert block_table is None or k_cache.shape[1] % 256 == 0, "pages of 256"
        room = k_cache.shape[1] * (1 if block_table is None else block_table.shape[1])
        batch, rows, heads, _ = q.shape
        if rows == 1 and alibi_slopes is None:
            causal = False
        left, right = window_size[0], 0 if causal else window_size[1]
        left, right = self._dense_sides(left, right, room)
        mask = Mask(left, right, room, alibi_slopes)
        self.calls.append(Made("over a cache", mask))
        out = torch.full_like(q, float("nan"))
        lse = torch.full((batch, heads, rows), float("nan"))
        for entry in range(batch):
            length = room if cache_seqlens is None else int(cache_seqlens[entry])
            row = entry if cache_batch_idx is None else int(cache_batch_idx[entry])
            assert 0 <= length <= room, "an illegal address"
            assert row < len(k_cache), "an illegal address"
            where = [(row, at) for at in range(room)]
            if block_table is not None:
                size = k_cache.shape[1]
                where = [(int(block_table[entry, at // size]), at % size) for at in range(room)]
            own = q[entry]
            for at in range(0 if k is None else k.shape[1]):
                turned = k[entry, at]
                if rotary_cos is not None:
                    angles = rotary_cos[length + at], rotary_sin[length + at]
                    turned = over_cache.turned(turned, *angles, interleaved=rotary_interleaved)
                k_cache[where[length + at]], v_cache[where[length + at]] = turned, v[entry, at]
            turn = {"interleaved": rotary_interleaved}
            if rotary_cos is not None:
                steps = torch.arange(rows) if mask.is_causal or mask.is_local else torch.zeros(rows)
                at = (length + steps).long()
                own = torch.stack([
                    over_cache.turned(x, rotary_cos[i], rotary_sin[i], **turn)
                    for x, i in zip(own, at, strict=True)
                ])  # fmt: skip
            total = length + (0 if k is None else k.shape[1])
            first = 0 if cache_leftpad is None else int(cache_leftpad[entry])
            keys, values = (
                torch.stack([x[at] for at in where[first:total]])
                if first < total
                else x.new_empty(0, *x.shape[2:])
                for x in (k_cache, v_cache)
            )
            scores = _scores(own, keys, entry, mask, softmax_scale, softcap, 0.0, None)
            own_out, lse[entry] = scores.forward(values, no_key=float("inf"))
            out[entry] = own_out.to(q.dtype)
        return (out, lse) if return_softmax_lse else out

    def _dense_sides(self, left, right, keys):
        """flash_api.cpp:399: a side of so many keys is none, whatever the rows are."""
        return (-1 if left >= keys else left), (-1 if right >= keys else right)

    def _check(self, q, k, v, dropout_p, softcap, *others):
        check_addresses(q, k, v, *others)
        dim = q.shape[-1]
        for x in (k, v, *others):
            assert x.shape[-1] == dim, "must have the same head dim"
            assert x.dtype is q.dtype, "must have the same dtype"
        if dim % 8 or dim > 256:
            raise RuntimeError("head_size should be a multiple of 8, and at most 256")
        if softcap > 0 and dropout_p > 0:
            raise RuntimeError("Softcapping does not support dropout for now")
        if q.dtype not in self._dtypes:
            raise RuntimeError("this build holds bf16, head dims 64 and 128 only")
        if self._head_dims and dim not in self._head_dims:
            raise RuntimeError("this build holds head dims 64 and 128 only")


class Mask:
    """What set_params_fprop makes of a window (flash_api.cpp:139)."""

    def __init__(self, left, right, keys, slopes):
        self.is_causal = left < 0 and right == 0
        if left < 0 <= right:
            left = keys
        if right < 0 <= left:
            right = keys
        self.is_local = not self.is_causal and (left >= 0 or right >= 0)
        self.left, self.right, self.slopes = left, right, slopes

    def seen(self, rows, keys):
        i, j = positions(rows, keys)
        if self.is_causal:
            return j <= i
        if self.is_local:
            return (j >= i - self.left) & (j <= i + self.right)
        return torch.ones(rows, keys, dtype=torch.bool)

    def bias(self, rows, keys, entry):
        """alibi.h: in causal mode the column alone, whatever the row."""
        if self.slopes is None:
            return 0.0
        assert self.slopes.dtype is torch.float32, "ALiBi slopes must have dtype fp32"
        assert self.slopes.stride(-1) == 1, "must have contiguous last dimension"
        slopes = self.slopes[entry] if self.slopes.dim() == 2 else self.slopes
        i, j = positions(rows, keys)
        distance = -j.expand(rows, keys) if self.is_causal else (i - j).abs()
        return -slopes[:, None, None] * distance


def _forward(q, k, v, cu_q, cu_k, mask, lse_shape, scale, softcap, dropout_p):
    state = _drawn() if dropout_p else torch.empty(2, dtype=torch.int64)
    out, lse = torch.full_like(q, float("nan")), torch.full(lse_shape, float("nan"))
    for entry, (at, of) in enumerate(documents(q, k, cu_q, cu_k)):
        scores = _scores(q[at], k[of], entry, mask, scale, softcap, dropout_p, state)
        own, own_lse = scores.forward(v[of], no_key=float("inf"))
        out[at] = own.to(q.dtype)
        if cu_q is None:
            lse[at] = own_lse
        else:
            lse[:, at] = own_lse
    return out, lse, torch.empty(0), state


def _backward(
    dout, q, k, v, out, lse, dq, dk, dv, cu_q, cu_k, mask, scale, softcap, dropout_p, state
):
    if dropout_p:
        assert state.shape == (2,), "the random state is two numbers"
        assert state.element_size() == 8, "of 64 bits"
    for x in (dq, dk, dv):
        x.fill_(float("nan"))
    for entry, (at, of) in enumerate(documents(q, k, cu_q, cu_k)):
        scores = _scores(q[at], k[of], entry, mask, scale, softcap, dropout_p, state)
        stats = lse[at] if cu_q is None else lse[:, at]
        shares = scores.backward(dout[at], v[of], out[at], stats)
        dq[at] = shares[0].to(q.dtype)
        # every query head's share is rounded before they are added up
        dk[of], dv[of] = (
            summed(x.to(q.dtype).float(), k.shape[-2]).to(q.dtype) for x in shares[1:]
        )
    return torch.empty(0)


def _scores(q, k, entry, mask, scale, softcap, dropout_p, state):
    rows, keys = q.shape[0], k.shape[0]
    return Scores(
        q, k, mask.seen(rows, keys), scale, softcap, mask.bias(rows, keys, entry),
        _kept(state, entry, q.shape[1], rows, keys, dropout_p) if dropout_p else None, dropout_p,
    )  # fmt: skip


def _kept(state, entry, heads, rows, keys, dropout_p):
    """dropout.h: a function of the state, the batch entry, the head, the row and the key."""
    seed, offset = state.tolist()
    words = hashlib.sha256(f"{seed} {offset} {entry}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(words[:7], "big"))
    grid = torch.randint(256, (heads, 512, 512), generator=generator)
    return grid[:, :rows, :keys] <= int((1 - dropout_p) * 255.0)


def _drawn():
    """The default generator's seed, and how far it has gone; it goes on from there."""
    generator = torch.default_generator
    fresh = torch.Generator().manual_seed(generator.initial_seed()).get_state()
    offset = 0 if torch.equal(fresh, generator.get_state()) else 4
    torch.rand(1)
    return torch.tensor([generator.initial_seed(), offset], dtype=torch.int64)


def _check_lengths(*ends):
    for x in ends:
        assert x.dtype is torch.int32, "cu_seqlens must have dtype int32"
        assert x.is_contiguous(), "cu_seqlens must be contiguous"
