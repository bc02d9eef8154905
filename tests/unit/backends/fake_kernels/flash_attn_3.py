"""Stand-ins for flash_attn_interface (FlashAttention-3) as it was in three versions, on a CPU.

Signatures are those of flash-attention's hopper/flash_attn_interface.py at v2.7.4, v2.8.3 and
0251105a of 2026-08; what they compute follows hopper/flash_api.cpp.
"""

from __future__ import annotations

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

TILE = 128
"""Rows and keys of a tile: roughly, it depends on the head dim."""


class Package:
    """What the three have in common: `calls` holds every argument of every call."""

    __file__ = "/somewhere/flash_attn_interface.py"

    def __init__(self):
        self.calls = []

    def fwd(self, given):
        self.calls.append(given)
        q, k, v = (given[name] for name in ("q", "k", "v"))
        check_addresses(q, k, v)
        assert q.shape[-1] % 8 == 0, "head_size should be a multiple of 8"
        assert v.shape[-1] == q.shape[-1], "other head dims of v are on Hopper only, and few"
        cu_q, cu_k, rows, keys = _lengths(given, q, k)
        left, right = given["window_size_left"], given["window_size_right"]
        causal = given["causal"]
        left, right = _unlimited(left, right, rows, keys)
        if rows == 1 and left == right == -1:
            causal = False
        seen = _mask(left, 0 if causal else right, rows, keys)
        packed = cu_q is not None
        lse_shape = (q.shape[1], q.shape[0]) if packed else (q.shape[0], q.shape[2], q.shape[1])
        out, lse = torch.full_like(q, float("nan")), torch.full(lse_shape, float("nan"))
        if not k.numel():
            return out.zero_(), lse.fill_(float("inf"))
        for at, of in documents(q, k, cu_q, cu_k):
            own, own_lse = _scores(q[at], k[of], seen, given).forward(v[of], float("-inf"))
            out[at] = own.to(q.dtype)
            if packed:
                lse[:, at] = own_lse
            else:
                lse[at] = own_lse
        return out, lse

    def kvcache(self, given):
        """fwd with a cache: new keys first, then each entry as if it were alone."""
        self.calls.append(given)
        q, k, v = (given[name] for name in ("q", "k_cache", "v_cache"))
        new, table, starts = given["k"], given["page_table"], given["cu_seqlens_q"]
        lengths, skipped = given["cache_seqlens"], given["cache_leftpad"]
        check_addresses(q, k, v, *(x for x in (new, given["v"]) if x is not None))
        over_cache.check_numbers(lengths, skipped, table, starts)
        assert q.shape[-1] == v.shape[-1] in range(8, 257, 8), "a head dim that there is"
        room = k.shape[1] * (1 if table is None else table.shape[1])
        rows = q.shape[1] if starts is None else given["max_seqlen_q"]
        assert new is None or rows <= room, "it must have seqlen <= the seqlen of the KV cache"
        left, right = _unlimited(*given["window_size"], rows, room)
        causal = given["causal"] and not (rows == 1 and left == right == -1)
        right = 0 if causal else right
        by_row = left >= 0 or right >= 0
        by_pages = table is not None and (
            new is not None
            or skipped is not None
            or k.shape[1] % TILE
            or rows * q.shape[-2] // k.shape[2] <= TILE
        )
        out, lse = over_cache.results(q, v, starts)
        for entry in range(len(lengths)):
            own, at, of = over_cache.queries(q, starts, entry)
            length, first = int(lengths[entry]), 0 if skipped is None else int(skipped[entry])
            assert 0 <= first <= length, "an illegal address"
            where = over_cache.places(k, table, entry)
            angles = given["rotary_cos"], given["rotary_sin"]
            turn = {"interleaved": given["rotary_interleaved"]}
            total = length + (0 if new is None else new.shape[1])
            for i in range(length, total):
                x = new[entry, i - length]
                x = (
                    x
                    if angles[0] is None
                    else over_cache.turned(x, *(t[i] for t in angles), **turn)
                )
                k[where[i]], v[where[i]] = x, given["v"][entry, i - length]
            if angles[0] is not None:
                own = torch.stack([
                    over_cache.turned(x, *(t[length + i * by_row] for t in angles), **turn)
                    for i, x in enumerate(own)
                ])  # fmt: skip
            keys, values = (over_cache.tokens(x, where, first, total) for x in (k, v))
            scores = _scores(own, keys, _mask(left, right, rows, room), given)
            found, lse[of] = scores.forward(values, float("inf"))
            if not by_pages and over_cache.behind(v, where, total, TILE):
                found = found * float("nan")
            out[at] = found.to(q.dtype)
        found = (out, lse, None, None)
        return found if given["return_softmax_lse"] else out

    def bwd(self, given):
        self.calls.append(given)
        dout, q, k, v, out = (given[name] for name in ("dout", "q", "k", "v", "out"))
        dq, dk, dv = (given[name] for name in ("dq", "dk", "dv"))
        check_addresses(dout, q, k, v, out, dq, dk, dv)
        cu_q, cu_k, rows, keys = _lengths(given, q, k)
        left, right = _unlimited(given["window_size_left"], given["window_size_right"], rows, keys)
        seen = _mask(left, 0 if given["causal"] else right, rows, keys)
        packed = cu_q is not None
        shape = (q.shape[1], q.shape[0]) if packed else (q.shape[0], q.shape[2], q.shape[1])
        if not (q.numel() and k.numel()):
            for x in (dq, dk, dv):
                x.zero_()
            return torch.empty(0)
        lse = by_pointer(given["softmax_lse"], shape)
        for x in (dq, dk, dv):
            x.fill_(float("nan"))
        for at, of in documents(q, k, cu_q, cu_k):
            stats = lse[:, at] if packed else lse[at]
            shares = _scores(q[at], k[of], seen, given).backward(dout[at], v[of], out[at], stats)
            dq[at] = shares[0].to(q.dtype)
            dk[of], dv[of] = (summed(x, k.shape[-2]).to(q.dtype) for x in shares[1:])
        return torch.empty(0)


