"""A stand-in for flash_attn.cute.interface of flash-attn-4 4.0.0b36, on a CPU.

Its two functions with their signatures, the head dims that they take, and gradients that are
wrong where the real ones are: at head dims that 32 does not divide.
"""

from __future__ import annotations

import torch

from tests.unit.backends.fake_kernels import over_cache
from tests.unit.backends.fake_kernels.attention import (
    Scores,
    band,
    by_pointer,
    check_addresses,
    documents,
    summed,
)

TILE = 128
"""Keys of a tile, at head dims up to 128."""


class FlashAttn4:
    """The two functions for an architecture; `calls` holds the arguments of every call."""

    def __init__(self, architecture=9):
        self.architecture, self.calls = architecture, []

    def _flash_attn_fwd(
        self, q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, seqused_q=None,
        seqused_k=None, max_seqlen_q=None, max_seqlen_k=None, min_seqlen_k=None, page_table=None,
        softmax_scale=None, causal=False, softcap=None, window_size_left=None,
        window_size_right=None, learnable_sink=None, tile_mn=None, mma_pv_is_rs=None,
        intra_wg_overlap=None, num_threads=384, num_splits=1, pack_gqa=None, _arch=None,
        score_mod=None, mask_mod=None, block_sparse_tensors=None, return_lse=False, out=None,
        lse=None, aux_tensors=None, aux_scalars=None, q_descale=None, k_descale=None,
        v_descale=None, gather_kv_indices=None, scheduler_metadata=None, seqlen_k_per_split=None,
        disable_scheduler_metadata=False, gather_bwd_recompute_p=False,
    ):  # fmt: skip
        self._check(q, k, v)
        assert return_lse, "else there is none without gradients"
        self.calls.append({"q": q, "v": v, "max_seqlen_q": max_seqlen_q, "causal": causal,
                           "left": window_size_left, "right": window_size_right,
                           "num_splits": num_splits})  # fmt: skip
        left, right = _window(causal, window_size_left, window_size_right)
        assert num_splits == 1 or self.architecture != 9, "SplitKV not supported on SM 9.0"
        if seqused_k is not None:
            score = left, right, softmax_scale, softcap
            found = self._over_cache(q, k, v, cu_seqlens_q, seqused_k, page_table, score)
            return *found, None, None, None
        packed = cu_seqlens_q is not None
        shape = (q.shape[1], q.shape[0]) if packed else (q.shape[0], q.shape[2], q.shape[1])
        out = q.new_full((*q.shape[:-1], v.shape[-1]), float("nan"))
        lse = torch.full(shape, float("nan"))
        if not (q.numel() and k.numel()):
            return out.zero_(), lse.fill_(float("-inf")), None, None, None
        for at, of in documents(q, k, cu_seqlens_q, cu_seqlens_k):
            scores = _scores(q[at], k[of], left, right, softmax_scale, softcap)
            own, stats = scores.forward(v[of], float("-inf"))
            out[at] = own.to(q.dtype)
            if packed:
                lse[:, at] = stats
            else:
                lse[at] = stats
        return out, lse, None, None, None

    def _flash_attn_bwd(
        self, q, k, v, out, dout, lse, softmax_scale=None, causal=False, softcap=0.0,
        window_size_left=None, window_size_right=None, m_block_size=64, n_block_size=128,
        num_threads=256, pack_gqa=False, num_stages_Q=2, num_stages_dO=2, SdP_swapAB=False,
        dKV_swapAB=False, dQ_swapAB=False, AtomLayoutMSdP=2, AtomLayoutNdKV=2, AtomLayoutMdQ=2,
        V_in_regs=False, cu_seqlens_q=None, cu_seqlens_k=None, seqused_q=None, seqused_k=None,
        max_seqlen_q=None, max_seqlen_k=None, deterministic=False, dq=None, dk=None, dv=None,
        score_mod=None, score_mod_bwd=None, mask_mod=None, aux_tensors=None, aux_scalars=None,
        block_sparse_tensors=None, dlse=None, learnable_sink=None,
    ):  # fmt: skip
        if not (q.numel() and k.numel()):
            return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        self._check(q, k, v, out, dout)
        self.calls.append({"q": q, "v": v, "max_seqlen_q": max_seqlen_q, "causal": causal,
                           "deterministic": deterministic})  # fmt: skip
        dims = q.shape[-1], v.shape[-1]
        if q.shape[-2] != k.shape[-2]:
            assert dims[0] == dims[1], "backward of grouped heads wants one head dim"
        if dims == (256, 256) and self.architecture != 9:
            assert not softcap, "SM100 backward with head_dim=256 does not support softcap"
            one_sided = window_size_left is None and window_size_right in {None, 0}
            assert one_sided, "SM100 backward with head_dim=256 does not support local attention"
        left, right = _window(causal, window_size_left, window_size_right)
        packed = cu_seqlens_q is not None
        shape = (q.shape[1], q.shape[0]) if packed else (q.shape[0], q.shape[2], q.shape[1])
        assert lse.shape == shape, "lse must have shape (batch_size, num_head, seqlen_q)"
        lse = by_pointer(lse, shape)
        dq, dk, dv = (torch.full(x.shape, float("nan"), dtype=x.dtype) for x in (q, k, v))
        for at, of in documents(q, k, cu_seqlens_q, cu_seqlens_k):
            scores = _scores(q[at], k[of], left, right, softmax_scale, softcap)
            stats = lse[:, at] if packed else lse[at]
            shares = scores.backward(dout[at], v[of], out[at], stats)
            dq[at] = shares[0].to(q.dtype)
            dk[of], dv[of] = (summed(x, k.shape[-2]).to(q.dtype) for x in shares[1:])
        if any(dim % 32 for dim in dims):
            dq, dk, dv = (x.flip(0, 1) for x in (dq, dk, dv))
        return dq, dk, dv

    def _over_cache(self, q, k, v, starts, lengths, table, score):
        """Each entry as if it were alone; by TMA a tile is loaded whole."""
        over_cache.check_numbers(starts, lengths, table)
        by_token = table is not None and k.shape[1] != TILE
        irregular = any(x.shape[-1] % 16 for x in (k, v))
        assert not (by_token and irregular), "Paged KV does not support irregular head dim"
        out, lse = over_cache.results(q, v, starts)
        for entry, stop in enumerate(lengths.tolist()):
            own, at, of = over_cache.queries(q, starts, entry)
            where = over_cache.places(k, table, entry)
            keys, values = (over_cache.tokens(x, where, 0, stop) for x in (k, v))
            found, lse[of] = _scores(own, keys, *score).forward(values, float("-inf"))
            if not by_token and over_cache.behind(v, where, stop, TILE):
                found = found * float("nan")
            out[at] = found.to(q.dtype)
        return out, lse

    def _check(self, q, k, v, *others):
        check_addresses(q, k, v, *others)
        dim, dim_v = q.shape[-1], v.shape[-1]
        if self.architecture == 9:
            known = max(dim, dim_v) <= 256
        else:
            known = max(dim, dim_v) <= 128 or (dim, dim_v) in {(192, 128), (256, 256)}
        assert known, f"(head_dim, head_dim_v)=({dim}, {dim_v}) is not supported"
        assert not dim % 8, "and divisible by 8"
        assert not dim_v % 8, "and divisible by 8"


def _window(causal, left, right):
    """_resolve_causal_local_window."""
    if left is not None and right is not None and left < 0 and right < 0:
        left = right = None
    return left, 0 if causal else right


def _scores(q, k, left, right, scale, softcap):
    return Scores(q, k, band(q.shape[0], k.shape[0], left, right), scale, softcap or 0.0)
