"""A stand-in for flashinfer's two wrappers over pages: their arguments, on a CPU.

What is imitated is what flashinfer/decode.py and prefill.py take, and csrc's paging: an entry's
pages are indices[indptr[b] : indptr[b + 1]], the last of which holds last_page_len tokens.
"""

import torch

from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle


class _Wrapper:
    def __init__(self, workspace, layout, use_tensor_cores=False):
        assert workspace.dtype is torch.uint8
        assert not workspace.any(), "it must be zeros at first"
        assert layout == "NHD"
        self.use_tensor_cores = use_tensor_cores
        self.plans = 0

    def _planned(
        self, starts, indptr, indices, last, heads, key_heads, dim, size, causal, *, sm_scale,
        window_left, logits_soft_cap, q_data_type, kv_data_type,
    ):  # fmt: skip
        for x in (starts, indptr, indices, last):
            assert x.dtype is torch.int32
            assert x.dim() == 1
        assert len(indices) == indptr[-1]
        assert ((last >= 1) & (last <= size)).all()
        self.plans += 1
        self._told = starts, indptr.tolist(), indices.clone(), last.tolist(), size
        self._heads = heads, key_heads, dim
        self._mask = Mask.from_window_size(causal, (window_left, -1))
        self._score = Score(sm_scale, logits_soft_cap)
        self._dtypes = q_data_type, kv_data_type

    def run(self, q, pages, return_lse=False):
        assert not return_lse
        assert self.plans == 1
        k, v = pages
        starts, indptr, indices, last, size = self._told
        assert (q.shape[1], k.shape[2], q.shape[2]) == self._heads
        assert (q.dtype, k.dtype) == self._dtypes
        assert k.shape[1] == size
        parts = []
        for entry, length in enumerate(last):
            own = indices[indptr[entry] : indptr[entry + 1]].long()
            total = (len(own) - 1) * size + length
            keys, values = (x[own].flatten(0, 1)[None, :total] for x in (k, v))
            rows = q[None, starts[entry] : starts[entry + 1]]
            at = torch.arange(total - rows.shape[1], total)
            asked = oracle.Inquiry(at, torch.arange(total), self._mask, self._score)
            parts.append(oracle.forward(rows, keys, values, asked)[0][0])
        return torch.cat(parts).to(q.dtype)


class BatchDecodeWithPagedKVCacheWrapper(_Wrapper):
    """One query of each entry."""

    def plan(self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
             **options):  # fmt: skip
        starts = torch.arange(len(indptr), dtype=torch.int32)
        self._planned(
            starts, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim,
            page_size, False, **options,
        )  # fmt: skip


class BatchPrefillWithPagedKVCacheWrapper(_Wrapper):
    """Some queries of each entry, the last ones of it."""

    def plan(self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len,
             num_qo_heads, num_kv_heads, head_dim_qk, page_size, head_dim_vo=None, causal=False,
             **options):  # fmt: skip
        assert head_dim_vo is not None
        self._planned(
            qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads,
            num_kv_heads, head_dim_qk, page_size, causal, **options,
        )  # fmt: skip