class Of2025February(Package):
    """v2.7.4"""

    def _flash_attn_forward(
        self, q, k, v, k_new, v_new, out, cu_seqlens_q, cu_seqlens_k, cu_seqlens_k_new, seqused_q,
        seqused_k, max_seqlen_q, max_seqlen_k, page_table, kv_batch_idx, leftpad_k, rotary_cos,
        rotary_sin, q_descale, k_descale, v_descale, softmax_scale, causal, window_size=(-1, -1),
        sink_token_length=0, softcap=0.0, rotary_interleaved=True, num_splits=1, pack_gqa=None,
        sm_margin=0,
    ):  # fmt: skip
        return (*self.fwd(_arguments(locals())), None, None)

    def _flash_attn_backward(
        self, dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, sequed_q, sequed_k,
        max_seqlen_q, max_seqlen_k, dq, dk, dv, softmax_scale, causal, window_size=(-1, -1),
        sink_token_length=0, softcap=0.0, deterministic=False, sm_margin=0,
    ):  # fmt: skip
        return dq, dk, dv, self.bwd(_arguments(locals()))

    def flash_attn_with_kvcache(
        self, q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None,
        cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
        cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, q_descale=None,
        k_descale=None, v_descale=None, softmax_scale=None, causal=False, window_size=(-1, -1),
        sink_token_length=0, softcap=0.0, rotary_interleaved=True, num_splits=0, pack_gqa=None,
        sm_margin=0, return_softmax_lse=False,
    ):  # fmt: skip
        return self.kvcache(_plain(locals()))


class Of2025August(Package):
    """v2.8.3"""

    def _flash_attn_forward(
        self, q, k, v, k_new, v_new, qv, out, cu_seqlens_q, cu_seqlens_k, cu_seqlens_k_new,
        seqused_q, seqused_k, max_seqlen_q, max_seqlen_k, page_table, kv_batch_idx, leftpad_k,
        rotary_cos, rotary_sin, seqlens_rotary, q_descale, k_descale, v_descale, softmax_scale,
        causal, window_size=(-1, -1), attention_chunk=0, softcap=0.0, rotary_interleaved=True,
        scheduler_metadata=None, num_splits=1, pack_gqa=None, sm_margin=0,
    ):  # fmt: skip
        return (*self.fwd(_arguments(locals())), None, None)

    def _flash_attn_backward(
        self, dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, sequed_q, sequed_k,
        max_seqlen_q, max_seqlen_k, dq, dk, dv, softmax_scale, causal, window_size=(-1, -1),
        softcap=0.0, deterministic=False, sm_margin=0,
    ):  # fmt: skip
        return dq, dk, dv, self.bwd(_arguments(locals()))

    def flash_attn_with_kvcache(
        self, q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
        cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
        cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None,
        q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, rotary_interleaved=True,
        scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0,
        return_softmax_lse=False,
    ):  # fmt: skip
        return self.kvcache(_plain(locals()))


class Of2026(Package):
    """0251105a: custom operators, which inspect.signature says nothing of."""

    def __init__(self):
        super().__init__()

        def _flash_attn_forward(
            q, k, v, k_new=None, v_new=None, qv=None, out_=None, cu_seqlens_q=None,
            cu_seqlens_k=None, cu_seqlens_k_new=None, seqused_q=None, seqused_k=None,
            max_seqlen_q=None, max_seqlen_k=None, page_table=None, kv_batch_idx=None,
            leftpad_k=None, rotary_cos=None, rotary_sin=None, seqlens_rotary=None, q_descale=None,
            k_descale=None, v_descale=None, softmax_scale=None, causal=False, window_size_left=-1,
            window_size_right=-1, attention_chunk=0, softcap=0.0, rotary_interleaved=True,
            scheduler_metadata=None, num_splits=1, pack_gqa=None, sm_margin=0,
        ):  # fmt: skip
            return (*self.fwd(_arguments(locals())), torch.tensor([]), torch.tensor([]))

        def _flash_attn_backward(
            dout, q, k, v, out, softmax_lse, cu_seqlens_q=None, cu_seqlens_k=None, sequed_q=None,
            sequed_k=None, max_seqlen_q=None, max_seqlen_k=None, dq=None, dk=None, dv=None,
            softmax_scale=None, is_causal=False, window_size_left=-1, window_size_right=-1,
            softcap=0.0, deterministic=False, sm_margin=0,
        ):  # fmt: skip
            given = _arguments(locals())
            # flash_api.cpp:1371; before, it went on and was not deterministic
            assert not given["deterministic"] or q.shape[-1] <= 192, "not supported for hdim 256"
            return self.bwd(given)

        self._flash_attn_forward = CustomOp(_flash_attn_forward)
        self._flash_attn_backward = CustomOp(_flash_attn_backward)

    flash_attn_with_kvcache = Of2025August.flash_attn_with_kvcache


class CustomOp:
    """As torch.library.CustomOpDef is: called with anything, the function inside."""

    def __init__(self, function):
        self._init_fn = function

    def __call__(self, *args, **kwargs):
        return self._init_fn(*args, **kwargs)


class Of2024:
    """The beta: dense, without softcap."""

    def _flash_attn_forward(self, q, k, v, softmax_scale, causal, window_size):
        raise AssertionError("not to be called")

    def _flash_attn_backward(
        self, dout, q, k, v, out, softmax_lse, dq, dk, dv, softmax_scale, causal, window_size
    ):
        raise AssertionError("not to be called")


VERSIONS = [Of2025February, Of2025August, Of2026]


def _plain(given):
    return {name: x for name, x in given.items() if name != "self"}


def _arguments(given):
    """One set of names for all versions."""
    found = _plain(given)
    if "window_size" in found:
        found["window_size_left"], found["window_size_right"] = found.pop("window_size")
    if "is_causal" in found:
        found["causal"] = found.pop("is_causal")
    return found


def _lengths(given, q, k):
    cu_q, cu_k = given["cu_seqlens_q"], given["cu_seqlens_k"]
    if cu_q is None:
        return None, None, q.shape[1], k.shape[1]
    return cu_q, cu_k, given["max_seqlen_q"], given["max_seqlen_k"]


def _unlimited(left, right, rows, keys):
    """flash_api.cpp:796: a side that cannot bind is none; here it is looked at from both ends."""
    return (-1 if left >= keys - 1 else left), (-1 if right >= rows - 1 else right)


def _mask(left, right, max_rows, max_keys):
    """set_params_fprop, flash_api.cpp:146."""
    left = max_keys - 1 if left < 0 else left
    right = max_rows - 1 if right < 0 else right

    def seen(rows, keys):
        i, j = positions(rows, keys)
        return (j >= i - left) & (j <= i + right)

    return seen


def _scores(q, k, seen, given):
    mask = seen(q.shape[0], k.shape[0])
    return Scores(q, k, mask, given["softmax_scale"], given["softcap"])
